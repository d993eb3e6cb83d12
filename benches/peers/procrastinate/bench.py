"""procrastinate on PostgreSQL.

Drain: `batch_defer_async` in calls of 10,000; the worker with high concurrency, completed jobs
deleted (`delete_jobs="always"`), in one or more processes. Latency: LISTEN/NOTIFY, its default.
Producers share one event loop and have a connection each.
"""

import argparse
import asyncio
import json
import logging
import math
import multiprocessing
import time
from importlib.metadata import version

import psycopg
from procrastinate import App, PsycopgConnector

PAUSE_SECONDS = 0.02
WARM_UP_JOBS = 50
LIMIT_SECONDS = 900
DEFER_CHUNK = 10_000


# Not even made for the records nobody reads: logging every job would slow the peer down.
logging.getLogger("procrastinate").setLevel(logging.ERROR)


def build_app(url, connections, handler):
    app = App(connector=PsycopgConnector(conninfo=url, min_size=connections, max_size=connections))

    @app.task(name="noop")
    async def noop(id):
        handler(id)

    return app, noop


def reset(url):
    """An empty queue: the schema is the peer's own, in a database that holds nothing else."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("drop schema public cascade")
        connection.execute("create schema public")


async def apply_schema(url):
    app, _ = build_app(url, 1, lambda _id: None)
    async with app.open_async():
        await app.schema_manager.apply_schema_async()


def work(app, concurrency, **options):
    return asyncio.create_task(
        app.run_worker_async(
            concurrency=concurrency,
            install_signal_handlers=False,
            delete_jobs="always",
            **options,
        )
    )


async def stop(worker):
    worker.cancel()
    await asyncio.gather(worker, return_exceptions=True)


def worker_process(url, concurrency, ready, go, done, handled):
    """One worker process of the drain; it connects first and works once `go` is set."""

    def count(_id):
        with handled.get_lock():
            handled.value += 1

    async def main():
        app, _ = build_app(url, min(concurrency, 20) + 1, count)
        async with app.open_async():
            ready.release()
            await asyncio.to_thread(go.wait)
            worker = work(app, concurrency)
            await asyncio.to_thread(done.wait)
            await stop(worker)

    asyncio.run(main())


async def drain(args):
    context = multiprocessing.get_context("spawn")
    ready, go, done = context.Semaphore(0), context.Event(), context.Event()
    handled = context.Value("q", 0)
    processes = [
        context.Process(
            target=worker_process,
            args=(args.url, args.concurrency, ready, go, done, handled),
            daemon=True,
        )
        for _ in range(args.processes)
    ]
    for process in processes:
        process.start()
    for _ in processes:
        await asyncio.to_thread(ready.acquire)

    app, noop = build_app(args.url, 1, lambda _id: None)
    async with app.open_async():
        start = time.perf_counter()
        for begin in range(0, args.count, DEFER_CHUNK):
            end = min(args.count, begin + DEFER_CHUNK)
            await noop.batch_defer_async(*({"id": id} for id in range(begin, end)))
        enqueued = time.perf_counter() - start

        drain_start = time.perf_counter()
        go.set()
        # Asking the store costs it work, so it is asked only once every handler has run.
        while handled.value < args.count:
            await asyncio.sleep(0.002)
        with psycopg.connect(args.url, autocommit=True) as connection:
            while connection.execute(
                "select exists (select 1 from procrastinate_jobs)"
            ).fetchone()[0]:
                await asyncio.sleep(0.002)
        drained = time.perf_counter() - drain_start
    done.set()
    for process in processes:
        await asyncio.to_thread(process.join)
    return {
        "processes": args.processes,
        "concurrency": args.concurrency,
        "enqueue_seconds": round(enqueued, 4),
        "drain_seconds": round(drained, 4),
        "total_seconds": round(enqueued + drained, 4),
        "per_second": round(args.count / (enqueued + drained)),
    }


async def enqueue(args):
    app, noop = build_app(args.url, args.producers, lambda _id: None)
    async with app.open_async():
        # Fills every connection's statement cache outside the clock.
        await asyncio.gather(*(noop.defer_async(id=-1) for _ in range(args.producers)))
        ids = iter(range(args.count))

        async def produce():
            for id in ids:
                await noop.defer_async(id=id)

        start = time.perf_counter()
        await asyncio.gather(*(produce() for _ in range(args.producers)))
        taken = time.perf_counter() - start
    return {
        "producers": args.producers,
        "seconds": round(taken, 4),
        "per_second": round(args.count / taken),
    }


async def latency(args):
    sent, waiting, measured = {}, {}, []

    def started(id):
        now = time.perf_counter()
        if id >= 0:
            measured.append((now - sent.pop(id)) * 1000)
        waiting.pop(id).set_result(None)

    app, noop = build_app(args.url, min(args.concurrency, 20) + 2, started)
    loop = asyncio.get_running_loop()

    async def one(id):
        waiting[id] = future = loop.create_future()
        sent[id] = time.perf_counter()
        await noop.defer_async(id=id)
        await future

    async with app.open_async():
        worker = work(app, args.concurrency)
        await asyncio.sleep(1)
        for id in range(1, WARM_UP_JOBS + 1):
            await one(-id)
        if args.rate is None:
            for id in range(args.count):
                await asyncio.sleep(PAUSE_SECONDS)
                await one(id)
        else:
            # An open loop: a slow answer never delays the next job.
            running, start = [], time.perf_counter()
            while len(running) < args.count:
                due = min(args.count, math.floor((time.perf_counter() - start) * args.rate))
                running += [loop.create_task(one(id)) for id in range(len(running), due)]
                await asyncio.sleep(0.001)
            await asyncio.gather(*running)
        await stop(worker)
    measured.sort()

    def percentile(share):
        return round(measured[min(len(measured) - 1, math.floor(len(measured) * share))], 3)

    return {"rate": args.rate, "p50_ms": percentile(0.5), "p99_ms": percentile(0.99)}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--scenario", required=True, choices=["drain", "enqueue", "latency"])
    parser.add_argument("--url", required=True)
    parser.add_argument("--count", required=True, type=int)
    parser.add_argument("--producers", type=int, default=1)
    parser.add_argument("--concurrency", type=int, default=100)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--rate", type=float)
    args = parser.parse_args()

    async def bounded():
        await apply_schema(args.url)
        scenario = {"drain": drain, "enqueue": enqueue, "latency": latency}[args.scenario]
        return await asyncio.wait_for(scenario(args), LIMIT_SECONDS)

    reset(args.url)
    result = asyncio.run(bounded())
    print(
        json.dumps(
            {
                "peer": "procrastinate",
                "version": version("procrastinate"),
                "scenario": args.scenario,
                "count": args.count,
                **result,
            }
        )
    )


if __name__ == "__main__":
    main()
