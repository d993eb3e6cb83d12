CREATE TABLE kept_replies (
    id TEXT PRIMARY KEY NOT NULL,
    tenant_id TEXT NOT NULL REFERENCES tenants (id) ON DELETE CASCADE,
    run_id TEXT NOT NULL,
    stdout TEXT NOT NULL,
    stderr TEXT NOT NULL,
    code INTEGER NOT NULL,
    created_at INTEGER NOT NULL
) STRICT;
CREATE INDEX kept_replies_tenant ON kept_replies (tenant_id);
CREATE INDEX kept_replies_run ON kept_replies (run_id);
