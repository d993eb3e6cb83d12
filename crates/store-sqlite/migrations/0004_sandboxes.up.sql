ALTER TABLE pools ADD COLUMN start_concurrency INTEGER NOT NULL DEFAULT 2 CHECK (start_concurrency >= 1);
ALTER TABLE pools ADD COLUMN refill_per_minute INTEGER NOT NULL DEFAULT 60 CHECK (refill_per_minute >= 1);
ALTER TABLE pools ADD COLUMN refill_burst INTEGER NOT NULL DEFAULT 20 CHECK (refill_burst >= 1);

ALTER TABLE sandboxes ADD COLUMN host TEXT NOT NULL DEFAULT 'local';
ALTER TABLE sandboxes ADD COLUMN paused TEXT CHECK (paused IN ('holder', 'idle'));
ALTER TABLE sandboxes ADD COLUMN used_at INTEGER;

CREATE TABLE hosts (
    id TEXT PRIMARY KEY NOT NULL,
    server_id TEXT NOT NULL,
    driver TEXT NOT NULL,
    name TEXT NOT NULL,
    failures INTEGER NOT NULL CHECK (failures >= 0),
    last_error TEXT,
    quarantined_until INTEGER,
    draining INTEGER NOT NULL CHECK (draining IN (0, 1)),
    version INTEGER NOT NULL
) STRICT;

CREATE TABLE sandbox_usage (
    sandbox_id TEXT NOT NULL,
    at INTEGER NOT NULL,
    tenant_id TEXT REFERENCES tenants (id) ON DELETE CASCADE,
    cpu_us INTEGER,
    memory_bytes INTEGER,
    read_bytes INTEGER,
    written_bytes INTEGER,
    received_bytes INTEGER,
    sent_bytes INTEGER,
    processes INTEGER,
    PRIMARY KEY (sandbox_id, at)
) STRICT;
CREATE INDEX sandbox_usage_at ON sandbox_usage (at);
CREATE INDEX sandbox_usage_tenant ON sandbox_usage (tenant_id) WHERE tenant_id IS NOT NULL;
