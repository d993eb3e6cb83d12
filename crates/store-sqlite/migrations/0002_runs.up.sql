-- A class is everything that is submitted with the same requirements.
CREATE TABLE run_classes (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    requirements TEXT NOT NULL UNIQUE
) STRICT;

-- What changes stands before what is long, so that a change does not have to walk over the text.
CREATE TABLE runs (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL,
    class_id INTEGER NOT NULL REFERENCES run_classes (id),
    priority INTEGER NOT NULL,
    status TEXT NOT NULL
        CHECK (status IN ('queued', 'running', 'succeeded', 'failed', 'timed_out', 'cancelled', 'lost')),
    -- 1 while it waits for its not_before; the claim that finds it due makes it 0.
    delayed INTEGER NOT NULL CHECK (delayed IN (0, 1)),
    not_before INTEGER,
    -- Starts so far: the fence, never lowered. Those that did not count against max_attempts are in `uncounted`.
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

CREATE TABLE run_counters (
    tenant_id TEXT NOT NULL,
    status TEXT NOT NULL,
    n INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, status)
) STRICT, WITHOUT ROWID;

CREATE TABLE servers (
    id TEXT PRIMARY KEY NOT NULL,
    seen_at INTEGER NOT NULL
) STRICT;
