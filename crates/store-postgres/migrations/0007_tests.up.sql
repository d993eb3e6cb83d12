-- A class belongs to one tenant. What was one class of several tenants stays with the one that has most of its runs, and
-- the others get classes of their own.
ALTER TABLE run_classes ADD COLUMN tenant_id TEXT COLLATE "C";
ALTER TABLE run_classes DROP CONSTRAINT run_classes_requirements_key;
CREATE TABLE class_uses AS
    SELECT class_id, tenant_id, row_number() OVER (PARTITION BY class_id ORDER BY count(*) DESC, tenant_id) AS place
    FROM runs GROUP BY class_id, tenant_id;
UPDATE run_classes c SET tenant_id = u.tenant_id FROM class_uses u WHERE u.class_id = c.id AND u.place = 1;
DELETE FROM run_classes WHERE tenant_id IS NULL;
INSERT INTO run_classes (tenant_id, requirements)
    SELECT u.tenant_id, c.requirements FROM class_uses u JOIN run_classes c ON c.id = u.class_id WHERE u.place > 1;
DROP TABLE class_uses;
ALTER TABLE run_classes ALTER COLUMN tenant_id SET NOT NULL;
ALTER TABLE run_classes ADD UNIQUE (tenant_id, requirements);
UPDATE runs r SET class_id = n.id FROM run_classes o JOIN run_classes n ON n.requirements = o.requirements
    WHERE o.id = r.class_id AND o.tenant_id <> r.tenant_id AND n.tenant_id = r.tenant_id;
UPDATE run_ready q SET class_id = r.class_id FROM runs r WHERE r.seq = q.seq AND r.class_id <> q.class_id;
UPDATE run_delayed q SET class_id = r.class_id FROM runs r WHERE r.seq = q.seq AND r.class_id <> q.class_id;
UPDATE run_active q SET class_id = r.class_id FROM runs r WHERE r.seq = q.seq AND r.class_id <> q.class_id;

-- `held` is how it was submitted; whether it still waits to be released is said by run_delayed, by no `not_before` at all.
ALTER TABLE runs ADD COLUMN plan_id TEXT COLLATE "C",
    ADD COLUMN held BIGINT NOT NULL DEFAULT 0 CHECK (held IN (0, 1));
CREATE INDEX runs_plan ON runs (plan_id, seq) WHERE plan_id IS NOT NULL;
CREATE INDEX runs_held ON runs (plan_id, seq) WHERE held = 1;
ALTER TABLE run_delayed ALTER COLUMN not_before DROP NOT NULL;
-- So they were kept when these migrations were last taken back.
UPDATE run_delayed SET not_before = NULL WHERE not_before = 9223372036854775807
    AND (SELECT r.not_before FROM runs r WHERE r.seq = run_delayed.seq) IS NULL;
ALTER TABLE run_active ADD COLUMN plan_id TEXT COLLATE "C";
CREATE INDEX run_active_plan ON run_active (plan_id) WHERE plan_id IS NOT NULL;
-- `superseded` says that another run of the same test takes the place of this one.
ALTER TABLE run_ends ADD COLUMN plan_id TEXT COLLATE "C",
    ADD COLUMN superseded BIGINT NOT NULL DEFAULT 0 CHECK (superseded IN (0, 1)),
    DROP CONSTRAINT run_ends_status_check,
    ADD CONSTRAINT run_ends_status_check
        CHECK (status IN ('succeeded', 'failed', 'timed_out', 'cancelled', 'lost', 'skipped'));
-- For the counts of a plan, which need nothing but this index.
CREATE INDEX run_ends_plan ON run_ends (plan_id, superseded, status) WHERE plan_id IS NOT NULL;
ALTER TABLE run_counts ADD COLUMN skipped BIGINT NOT NULL DEFAULT 0;

CREATE TABLE plans (
    id TEXT COLLATE "C" PRIMARY KEY,
    tenant_id TEXT COLLATE "C" NOT NULL REFERENCES tenants (id) ON DELETE CASCADE,
    name TEXT COLLATE "C" NOT NULL,
    project_id TEXT COLLATE "C",
    branch TEXT COLLATE "C",
    fail_fast BIGINT NOT NULL CHECK (fail_fast IN (0, 1)),
    max_parallel BIGINT CHECK (max_parallel >= 1),
    labels TEXT COLLATE "C" NOT NULL,
    tests BIGINT NOT NULL CHECK (tests >= 0),
    ordered BIGINT NOT NULL CHECK (ordered IN (0, 1)),
    cancel_requested BIGINT NOT NULL CHECK (cancel_requested IN (0, 1)),
    created_by TEXT COLLATE "C",
    created_at BIGINT NOT NULL,
    finished_at BIGINT,
    first_event BIGINT NOT NULL,
    version BIGINT NOT NULL
);
CREATE INDEX plans_tenant ON plans (tenant_id, id);
CREATE INDEX plans_project ON plans (project_id, id) WHERE project_id IS NOT NULL;
CREATE INDEX plans_open ON plans (id) WHERE finished_at IS NULL;

-- What became of each run of a test, beyond the life of its plan.
CREATE TABLE test_results (
    run_id TEXT COLLATE "C" PRIMARY KEY,
    tenant_id TEXT COLLATE "C" NOT NULL REFERENCES tenants (id) ON DELETE CASCADE,
    key TEXT COLLATE "C" NOT NULL,
    plan_id TEXT COLLATE "C" NOT NULL,
    plan TEXT COLLATE "C" NOT NULL,
    name TEXT COLLATE "C" NOT NULL,
    ordinal BIGINT NOT NULL CHECK (ordinal >= 1),
    status TEXT COLLATE "C" NOT NULL
        CHECK (status IN ('succeeded', 'failed', 'timed_out', 'cancelled', 'lost', 'skipped')),
    tolerated BIGINT NOT NULL CHECK (tolerated IN (0, 1)),
    superseded BIGINT NOT NULL CHECK (superseded IN (0, 1)),
    flaky BIGINT NOT NULL CHECK (flaky IN (0, 1)),
    duration_us BIGINT NOT NULL,
    cpu_us BIGINT NOT NULL,
    peak_memory_bytes BIGINT NOT NULL,
    revision TEXT COLLATE "C",
    created_at BIGINT NOT NULL
);
CREATE INDEX test_results_key ON test_results (tenant_id, key, created_at DESC);
CREATE INDEX test_results_plan ON test_results (plan_id);
CREATE INDEX test_results_at ON test_results (created_at);

-- Tests whose failures count for nothing.
CREATE TABLE quarantined_tests (
    tenant_id TEXT COLLATE "C" NOT NULL REFERENCES tenants (id) ON DELETE CASCADE,
    key TEXT COLLATE "C" NOT NULL,
    plan TEXT COLLATE "C" NOT NULL,
    name TEXT COLLATE "C" NOT NULL,
    reason TEXT COLLATE "C" NOT NULL,
    created_by TEXT COLLATE "C",
    created_at BIGINT NOT NULL,
    PRIMARY KEY (tenant_id, key)
);

-- Files that tests left. Their tenant stays until they are removed, with what they stand for.
CREATE TABLE artifacts (
    id TEXT COLLATE "C" PRIMARY KEY,
    tenant_id TEXT COLLATE "C" NOT NULL REFERENCES tenants (id),
    run_id TEXT COLLATE "C" NOT NULL,
    plan_id TEXT COLLATE "C",
    path TEXT COLLATE "C" NOT NULL,
    bytes BIGINT NOT NULL CHECK (bytes >= 0),
    sha256 TEXT COLLATE "C" NOT NULL,
    object TEXT COLLATE "C" NOT NULL,
    created_at BIGINT NOT NULL,
    expires_at BIGINT,
    UNIQUE (run_id, path)
);
CREATE INDEX artifacts_tenant ON artifacts (tenant_id, id);
CREATE INDEX artifacts_plan ON artifacts (plan_id, id) WHERE plan_id IS NOT NULL;
CREATE INDEX artifacts_object ON artifacts (object);
CREATE INDEX artifacts_expiry ON artifacts (created_at);

DO $$
DECLARE
    name TEXT;
BEGIN
    FOREACH name IN ARRAY ARRAY['plans', 'test_results', 'quarantined_tests', 'artifacts'] LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', name);
        EXECUTE format(
            'CREATE POLICY tenant ON %I USING (tenant_id = current_setting(''ostler.tenant'', true))', name);
    END LOOP;
END $$;
