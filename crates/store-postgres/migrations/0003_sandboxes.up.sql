ALTER TABLE pools ADD COLUMN start_concurrency BIGINT NOT NULL DEFAULT 2 CHECK (start_concurrency >= 1);
ALTER TABLE pools ADD COLUMN refill_per_minute BIGINT NOT NULL DEFAULT 60 CHECK (refill_per_minute >= 1);
ALTER TABLE pools ADD COLUMN refill_burst BIGINT NOT NULL DEFAULT 20 CHECK (refill_burst >= 1);

ALTER TABLE sandboxes ADD COLUMN host TEXT COLLATE "C" NOT NULL DEFAULT 'local';
ALTER TABLE sandboxes ADD COLUMN paused TEXT COLLATE "C" CHECK (paused IN ('holder', 'idle'));
ALTER TABLE sandboxes ADD COLUMN used_at BIGINT;

CREATE TABLE hosts (
    id TEXT COLLATE "C" PRIMARY KEY,
    server_id TEXT COLLATE "C" NOT NULL,
    driver TEXT COLLATE "C" NOT NULL,
    name TEXT COLLATE "C" NOT NULL,
    failures BIGINT NOT NULL CHECK (failures >= 0),
    last_error TEXT COLLATE "C",
    quarantined_until BIGINT,
    draining BIGINT NOT NULL CHECK (draining IN (0, 1)),
    version BIGINT NOT NULL
);

CREATE TABLE sandbox_usage (
    sandbox_id TEXT COLLATE "C" NOT NULL,
    at BIGINT NOT NULL,
    tenant_id TEXT COLLATE "C" REFERENCES tenants (id) ON DELETE CASCADE,
    cpu_us BIGINT,
    memory_bytes BIGINT,
    read_bytes BIGINT,
    written_bytes BIGINT,
    received_bytes BIGINT,
    sent_bytes BIGINT,
    processes BIGINT,
    PRIMARY KEY (sandbox_id, at)
);
CREATE INDEX sandbox_usage_at ON sandbox_usage (at);
CREATE INDEX sandbox_usage_tenant ON sandbox_usage (tenant_id) WHERE tenant_id IS NOT NULL;

ALTER TABLE sandbox_usage ENABLE ROW LEVEL SECURITY;
CREATE POLICY tenant ON sandbox_usage USING (tenant_id = current_setting('ostler.tenant', true));
