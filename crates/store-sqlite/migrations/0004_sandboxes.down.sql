DROP TABLE sandbox_usage;
DROP TABLE hosts;
ALTER TABLE sandboxes DROP COLUMN used_at;
ALTER TABLE sandboxes DROP COLUMN paused;
ALTER TABLE sandboxes DROP COLUMN host;
ALTER TABLE pools DROP COLUMN refill_burst;
ALTER TABLE pools DROP COLUMN refill_per_minute;
ALTER TABLE pools DROP COLUMN start_concurrency;
