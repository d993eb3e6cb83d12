// BullMQ on Redis (redis://…), and on PostgreSQL (postgres://…), the backend it has since 6.
//
// Drain: `addBulk` in calls of 5,000, workers with high concurrency. Completed jobs are removed,
// the usual production setting, which spares the store from growing.
// Enqueue and latency: `add`, one connection (Redis) or one per producer (PostgreSQL).
// The caller starts the store; on Redis with `appendonly yes` and `appendfsync everysec` an
// enqueue is answered before it is on disk, so the figures there are not those of a durable enqueue.

import { createPostgresBackend, Queue, Worker } from "bullmq";
import pg from "pg";
import { poolSize, run } from "../lib/bench.mjs";

const QUEUE = "noop";
const ADD_CHUNK = 5000;

const onPostgres = (args) => args.url.startsWith("postgres");

function store(args) {
  if (!onPostgres(args)) {
    const url = new URL(args.url);
    const connection = {
      host: url.hostname,
      port: Number(url.port || 6379),
      db: Number(url.pathname.slice(1) || 0),
      maxRetriesPerRequest: null,
    };
    return [{ connection }];
  }
  const connection = {
    connectionString: args.url,
    migrate: true,
    max: poolSize(args, Math.min(args.concurrency, 20)),
  };
  return [{ connection }, createPostgresBackend];
}

const jobOptions = { removeOnComplete: true, removeOnFail: true };

await run(
  {
    name: (args) => (onPostgres(args) ? "bullmq-postgres" : "bullmq"),
    package: "bullmq",

    async reset(args) {
      if (onPostgres(args)) {
        const client = new pg.Client({ connectionString: args.url });
        await client.connect();
        await client.query("drop schema if exists bullmq cascade");
        await client.end();
      }
      const queue = new Queue(QUEUE, ...store(args));
      await queue.waitUntilReady();
      await queue.obliterate({ force: true });
      await queue.close();
    },

    async open(args) {
      const [options, backend] = store(args);
      const queue = new Queue(QUEUE, { ...options, defaultJobOptions: jobOptions }, backend);
      await queue.waitUntilReady();
      return {
        async enqueueBulk(count) {
          for (let from = 0; from < count; from += ADD_CHUNK) {
            const length = Math.min(ADD_CHUNK, count - from);
            await queue.addBulk(
              Array.from({ length }, (_, index) => ({ name: QUEUE, data: { id: from + index } })),
            );
          }
        },
        enqueueOne: (id) => queue.add(QUEUE, { id }),
        async startWorkers(handler) {
          const worker = new Worker(
            QUEUE,
            async (job) => void handler(job.data.id),
            { ...options, concurrency: args.concurrency },
            backend,
          );
          worker.on("error", (error) => console.error(error));
          await worker.waitUntilReady();
          return () => worker.close();
        },
        async unfinished() {
          const counts = await queue.getJobCounts("waiting", "active", "prioritized", "delayed");
          return Object.values(counts).reduce((sum, count) => sum + count, 0);
        },
        close: () => queue.close(),
      };
    },
  },
  { concurrency: 100, processes: 1 },
);
