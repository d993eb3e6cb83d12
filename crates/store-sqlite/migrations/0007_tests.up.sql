-- A class belongs to one tenant. What was one class of several tenants becomes several.
CREATE TABLE run_classes_new (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    tenant_id TEXT NOT NULL,
    requirements TEXT NOT NULL,
    UNIQUE (tenant_id, requirements)
) STRICT;
INSERT INTO run_classes_new (tenant_id, requirements)
    SELECT DISTINCT r.tenant_id, c.requirements FROM runs r JOIN run_classes c ON c.id = r.class_id;

-- What changes stands before what is long, so that a change does not have to walk over the text.
CREATE TABLE runs_new (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL,
    class_id INTEGER NOT NULL REFERENCES run_classes_new (id),
    priority INTEGER NOT NULL,
    status TEXT NOT NULL
        CHECK (status IN ('queued', 'running', 'succeeded', 'failed', 'timed_out', 'cancelled', 'lost', 'skipped')),
    -- Why it waits, while it is queued: 0 for its turn, 1 for its not_before (the claim that finds it due makes it 0),
    -- 2 to be released.
    delayed INTEGER NOT NULL CHECK (delayed IN (0, 1, 2)),
    not_before INTEGER,
    -- Starts so far: the fence, never lowered. Those that did not count against max_attempts are in `uncounted`.
    attempt INTEGER NOT NULL,
    uncounted INTEGER NOT NULL,
    max_attempts INTEGER NOT NULL,
    cancel_requested INTEGER NOT NULL CHECK (cancel_requested IN (0, 1)),
    -- Whether another run of the same test takes its place.
    superseded INTEGER NOT NULL DEFAULT 0 CHECK (superseded IN (0, 1)),
    server_id TEXT,
    sandbox_id TEXT,
    started_at INTEGER,
    finished_at INTEGER,
    tenant_id TEXT NOT NULL,
    kind TEXT NOT NULL CHECK (kind IN ('command', 'planner', 'worker', 'check', 'test')),
    project_id TEXT,
    task_id TEXT,
    subtask_id TEXT,
    plan_id TEXT,
    ordinal INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    outcome TEXT,
    spec TEXT NOT NULL
) STRICT;
INSERT INTO runs_new (seq, id, class_id, priority, status, delayed, not_before, attempt, uncounted, max_attempts,
        cancel_requested, server_id, sandbox_id, started_at, finished_at, tenant_id, kind, project_id, task_id,
        subtask_id, ordinal, created_at, outcome, spec)
    SELECT r.seq, r.id, n.id, r.priority, r.status,
        -- One that waits for no moment was held before these migrations were last taken back.
        CASE WHEN r.delayed = 1 AND r.not_before IS NULL THEN 2 ELSE r.delayed END, r.not_before, r.attempt,
        r.uncounted, r.max_attempts, r.cancel_requested, r.server_id, r.sandbox_id, r.started_at, r.finished_at,
        r.tenant_id, r.kind, r.project_id, r.task_id, r.subtask_id, r.ordinal, r.created_at, r.outcome, r.spec
    FROM runs r JOIN run_classes c ON c.id = r.class_id
        JOIN run_classes_new n ON n.tenant_id = r.tenant_id AND n.requirements = c.requirements
    ORDER BY r.seq;
DROP TABLE runs;
DROP TABLE run_classes;
ALTER TABLE run_classes_new RENAME TO run_classes;
ALTER TABLE runs_new RENAME TO runs;
CREATE UNIQUE INDEX runs_id ON runs (id);
-- The queue itself: ends with the rowid, which is seq.
CREATE INDEX runs_ready ON runs (class_id, priority DESC) WHERE status = 'queued' AND delayed = 0;
CREATE INDEX runs_delayed ON runs (class_id, not_before) WHERE status = 'queued' AND delayed = 1;
-- What is executed is little beside what waits and what has ended.
CREATE INDEX runs_running ON runs (server_id) WHERE status = 'running';
CREATE INDEX runs_tenant ON runs (tenant_id, seq);
CREATE INDEX runs_project ON runs (project_id, seq) WHERE project_id IS NOT NULL;
CREATE INDEX runs_task ON runs (task_id, seq) WHERE task_id IS NOT NULL;
CREATE INDEX runs_subtask ON runs (subtask_id, seq) WHERE subtask_id IS NOT NULL;
CREATE INDEX runs_plan ON runs (plan_id, seq) WHERE plan_id IS NOT NULL;
-- For the counts of a plan, which need nothing but this index.
CREATE INDEX runs_held ON runs (plan_id, seq) WHERE status = 'queued' AND delayed = 2;
CREATE INDEX runs_plan_status ON runs (plan_id, status) WHERE plan_id IS NOT NULL AND superseded = 0;

CREATE TABLE plans (
    id TEXT PRIMARY KEY NOT NULL,
    tenant_id TEXT NOT NULL REFERENCES tenants (id) ON DELETE CASCADE,
    name TEXT NOT NULL,
    project_id TEXT,
    branch TEXT,
    fail_fast INTEGER NOT NULL CHECK (fail_fast IN (0, 1)),
    max_parallel INTEGER CHECK (max_parallel >= 1),
    labels TEXT NOT NULL,
    tests INTEGER NOT NULL CHECK (tests >= 0),
    ordered INTEGER NOT NULL CHECK (ordered IN (0, 1)),
    cancel_requested INTEGER NOT NULL CHECK (cancel_requested IN (0, 1)),
    created_by TEXT,
    created_at INTEGER NOT NULL,
    finished_at INTEGER,
    first_event INTEGER NOT NULL,
    version INTEGER NOT NULL
) STRICT;
CREATE INDEX plans_tenant ON plans (tenant_id, id);
CREATE INDEX plans_project ON plans (project_id, id) WHERE project_id IS NOT NULL;
CREATE INDEX plans_open ON plans (id) WHERE finished_at IS NULL;

-- What became of each run of a test, beyond the life of its plan.
CREATE TABLE test_results (
    run_id TEXT PRIMARY KEY NOT NULL,
    tenant_id TEXT NOT NULL REFERENCES tenants (id) ON DELETE CASCADE,
    key TEXT NOT NULL,
    plan_id TEXT NOT NULL,
    plan TEXT NOT NULL,
    name TEXT NOT NULL,
    ordinal INTEGER NOT NULL CHECK (ordinal >= 1),
    status TEXT NOT NULL
        CHECK (status IN ('succeeded', 'failed', 'timed_out', 'cancelled', 'lost', 'skipped')),
    tolerated INTEGER NOT NULL CHECK (tolerated IN (0, 1)),
    superseded INTEGER NOT NULL CHECK (superseded IN (0, 1)),
    flaky INTEGER NOT NULL CHECK (flaky IN (0, 1)),
    duration_us INTEGER NOT NULL,
    cpu_us INTEGER NOT NULL,
    peak_memory_bytes INTEGER NOT NULL,
    revision TEXT,
    created_at INTEGER NOT NULL
) STRICT;
CREATE INDEX test_results_key ON test_results (tenant_id, key, created_at DESC);
CREATE INDEX test_results_plan ON test_results (plan_id);
CREATE INDEX test_results_at ON test_results (created_at);

-- Tests whose failures count for nothing.
CREATE TABLE quarantined_tests (
    tenant_id TEXT NOT NULL REFERENCES tenants (id) ON DELETE CASCADE,
    key TEXT NOT NULL,
    plan TEXT NOT NULL,
    name TEXT NOT NULL,
    reason TEXT NOT NULL,
    created_by TEXT,
    created_at INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, key)
) STRICT;

-- Files that tests left. Their tenant stays until they are removed, with what they stand for.
CREATE TABLE artifacts (
    id TEXT PRIMARY KEY NOT NULL,
    tenant_id TEXT NOT NULL REFERENCES tenants (id),
    run_id TEXT NOT NULL,
    plan_id TEXT,
    path TEXT NOT NULL,
    bytes INTEGER NOT NULL CHECK (bytes >= 0),
    sha256 TEXT NOT NULL,
    object TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER,
    UNIQUE (run_id, path)
) STRICT;
CREATE INDEX artifacts_tenant ON artifacts (tenant_id, id);
CREATE INDEX artifacts_plan ON artifacts (plan_id, id) WHERE plan_id IS NOT NULL;
CREATE INDEX artifacts_object ON artifacts (object);
CREATE INDEX artifacts_expiry ON artifacts (created_at);
