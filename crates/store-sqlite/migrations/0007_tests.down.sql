DROP TABLE artifacts;
DROP TABLE quarantined_tests;
DROP TABLE test_results;
DROP TABLE plans;

CREATE TABLE run_classes_old (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    requirements TEXT NOT NULL UNIQUE
) STRICT;
INSERT INTO run_classes_old (requirements) SELECT DISTINCT requirements FROM run_classes;

CREATE TABLE runs_old (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL,
    class_id INTEGER NOT NULL REFERENCES run_classes_old (id),
    priority INTEGER NOT NULL,
    status TEXT NOT NULL
        CHECK (status IN ('queued', 'running', 'succeeded', 'failed', 'timed_out', 'cancelled', 'lost')),
    delayed INTEGER NOT NULL CHECK (delayed IN (0, 1)),
    not_before INTEGER,
    attempt INTEGER NOT NULL,
    uncounted INTEGER NOT NULL,
    max_attempts INTEGER NOT NULL,
    cancel_requested INTEGER NOT NULL CHECK (cancel_requested IN (0, 1)),
    server_id TEXT,
    sandbox_id TEXT,
    started_at INTEGER,
    finished_at INTEGER,
    tenant_id TEXT NOT NULL,
    kind TEXT NOT NULL CHECK (kind IN ('command', 'planner', 'worker', 'check', 'test')),
    project_id TEXT,
    task_id TEXT,
    subtask_id TEXT,
    ordinal INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    outcome TEXT,
    spec TEXT NOT NULL
) STRICT;
-- What was skipped comes nearest to cancelled. What is held goes on waiting, for no moment at all.
INSERT INTO runs_old (seq, id, class_id, priority, status, delayed, not_before, attempt, uncounted, max_attempts,
        cancel_requested, server_id, sandbox_id, started_at, finished_at, tenant_id, kind, project_id, task_id,
        subtask_id, ordinal, created_at, outcome, spec)
    SELECT r.seq, r.id, o.id, r.priority, CASE r.status WHEN 'skipped' THEN 'cancelled' ELSE r.status END,
        min(r.delayed, 1), CASE WHEN r.delayed = 2 THEN NULL ELSE r.not_before END, r.attempt, r.uncounted,
        r.max_attempts, r.cancel_requested, r.server_id, r.sandbox_id, r.started_at, r.finished_at, r.tenant_id,
        r.kind, r.project_id, r.task_id, r.subtask_id, r.ordinal, r.created_at, r.outcome, r.spec
    FROM runs r JOIN run_classes c ON c.id = r.class_id JOIN run_classes_old o ON o.requirements = c.requirements
    ORDER BY r.seq;
DROP TABLE runs;
DROP TABLE run_classes;
ALTER TABLE run_classes_old RENAME TO run_classes;
ALTER TABLE runs_old RENAME TO runs;
CREATE UNIQUE INDEX runs_id ON runs (id);
CREATE INDEX runs_ready ON runs (class_id, priority DESC) WHERE status = 'queued' AND delayed = 0;
CREATE INDEX runs_delayed ON runs (class_id, not_before) WHERE status = 'queued' AND delayed = 1;
CREATE INDEX runs_running ON runs (server_id) WHERE status = 'running';
CREATE INDEX runs_tenant ON runs (tenant_id, seq);
CREATE INDEX runs_project ON runs (project_id, seq) WHERE project_id IS NOT NULL;
CREATE INDEX runs_task ON runs (task_id, seq) WHERE task_id IS NOT NULL;
CREATE INDEX runs_subtask ON runs (subtask_id, seq) WHERE subtask_id IS NOT NULL;

INSERT INTO run_counters (tenant_id, status, n)
    SELECT tenant_id, 'cancelled', n FROM run_counters WHERE status = 'skipped'
    ON CONFLICT DO UPDATE SET n = n + excluded.n;
DELETE FROM run_counters WHERE status = 'skipped';
