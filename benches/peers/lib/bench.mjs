// The three scenarios, the same for every Node.js peer. A peer hands `run` an object with:
//
//   name(args), package         what the result line says, and whose version it says
//   reset(args)                an empty queue with the peer's own schema
//   open(args)                 -> { enqueueBulk(n), enqueueOne(id), startWorkers(handler, mode),
//                                   unfinished(), close() }
//
// `handler(id)` is called at the start of each job. `unfinished()` is the number of jobs (or any
// number that is zero only then) that the store does not yet hold as completed.

import { fork } from "node:child_process";
import { readFileSync } from "node:fs";
import { parseArgs } from "node:util";

const PAUSE_MS = 20;
const WARM_UP_JOBS = 50;
// A run that has not ended by then has lost a job; it must fail and not hang the benchmark.
const LIMIT_MS = 900_000;

const sleep = (ms) => new Promise((done) => setTimeout(done, ms));
const seconds = (since) => (performance.now() - since) / 1000;
const round = (value, digits) => Number(value.toFixed(digits));

function readArgs(defaults) {
  const { values } = parseArgs({
    options: {
      scenario: { type: "string" },
      url: { type: "string" },
      count: { type: "string" },
      producers: { type: "string", default: "1" },
      concurrency: { type: "string", default: String(defaults.concurrency) },
      processes: { type: "string", default: String(defaults.processes) },
      rate: { type: "string" },
      worker: { type: "boolean", default: false },
    },
  });
  const positive = (name) => {
    const value = Number(values[name]);
    if (!(value > 0)) throw new Error(`--${name} must be a positive number`);
    return value;
  };
  if (!values.url) throw new Error("--url is missing");
  return {
    scenario: values.scenario,
    url: values.url,
    count: positive("count"),
    producers: positive("producers"),
    concurrency: positive("concurrency"),
    processes: positive("processes"),
    rate: values.rate === undefined ? undefined : positive("rate"),
    worker: values.worker,
  };
}

function percentile(sorted, share) {
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))];
}

// Worker processes are started and connected before any clock runs, so that no peer pays for the
// start of Node.js; the clock starts with the word "go".
async function startWorkerProcesses(args) {
  const workers = [];
  let handled = 0;
  for (let index = 0; index < args.processes; index += 1) {
    const child = fork(process.argv[1], [...process.argv.slice(2), "--worker"], {
      stdio: ["ignore", "inherit", "inherit", "ipc"],
    });
    const counts = { handled: 0 };
    const ready = new Promise((done, fail) => {
      child.once("exit", (code) => fail(new Error(`a worker process ended with ${code}`)));
      child.on("message", (message) => {
        if (message === "ready") done();
        else {
          handled += message.handled - counts.handled;
          counts.handled = message.handled;
        }
      });
    });
    workers.push({ child, ready });
  }
  await Promise.all(workers.map((worker) => worker.ready));
  return {
    handled: () => handled,
    go: () => workers.forEach(({ child }) => child.send("go")),
    stop: () =>
      Promise.all(
        workers.map(({ child }) => {
          const ended = new Promise((done) => child.once("exit", done));
          child.send("stop");
          return ended;
        }),
      ),
  };
}

async function workerProcess(peer, args) {
  const queue = await peer.open(args);
  let handled = 0;
  let told = 0;
  const tell = setInterval(() => {
    if (handled !== told) process.send({ handled: (told = handled) });
  }, 5);
  let stopWorkers;
  process.on("message", async (message) => {
    if (message === "go") {
      stopWorkers = await queue.startWorkers(() => (handled += 1), "drain");
    } else {
      clearInterval(tell);
      await stopWorkers?.();
      await queue.close();
      process.exit(0);
    }
  });
  process.on("disconnect", () => process.exit(1));
  process.send("ready");
}

async function drain(peer, args) {
  await peer.reset(args);
  const queue = await peer.open(args);
  const workers = await startWorkerProcesses(args);

  const start = performance.now();
  await queue.enqueueBulk(args.count);
  const enqueued = seconds(start);
  const before = await queue.unfinished();
  if (!before) throw new Error("nothing is queued after the bulk enqueue");

  const drainStart = performance.now();
  workers.go();
  // Asking the store costs it work, so it is asked only once every handler has run.
  while (workers.handled() < args.count) {
    if (performance.now() - drainStart > LIMIT_MS) {
      throw new Error(`only ${workers.handled()} of ${args.count} jobs started in time`);
    }
    await sleep(2);
  }
  while ((await queue.unfinished()) > 0) {
    if (performance.now() - drainStart > LIMIT_MS) throw new Error("some jobs never completed");
    await sleep(2);
  }
  const drained = seconds(drainStart);
  await workers.stop();
  await queue.close();
  return {
    processes: args.processes,
    concurrency: args.concurrency,
    enqueue_seconds: round(enqueued, 4),
    drain_seconds: round(drained, 4),
    total_seconds: round(enqueued + drained, 4),
    per_second: Math.round(args.count / (enqueued + drained)),
  };
}

async function enqueue(peer, args) {
  await peer.reset(args);
  const queue = await peer.open(args);
  // Opens every producer's connection and fills statement caches outside the clock.
  await Promise.all(Array.from({ length: args.producers }, (_, id) => queue.enqueueOne(-1 - id)));

  let next = 0;
  const start = performance.now();
  await Promise.all(
    Array.from({ length: args.producers }, async () => {
      while (next < args.count) await queue.enqueueOne(next++);
    }),
  );
  const taken = seconds(start);
  await queue.close();
  return {
    producers: args.producers,
    seconds: round(taken, 4),
    per_second: Math.round(args.count / taken),
  };
}

async function latency(peer, args) {
  await peer.reset(args);
  const queue = await peer.open(args);
  const sent = new Map();
  const waiting = new Map();
  const measured = [];
  const stopWorkers = await queue.startWorkers((id) => {
    const at = performance.now();
    const since = sent.get(id);
    if (since === undefined) return;
    sent.delete(id);
    if (id >= 0) measured.push(at - since);
    waiting.get(id)?.();
    waiting.delete(id);
  }, "latency");
  await sleep(1000);

  const one = async (id) => {
    const started = new Promise((done) => waiting.set(id, done));
    sent.set(id, performance.now());
    await queue.enqueueOne(id);
    await started;
  };
  for (let id = 1; id <= WARM_UP_JOBS; id += 1) await one(-id);

  if (args.rate === undefined) {
    for (let id = 0; id < args.count; id += 1) {
      await sleep(PAUSE_MS);
      await one(id);
    }
  } else {
    // An open loop: a slow answer never delays the next job.
    const running = [];
    const start = performance.now();
    for (let id = 0; id < args.count; ) {
      const due = Math.min(args.count, Math.floor(((performance.now() - start) / 1000) * args.rate));
      while (id < due) running.push(one(id++));
      await new Promise((done) => (args.rate > 500 ? setImmediate(done) : setTimeout(done, 1)));
    }
    await Promise.all(running);
  }
  await stopWorkers();
  await queue.close();
  measured.sort((a, b) => a - b);
  return {
    rate: args.rate ?? null,
    p50_ms: round(percentile(measured, 0.5), 3),
    p99_ms: round(percentile(measured, 0.99), 3),
  };
}

// Read from the file, as a package may keep package.json out of its exports.
function versionOf(name) {
  const path = new URL(`../node_modules/${name}/package.json`, import.meta.url);
  return JSON.parse(readFileSync(path, "utf8")).version;
}

/// Runs the scenario of the command line and prints its one result line.
export async function run(peer, defaults) {
  const args = readArgs(defaults);
  if (args.worker) return workerProcess(peer, args);
  const scenario = { drain, enqueue, latency }[args.scenario];
  if (!scenario) throw new Error("--scenario must be drain, enqueue or latency");
  const limit = setTimeout(() => {
    console.error(`no result after ${LIMIT_MS / 1000} s`);
    process.exit(1);
  }, LIMIT_MS);
  const result = await scenario(peer, args);
  clearTimeout(limit);
  console.log(
    JSON.stringify({
      peer: peer.name(args),
      version: versionOf(peer.package),
      scenario: args.scenario,
      count: args.count,
      ...result,
    }),
  );
  process.exit(0);
}

/// Connections a process opens: one per producer where producers are measured.
export function poolSize(args, workers) {
  return args.scenario === "enqueue" ? args.producers : workers;
}
