CREATE TABLE tenants (
    id TEXT PRIMARY KEY NOT NULL,
    name TEXT NOT NULL UNIQUE,
    created_at INTEGER NOT NULL
) STRICT;

CREATE TABLE api_tokens (
    id TEXT PRIMARY KEY NOT NULL,
    tenant_id TEXT NOT NULL REFERENCES tenants (id) ON DELETE CASCADE,
    name TEXT NOT NULL,
    prefix TEXT NOT NULL,
    hash TEXT NOT NULL UNIQUE,
    permissions TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER,
    last_used_at INTEGER,
    revoked_at INTEGER,
    version INTEGER NOT NULL
) STRICT;
CREATE INDEX api_tokens_tenant ON api_tokens (tenant_id);

CREATE TABLE projects (
    id TEXT PRIMARY KEY NOT NULL,
    tenant_id TEXT NOT NULL REFERENCES tenants (id),
    name TEXT NOT NULL,
    source TEXT NOT NULL,
    default_branch TEXT NOT NULL,
    next_subtask INTEGER NOT NULL,
    next_merge_request INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    version INTEGER NOT NULL,
    UNIQUE (tenant_id, name),
    UNIQUE (tenant_id, source)
) STRICT;

CREATE TABLE tasks (
    id TEXT PRIMARY KEY NOT NULL,
    tenant_id TEXT NOT NULL,
    project_id TEXT NOT NULL REFERENCES projects (id) ON DELETE CASCADE,
    title TEXT NOT NULL,
    description TEXT NOT NULL,
    agent_kind TEXT NOT NULL,
    auto INTEGER NOT NULL CHECK (auto IN (0, 1)),
    status TEXT NOT NULL CHECK (status IN ('planning', 'planning_failed', 'active', 'done')),
    epic TEXT,
    spec TEXT NOT NULL,
    plan TEXT NOT NULL,
    attempts INTEGER NOT NULL,
    run_id TEXT,
    error TEXT,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    version INTEGER NOT NULL
) STRICT;
CREATE INDEX tasks_project ON tasks (project_id);
CREATE INDEX tasks_tenant ON tasks (tenant_id);

CREATE TABLE subtasks (
    id TEXT PRIMARY KEY NOT NULL,
    tenant_id TEXT NOT NULL,
    project_id TEXT NOT NULL REFERENCES projects (id) ON DELETE CASCADE,
    task_id TEXT NOT NULL REFERENCES tasks (id) ON DELETE CASCADE,
    issue_id TEXT NOT NULL,
    number INTEGER NOT NULL,
    title TEXT NOT NULL,
    spec TEXT NOT NULL,
    plan TEXT NOT NULL,
    position INTEGER NOT NULL,
    status TEXT NOT NULL
        CHECK (status IN ('pending', 'ready', 'blocked', 'in_progress', 'completed', 'merged')),
    blocked_reason TEXT CHECK (blocked_reason IN ('dependency', 'failure')),
    depends_on TEXT NOT NULL,
    branch TEXT NOT NULL,
    attempts INTEGER NOT NULL,
    run_id TEXT,
    feedback TEXT,
    error TEXT,
    merge_request_id TEXT,
    worktree_expires_at INTEGER,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    version INTEGER NOT NULL,
    UNIQUE (project_id, number)
) STRICT;
CREATE INDEX subtasks_task ON subtasks (task_id);
CREATE INDEX subtasks_tenant ON subtasks (tenant_id);
CREATE INDEX subtasks_run ON subtasks (run_id) WHERE run_id IS NOT NULL;

CREATE TABLE merge_requests (
    id TEXT PRIMARY KEY NOT NULL,
    tenant_id TEXT NOT NULL,
    project_id TEXT NOT NULL REFERENCES projects (id) ON DELETE CASCADE,
    number INTEGER NOT NULL,
    task_id TEXT NOT NULL REFERENCES tasks (id) ON DELETE CASCADE,
    subtask_id TEXT NOT NULL REFERENCES subtasks (id) ON DELETE CASCADE,
    title TEXT NOT NULL,
    body TEXT NOT NULL,
    source_branch TEXT NOT NULL,
    target_branch TEXT NOT NULL,
    head TEXT NOT NULL,
    merge_commit TEXT,
    status TEXT NOT NULL CHECK (status IN ('open', 'merged', 'closed')),
    created_at INTEGER NOT NULL,
    closed_at INTEGER,
    version INTEGER NOT NULL,
    UNIQUE (project_id, number)
) STRICT;
CREATE INDEX merge_requests_task ON merge_requests (task_id);
CREATE INDEX merge_requests_subtask ON merge_requests (subtask_id);

CREATE TABLE issues (
    id TEXT NOT NULL,
    tenant_id TEXT NOT NULL,
    project_id TEXT NOT NULL REFERENCES projects (id) ON DELETE CASCADE,
    task_id TEXT REFERENCES tasks (id) ON DELETE CASCADE,
    issue_type TEXT NOT NULL CHECK (issue_type IN ('epic', 'task', 'bug', 'feature', 'chore')),
    title TEXT NOT NULL,
    description TEXT NOT NULL,
    design TEXT NOT NULL,
    acceptance_criteria TEXT NOT NULL,
    notes TEXT NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('open', 'in_progress', 'blocked', 'closed')),
    priority INTEGER NOT NULL,
    assignee TEXT,
    labels TEXT NOT NULL,
    dependencies TEXT NOT NULL,
    comments TEXT NOT NULL,
    close_reason TEXT,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    closed_at INTEGER,
    version INTEGER NOT NULL,
    PRIMARY KEY (project_id, id)
) STRICT;
CREATE INDEX issues_task ON issues (task_id) WHERE task_id IS NOT NULL;

CREATE TABLE pools (
    name TEXT PRIMARY KEY NOT NULL,
    template TEXT NOT NULL,
    target INTEGER NOT NULL,
    max INTEGER NOT NULL,
    failures INTEGER NOT NULL,
    last_error TEXT,
    retry_at INTEGER,
    version INTEGER NOT NULL
) STRICT;

CREATE TABLE sandboxes (
    id TEXT PRIMARY KEY NOT NULL,
    tenant_id TEXT REFERENCES tenants (id),
    department_id TEXT,
    pool TEXT NOT NULL,
    driver TEXT NOT NULL
        CHECK (driver IN ('sim', 'process', 'docker', 'qemu', 'firecracker', 'lima', 'kubernetes')),
    driver_ref TEXT,
    server_id TEXT NOT NULL,
    status TEXT NOT NULL
        CHECK (status IN ('warm', 'provisioning', 'running', 'unhealthy', 'destroying', 'destroyed')),
    template TEXT NOT NULL,
    config TEXT NOT NULL,
    tool_allowlist TEXT NOT NULL,
    vsock_cid INTEGER,
    for_run INTEGER NOT NULL CHECK (for_run IN (0, 1)),
    failures INTEGER NOT NULL,
    reason TEXT,
    created_at INTEGER NOT NULL,
    claimed_at INTEGER,
    checked_at INTEGER,
    version INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX sandboxes_vsock_cid ON sandboxes (vsock_cid) WHERE status <> 'destroyed';
CREATE INDEX sandboxes_warm ON sandboxes (pool, server_id, created_at, id) WHERE status = 'warm';
CREATE INDEX sandboxes_live ON sandboxes (status, pool) WHERE status <> 'destroyed';
CREATE INDEX sandboxes_tenant ON sandboxes (tenant_id) WHERE tenant_id IS NOT NULL;

CREATE TABLE agent_sessions (
    subject TEXT PRIMARY KEY NOT NULL,
    tenant_id TEXT NOT NULL REFERENCES tenants (id) ON DELETE CASCADE,
    agent_session TEXT NOT NULL,
    totals TEXT NOT NULL,
    expires_at INTEGER NOT NULL,
    version INTEGER NOT NULL
) STRICT;
CREATE INDEX agent_sessions_tenant ON agent_sessions (tenant_id);

CREATE TABLE events (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    tenant_id TEXT,
    kind TEXT NOT NULL,
    subject TEXT NOT NULL,
    data TEXT NOT NULL,
    at INTEGER NOT NULL
) STRICT;
CREATE INDEX events_tenant ON events (tenant_id, seq) WHERE tenant_id IS NOT NULL;
