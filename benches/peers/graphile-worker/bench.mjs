// graphile-worker on PostgreSQL.
//
// Drain: the settings of the project's own performance test and documentation: 24 jobs at once, a
// local queue of 500, completions batched without delay, jobs added by one `add_jobs` call.
// Latency: no local queue and no batching, the defaults, which the documentation recommends where
// latency matters; a job is announced by NOTIFY.

import { Logger, makeWorkerUtils, run as runWorker } from "graphile-worker";
import pg from "pg";
import { poolSize, run } from "../lib/bench.mjs";

const TASK = "noop";
const quiet = new Logger(() => () => {});

function preset(args, mode) {
  return {
    worker: {
      concurrentJobs: args.concurrency,
      ...(mode === "drain" && {
        localQueue: { size: 500, refetchDelay: { durationMs: 10 } },
        completeJobBatchDelay: 0,
        failJobBatchDelay: 0,
      }),
    },
  };
}

await run(
  {
    name: () => "graphile-worker",
    package: "graphile-worker",

    async reset(args) {
      const client = new pg.Client({ connectionString: args.url });
      await client.connect();
      await client.query("drop schema if exists graphile_worker cascade");
      await client.end();
      const utils = await makeWorkerUtils({ connectionString: args.url, logger: quiet });
      await utils.migrate();
      await utils.release();
    },

    async open(args) {
      const pgPool = new pg.Pool({
        connectionString: args.url,
        max: poolSize(args, args.concurrency + 2),
      });
      pgPool.on("error", (error) => console.error(error));
      pgPool.on("connect", (client) => client.on("error", (error) => console.error(error)));
      const utils = await makeWorkerUtils({ pgPool, logger: quiet });
      return {
        enqueueBulk: (count) =>
          utils.addJobs(
            Array.from({ length: count }, (_, id) => ({ identifier: TASK, payload: { id } })),
          ),
        enqueueOne: (id) => utils.addJob(TASK, { id }),
        async startWorkers(handler, mode) {
          const runner = await runWorker({
            preset: preset(args, mode),
            pgPool,
            logger: quiet,
            noHandleSignals: true,
            parsedCronItems: [],
            taskList: { [TASK]: (payload) => void handler(payload.id) },
          });
          return () => runner.stop();
        },
        // A completed job's row is deleted.
        async unfinished() {
          const { rows } = await pgPool.query(
            "select exists (select 1 from graphile_worker._private_jobs)::int as some",
          );
          return rows[0].some;
        },
        async close() {
          await utils.release();
          await pgPool.end();
        },
      };
    },
  },
  { concurrency: 24, processes: 2 },
);
