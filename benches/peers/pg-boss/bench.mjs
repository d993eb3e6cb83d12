// pg-boss on PostgreSQL.
//
// Drain: jobs inserted in statements of 10,000; four workers fetch and complete batches and fetch again
// at once while batches are full (`burstWhenBatchFull`); no supervision beside the measured work.
// Latency: LISTEN/NOTIFY on, single jobs, the lowest polling interval as the backstop.

import pg from "pg";
import { PgBoss } from "pg-boss";
import { poolSize, run } from "../lib/bench.mjs";

const QUEUE = "noop";
const INSERT_CHUNK = 10_000;
const BATCH = 1000;

async function start(args) {
  const boss = new PgBoss({
    connectionString: args.url,
    max: poolSize(args, args.concurrency + 2),
    supervise: false,
    schedule: false,
    useListenNotify: args.scenario === "latency",
  });
  boss.on("error", (error) => console.error(error));
  await boss.start();
  return boss;
}

await run(
  {
    name: () => "pg-boss",
    package: "pg-boss",

    async reset(args) {
      const client = new pg.Client({ connectionString: args.url });
      await client.connect();
      await client.query("drop schema if exists pgboss cascade");
      await client.end();
      const boss = await start(args);
      await boss.createQueue(QUEUE, { notify: args.scenario === "latency" });
      await boss.stop({ graceful: false });
    },

    async open(args) {
      const boss = await start(args);
      return {
        async enqueueBulk(count) {
          for (let from = 0; from < count; from += INSERT_CHUNK) {
            const length = Math.min(INSERT_CHUNK, count - from);
            await boss.insert(
              QUEUE,
              Array.from({ length }, (_, index) => ({ data: { id: from + index } })),
            );
          }
        },
        enqueueOne: (id) => boss.send(QUEUE, { id }),
        async startWorkers(handler, mode) {
          const options =
            mode === "drain"
              ? {
                  batchSize: BATCH,
                  burstWhenBatchFull: true,
                  pollingIntervalSeconds: 0.5,
                  localConcurrency: args.concurrency,
                }
              : { batchSize: 1, pollingIntervalSeconds: 0.5, localConcurrency: args.concurrency };
          await boss.work(QUEUE, options, async (jobs) => {
            for (const job of jobs) handler(job.data.id);
          });
          return () => boss.offWork(QUEUE);
        },
        async unfinished() {
          const { rows } = await boss
            .getDb()
            .executeSql(
              "select exists (select 1 from pgboss.job where name = $1 and state <> 'completed')::int as some",
              [QUEUE],
            );
          return rows[0].some;
        },
        close: () => boss.stop({ graceful: false }),
      };
    },
  },
  { concurrency: 4, processes: 1 },
);
