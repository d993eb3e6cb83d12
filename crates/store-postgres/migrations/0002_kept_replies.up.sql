CREATE TABLE kept_replies (
    id TEXT COLLATE "C" PRIMARY KEY,
    tenant_id TEXT COLLATE "C" NOT NULL REFERENCES tenants (id) ON DELETE CASCADE,
    run_id TEXT COLLATE "C" NOT NULL,
    stdout TEXT COLLATE "C" NOT NULL,
    stderr TEXT COLLATE "C" NOT NULL,
    code BIGINT NOT NULL,
    created_at BIGINT NOT NULL
);
CREATE INDEX kept_replies_tenant ON kept_replies (tenant_id);
CREATE INDEX kept_replies_run ON kept_replies (run_id);
ALTER TABLE kept_replies ENABLE ROW LEVEL SECURITY;
CREATE POLICY tenant ON kept_replies USING (tenant_id = current_setting('ostler.tenant', true));
