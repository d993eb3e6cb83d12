-- Text is compared byte by byte everywhere (COLLATE "C"), so that rows come in the same order as from SQLite and
-- whatever the locale of the database is.

CREATE TABLE tenants (
    id TEXT COLLATE "C" PRIMARY KEY,
    name TEXT COLLATE "C" NOT NULL UNIQUE,
    created_at BIGINT NOT NULL
);

CREATE TABLE api_tokens (
    id TEXT COLLATE "C" PRIMARY KEY,
    tenant_id TEXT COLLATE "C" NOT NULL REFERENCES tenants (id) ON DELETE CASCADE,
    name TEXT COLLATE "C" NOT NULL,
    prefix TEXT COLLATE "C" NOT NULL,
    hash TEXT COLLATE "C" NOT NULL UNIQUE,
    permissions TEXT COLLATE "C" NOT NULL,
    created_at BIGINT NOT NULL,
    expires_at BIGINT,
    last_used_at BIGINT,
    revoked_at BIGINT,
    version BIGINT NOT NULL
);
CREATE INDEX api_tokens_tenant ON api_tokens (tenant_id);

CREATE TABLE projects (
    id TEXT COLLATE "C" PRIMARY KEY,
    tenant_id TEXT COLLATE "C" NOT NULL REFERENCES tenants (id),
    name TEXT COLLATE "C" NOT NULL,
    source TEXT COLLATE "C" NOT NULL,
    default_branch TEXT COLLATE "C" NOT NULL,
    next_subtask BIGINT NOT NULL CHECK (next_subtask >= 1),
    next_merge_request BIGINT NOT NULL CHECK (next_merge_request >= 1),
    created_at BIGINT NOT NULL,
    version BIGINT NOT NULL,
    UNIQUE (tenant_id, name),
    UNIQUE (tenant_id, source)
);

CREATE TABLE tasks (
    id TEXT COLLATE "C" PRIMARY KEY,
    tenant_id TEXT COLLATE "C" NOT NULL REFERENCES tenants (id),
    project_id TEXT COLLATE "C" NOT NULL REFERENCES projects (id) ON DELETE CASCADE,
    title TEXT COLLATE "C" NOT NULL,
    description TEXT COLLATE "C" NOT NULL,
    agent_kind TEXT COLLATE "C" NOT NULL,
    auto BIGINT NOT NULL CHECK (auto IN (0, 1)),
    status TEXT COLLATE "C" NOT NULL CHECK (status IN ('planning', 'planning_failed', 'active', 'done')),
    epic TEXT COLLATE "C",
    spec TEXT COLLATE "C" NOT NULL,
    plan TEXT COLLATE "C" NOT NULL,
    attempts BIGINT NOT NULL CHECK (attempts >= 0),
    run_id TEXT COLLATE "C",
    error TEXT COLLATE "C",
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    version BIGINT NOT NULL
);
CREATE INDEX tasks_project ON tasks (project_id);
CREATE INDEX tasks_tenant ON tasks (tenant_id);
CREATE INDEX tasks_open ON tasks (status) WHERE status <> 'done';
CREATE INDEX tasks_run ON tasks (run_id) WHERE run_id IS NOT NULL;

CREATE TABLE subtasks (
    id TEXT COLLATE "C" PRIMARY KEY,
    tenant_id TEXT COLLATE "C" NOT NULL REFERENCES tenants (id),
    project_id TEXT COLLATE "C" NOT NULL REFERENCES projects (id) ON DELETE CASCADE,
    task_id TEXT COLLATE "C" NOT NULL REFERENCES tasks (id) ON DELETE CASCADE,
    issue_id TEXT COLLATE "C" NOT NULL,
    number BIGINT NOT NULL CHECK (number >= 1),
    title TEXT COLLATE "C" NOT NULL,
    spec TEXT COLLATE "C" NOT NULL,
    plan TEXT COLLATE "C" NOT NULL,
    position BIGINT NOT NULL,
    status TEXT COLLATE "C" NOT NULL
        CHECK (status IN ('pending', 'ready', 'blocked', 'in_progress', 'completed', 'merged')),
    blocked_reason TEXT COLLATE "C" CHECK (blocked_reason IN ('dependency', 'failure')),
    depends_on TEXT COLLATE "C" NOT NULL,
    branch TEXT COLLATE "C" NOT NULL,
    attempts BIGINT NOT NULL CHECK (attempts >= 0),
    run_id TEXT COLLATE "C",
    feedback TEXT COLLATE "C",
    error TEXT COLLATE "C",
    merge_request_id TEXT COLLATE "C",
    worktree_expires_at BIGINT,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    version BIGINT NOT NULL,
    UNIQUE (project_id, number)
);
CREATE INDEX subtasks_task ON subtasks (task_id);
CREATE INDEX subtasks_tenant ON subtasks (tenant_id);
CREATE INDEX subtasks_open ON subtasks (status) WHERE status <> 'merged';
CREATE INDEX subtasks_run ON subtasks (run_id) WHERE run_id IS NOT NULL;

CREATE TABLE merge_requests (
    id TEXT COLLATE "C" PRIMARY KEY,
    tenant_id TEXT COLLATE "C" NOT NULL REFERENCES tenants (id),
    project_id TEXT COLLATE "C" NOT NULL REFERENCES projects (id) ON DELETE CASCADE,
    number BIGINT NOT NULL CHECK (number >= 1),
    task_id TEXT COLLATE "C" NOT NULL REFERENCES tasks (id) ON DELETE CASCADE,
    subtask_id TEXT COLLATE "C" NOT NULL REFERENCES subtasks (id) ON DELETE CASCADE,
    title TEXT COLLATE "C" NOT NULL,
    body TEXT COLLATE "C" NOT NULL,
    source_branch TEXT COLLATE "C" NOT NULL,
    target_branch TEXT COLLATE "C" NOT NULL,
    head TEXT COLLATE "C" NOT NULL,
    merge_commit TEXT COLLATE "C",
    status TEXT COLLATE "C" NOT NULL CHECK (status IN ('open', 'merged', 'closed')),
    created_at BIGINT NOT NULL,
    closed_at BIGINT,
    version BIGINT NOT NULL,
    UNIQUE (project_id, number)
);
CREATE INDEX merge_requests_task ON merge_requests (task_id);
CREATE INDEX merge_requests_subtask ON merge_requests (subtask_id);
CREATE INDEX merge_requests_tenant ON merge_requests (tenant_id);

CREATE TABLE issues (
    id TEXT COLLATE "C" NOT NULL,
    tenant_id TEXT COLLATE "C" NOT NULL REFERENCES tenants (id),
    project_id TEXT COLLATE "C" NOT NULL REFERENCES projects (id) ON DELETE CASCADE,
    task_id TEXT COLLATE "C" REFERENCES tasks (id) ON DELETE CASCADE,
    issue_type TEXT COLLATE "C" NOT NULL CHECK (issue_type IN ('epic', 'task', 'bug', 'feature', 'chore')),
    title TEXT COLLATE "C" NOT NULL,
    description TEXT COLLATE "C" NOT NULL,
    design TEXT COLLATE "C" NOT NULL,
    acceptance_criteria TEXT COLLATE "C" NOT NULL,
    notes TEXT COLLATE "C" NOT NULL,
    status TEXT COLLATE "C" NOT NULL CHECK (status IN ('open', 'in_progress', 'blocked', 'closed')),
    priority BIGINT NOT NULL CHECK (priority BETWEEN 0 AND 4),
    assignee TEXT COLLATE "C",
    labels TEXT COLLATE "C" NOT NULL,
    dependencies TEXT COLLATE "C" NOT NULL,
    comments TEXT COLLATE "C" NOT NULL,
    close_reason TEXT COLLATE "C",
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    closed_at BIGINT,
    version BIGINT NOT NULL,
    PRIMARY KEY (project_id, id)
);
CREATE INDEX issues_task ON issues (task_id) WHERE task_id IS NOT NULL;
CREATE INDEX issues_tenant ON issues (tenant_id);

CREATE TABLE pools (
    name TEXT COLLATE "C" PRIMARY KEY,
    template TEXT COLLATE "C" NOT NULL,
    target BIGINT NOT NULL CHECK (target >= 0),
    max BIGINT NOT NULL CHECK (max >= 0),
    failures BIGINT NOT NULL CHECK (failures >= 0),
    last_error TEXT COLLATE "C",
    retry_at BIGINT,
    version BIGINT NOT NULL
);

CREATE TABLE sandboxes (
    id TEXT COLLATE "C" PRIMARY KEY,
    tenant_id TEXT COLLATE "C" REFERENCES tenants (id),
    department_id TEXT COLLATE "C",
    pool TEXT COLLATE "C" NOT NULL,
    driver TEXT COLLATE "C" NOT NULL,
    driver_ref TEXT COLLATE "C",
    server_id TEXT COLLATE "C" NOT NULL,
    status TEXT COLLATE "C" NOT NULL
        CHECK (status IN ('warm', 'provisioning', 'running', 'unhealthy', 'destroying', 'destroyed')),
    template TEXT COLLATE "C" NOT NULL,
    config TEXT COLLATE "C" NOT NULL,
    tool_allowlist TEXT COLLATE "C" NOT NULL,
    vsock_cid BIGINT,
    for_run BIGINT NOT NULL CHECK (for_run IN (0, 1)),
    failures BIGINT NOT NULL CHECK (failures >= 0),
    reason TEXT COLLATE "C",
    created_at BIGINT NOT NULL,
    claimed_at BIGINT,
    checked_at BIGINT,
    version BIGINT NOT NULL
);
CREATE UNIQUE INDEX sandboxes_vsock_cid ON sandboxes (vsock_cid) WHERE status <> 'destroyed';
CREATE INDEX sandboxes_warm ON sandboxes (pool, server_id, created_at, id) WHERE status = 'warm';
CREATE INDEX sandboxes_live ON sandboxes (server_id, status) WHERE status <> 'destroyed';
CREATE INDEX sandboxes_tenant ON sandboxes (tenant_id) WHERE tenant_id IS NOT NULL;

CREATE TABLE agent_sessions (
    subject TEXT COLLATE "C" PRIMARY KEY,
    tenant_id TEXT COLLATE "C" NOT NULL REFERENCES tenants (id) ON DELETE CASCADE,
    agent_session TEXT COLLATE "C" NOT NULL,
    totals TEXT COLLATE "C" NOT NULL,
    expires_at BIGINT NOT NULL,
    version BIGINT NOT NULL
);
CREATE INDEX agent_sessions_tenant ON agent_sessions (tenant_id);

CREATE TABLE events (
    seq BIGINT PRIMARY KEY,
    tenant_id TEXT COLLATE "C",
    kind TEXT COLLATE "C" NOT NULL,
    subject TEXT COLLATE "C" NOT NULL,
    data TEXT COLLATE "C" NOT NULL,
    at BIGINT NOT NULL
);
CREATE SEQUENCE event_seq OWNED BY events.seq;
CREATE INDEX events_tenant ON events (tenant_id, seq);

CREATE TABLE servers (
    id TEXT COLLATE "C" PRIMARY KEY,
    seen_at BIGINT NOT NULL
);

-- The run queue. What was submitted (`runs`) and how it ended (`run_ends`) are written once (only a requeue changes
-- `not_before`), so that wide rows make no dead tuples. Where a live run stands is said by the narrow table that it is
-- in: run_ready -> run_active -> run_ends, with run_delayed for those that wait for their time.

CREATE TABLE run_classes (
    id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    requirements TEXT COLLATE "C" NOT NULL UNIQUE
);

CREATE TABLE runs (
    seq BIGINT PRIMARY KEY,
    priority BIGINT NOT NULL,
    class_id BIGINT NOT NULL,
    ordinal BIGINT NOT NULL,
    max_attempts BIGINT NOT NULL CHECK (max_attempts >= 0),
    created_at BIGINT NOT NULL,
    not_before BIGINT,
    id TEXT COLLATE "C" NOT NULL UNIQUE,
    tenant_id TEXT COLLATE "C" NOT NULL,
    kind TEXT COLLATE "C" NOT NULL CHECK (kind IN ('command', 'planner', 'worker', 'check', 'test')),
    project_id TEXT COLLATE "C",
    task_id TEXT COLLATE "C",
    subtask_id TEXT COLLATE "C",
    spec TEXT COLLATE "C" NOT NULL
);
CREATE SEQUENCE run_seq OWNED BY runs.seq;
CREATE INDEX runs_tenant ON runs (tenant_id, seq);
CREATE INDEX runs_project ON runs (project_id, seq) WHERE project_id IS NOT NULL;
CREATE INDEX runs_task ON runs (task_id, seq) WHERE task_id IS NOT NULL;
CREATE INDEX runs_subtask ON runs (subtask_id, seq) WHERE subtask_id IS NOT NULL;

-- `rank` is the negated priority, so that ascending (rank, seq) is the order of the queue.
-- `attempt` counts all starts, `spared` those of them that do not count against max_attempts.
CREATE TABLE run_ready (
    class_id BIGINT NOT NULL,
    rank BIGINT NOT NULL,
    seq BIGINT NOT NULL,
    attempt BIGINT NOT NULL,
    spared BIGINT NOT NULL,
    started_at BIGINT,
    PRIMARY KEY (class_id, rank, seq)
) WITH (
    -- Truncation takes a lock that stops every claim.
    vacuum_truncate = off,
    autovacuum_vacuum_scale_factor = 0.0, autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_cost_delay = 0
);

CREATE TABLE run_delayed (
    seq BIGINT PRIMARY KEY,
    class_id BIGINT NOT NULL,
    rank BIGINT NOT NULL,
    attempt BIGINT NOT NULL,
    spared BIGINT NOT NULL,
    started_at BIGINT,
    not_before BIGINT NOT NULL
);
CREATE INDEX run_delayed_due ON run_delayed (not_before, class_id);

CREATE TABLE run_active (
    seq BIGINT NOT NULL,
    class_id BIGINT NOT NULL,
    rank BIGINT NOT NULL,
    attempt BIGINT NOT NULL,
    spared BIGINT NOT NULL,
    max_attempts BIGINT NOT NULL,
    started_at BIGINT NOT NULL,
    cancel_requested BIGINT NOT NULL DEFAULT 0 CHECK (cancel_requested IN (0, 1)),
    id TEXT COLLATE "C" PRIMARY KEY,
    tenant_id TEXT COLLATE "C" NOT NULL,
    server_id TEXT COLLATE "C" NOT NULL,
    sandbox_id TEXT COLLATE "C"
) WITH (
    fillfactor = 80, vacuum_truncate = off,
    autovacuum_vacuum_scale_factor = 0.0, autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_cost_delay = 0
);

CREATE TABLE run_ends (
    seq BIGINT PRIMARY KEY,
    attempt BIGINT NOT NULL,
    cancel_requested BIGINT NOT NULL CHECK (cancel_requested IN (0, 1)),
    started_at BIGINT,
    finished_at BIGINT NOT NULL,
    status TEXT COLLATE "C" NOT NULL
        CHECK (status IN ('succeeded', 'failed', 'timed_out', 'cancelled', 'lost')),
    server_id TEXT COLLATE "C",
    sandbox_id TEXT COLLATE "C",
    outcome TEXT COLLATE "C" NOT NULL
);
CREATE INDEX run_ends_bad ON run_ends (status, seq) WHERE status <> 'succeeded';

-- Rows are added, never changed, so that no two transactions wait for each other; the sum of a column is the count.
-- A background job replaces many rows by their sum.
CREATE TABLE run_counts (
    queued BIGINT NOT NULL DEFAULT 0,
    running BIGINT NOT NULL DEFAULT 0,
    succeeded BIGINT NOT NULL DEFAULT 0,
    failed BIGINT NOT NULL DEFAULT 0,
    timed_out BIGINT NOT NULL DEFAULT 0,
    cancelled BIGINT NOT NULL DEFAULT 0,
    lost BIGINT NOT NULL DEFAULT 0,
    tenant_id TEXT COLLATE "C" NOT NULL
) WITH (vacuum_truncate = off, autovacuum_vacuum_scale_factor = 0.0, autovacuum_vacuum_threshold = 2000);

-- Below the application: whoever is not the owner of the tables sees only the rows of the tenant that
-- `SET ostler.tenant` names, and none before that.
DO $$
DECLARE
    name TEXT;
BEGIN
    FOREACH name IN ARRAY ARRAY[
        'api_tokens', 'projects', 'tasks', 'subtasks', 'merge_requests', 'issues', 'sandboxes', 'agent_sessions',
        'events', 'runs', 'run_active', 'run_counts'
    ] LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', name);
        EXECUTE format(
            'CREATE POLICY tenant ON %I USING (tenant_id = current_setting(''ostler.tenant'', true))', name);
    END LOOP;
END $$;
ALTER TABLE tenants ENABLE ROW LEVEL SECURITY;
CREATE POLICY tenant ON tenants USING (id = current_setting('ostler.tenant', true));
