//! Who may use which endpoint.

use crate::world::{On, World};
use ostler_domain::Permission as P;
use reqwest::Method;
use serde_json::{Value, json};

/// Whose endpoint it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    /// Everybody's, without a token.
    Open,
    /// A tenant's.
    Tenant,
    /// The platform's: nobody of another tenant than the default one.
    Platform,
}

#[derive(Clone, Copy)]
pub(crate) enum Body {
    None,
    Json(fn(&World) -> Value),
    /// Anything, as a file.
    Bytes,
}

pub(crate) struct Row {
    pub(crate) method: Method,
    pub(crate) path: &'static str,
    pub(crate) query: &'static str,
    pub(crate) scope: Scope,
    /// What is needed; whoever lacks the first of them is refused.
    pub(crate) needs: &'static [P],
    /// The object in the path.
    pub(crate) on: On,
    pub(crate) body: Body,
    /// The answer to whoever may.
    pub(crate) right: u16,
    /// The answer in another tenant, where it differs.
    pub(crate) elsewhere: Option<u16>,
    /// The answer to whoever lacks the permission, where it is not 403.
    pub(crate) lacking: Option<u16>,
}

impl Row {
    fn body(mut self, make: fn(&World) -> Value) -> Self {
        self.body = Body::Json(make);
        self
    }

    fn bytes(mut self) -> Self {
        self.body = Body::Bytes;
        self
    }

    fn query(mut self, query: &'static str) -> Self {
        self.query = query;
        self
    }

    fn lacking(mut self, code: u16) -> Self {
        self.lacking = Some(code);
        self
    }

    fn elsewhere(mut self, code: u16) -> Self {
        self.elsewhere = Some(code);
        self
    }
}

fn row(method: Method, path: &'static str, needs: &'static [P], on: On, right: u16) -> Row {
    let scope = match needs.first() {
        Some(first) if first.is_of_platform() => Scope::Platform,
        _ => Scope::Tenant,
    };
    Row {
        method,
        path,
        query: "",
        scope,
        needs,
        on,
        body: Body::None,
        right,
        elsewhere: None,
        lacking: None,
    }
}

fn open(path: &'static str, right: u16) -> Row {
    Row {
        scope: Scope::Open,
        ..row(Method::GET, path, &[], On::Nothing, right)
    }
}

const AGENTS_READ: &[P] = &[P::AgentsRead];
const AGENTS: &[P] = &[P::AgentsWrite, P::AgentsRead];
const PROJECTS_READ: &[P] = &[P::ProjectsRead];
const PROJECTS: &[P] = &[P::ProjectsWrite];
const RUNS_READ: &[P] = &[P::RunsRead];
const RUNS: &[P] = &[P::RunsWrite, P::RunsRead];
const TESTS: &[P] = &[P::TestsWrite, P::RunsRead];
const FLEET_READ: &[P] = &[P::FleetRead];
const FLEET: &[P] = &[P::FleetWrite, P::FleetRead];
const SNAPSHOT: &[P] = &[P::FleetWrite, P::AgentsWrite, P::AgentsRead];
const TENANT: &[P] = &[P::TenantAdmin];
const PLATFORM: &[P] = &[P::Admin];

pub(crate) fn rows() -> Vec<Row> {
    let mut all = system();
    all.extend(work());
    all.extend(runs());
    all.extend(plans());
    all.extend(agents());
    all.extend(fleet());
    all.extend(images());
    all.extend(access());
    all
}

fn system() -> Vec<Row> {
    vec![
        open("/health", 200),
        row(Method::GET, "/kinds", &[], On::Nothing, 200),
        row(Method::GET, "/reconcilers", FLEET_READ, On::Nothing, 200),
        row(Method::GET, "/events", PROJECTS_READ, On::Nothing, 200),
        row(Method::GET, "/auth/me", &[], On::Nothing, 200),
    ]
}

fn work() -> Vec<Row> {
    let get = |path, on| row(Method::GET, path, PROJECTS_READ, on, 200);
    let post = |path, on, right| row(Method::POST, path, PROJECTS, on, right);
    vec![
        get("/projects", On::Nothing),
        // A source that cannot be one: cloning is tested elsewhere, and who may is decided before.
        post("/projects", On::Nothing, 400)
            .body(|_| json!({ "source": "https://me:secret@localhost/x.git" })),
        get("/projects/{id}", On::Project),
        row(Method::DELETE, "/projects/{id}", PROJECTS, On::Project, 204),
        post("/projects/{id}/cleanup", On::Project, 200),
        get("/projects/{id}/issues", On::Project),
        get("/projects/{id}/tasks", On::Project),
        post("/projects/{id}/tasks", On::Project, 201).body(|_| json!({ "title": "t" })),
        get("/tasks/{id}", On::Task),
        row(Method::DELETE, "/tasks/{id}", PROJECTS, On::Task, 204),
        post("/tasks/{id}/kill", On::Task, 200),
        post("/tasks/{id}/retry-planning", On::FailedTask, 200),
        get("/tasks/{id}/subtasks", On::Task),
        get("/subtasks/{id}", On::Subtask),
        post("/subtasks/{id}/start", On::Subtask, 200),
        post("/subtasks/{id}/retry", On::BlockedSubtask, 200),
        post("/subtasks/{id}/merge", On::Subtask, 422),
        post("/subtasks/{id}/mark-merged", On::CompletedSubtask, 200),
        post("/subtasks/{id}/kill", On::Subtask, 204),
        row(
            Method::PATCH,
            "/subtasks/{id}/position",
            PROJECTS,
            On::Subtask,
            200,
        )
        .body(|_| json!({ "position": 7 })),
        row(
            Method::GET,
            "/subtasks/{id}/diff",
            PROJECTS_READ,
            On::Subtask,
            422,
        ),
        row(Method::GET, "/subtasks/{id}/runs", RUNS_READ, On::Subtask, 200),
        get("/projects/{id}/merge-requests", On::Project),
        get("/merge-requests/{id}", On::MergeRequest),
        get("/merge-requests/{id}/diff", On::MergeRequest),
        post("/merge-requests/{id}/close", On::MergeRequest, 200),
    ]
}

fn runs() -> Vec<Row> {
    let get = |path, on| row(Method::GET, path, RUNS_READ, on, 200);
    vec![
        get("/runs", On::Nothing),
        row(Method::POST, "/runs", RUNS, On::Nothing, 201).body(|_| json!({ "command": ["true"] })),
        get("/runs/{id}", On::Run),
        row(Method::POST, "/runs/{id}/cancel", RUNS, On::Run, 200),
        get("/runs/{id}/explain", On::Run),
        get("/runs/{id}/logs", On::Run),
        get("/runs/{id}/artifacts", On::Run),
        get("/runs/{id}/artifacts/{path}", On::RunAndPath),
        get("/tests/{key}/artifacts/latest/{path}", On::TestAndPath).elsewhere(404),
    ]
}

fn plans() -> Vec<Row> {
    let get = |path, on| row(Method::GET, path, RUNS_READ, on, 200);
    vec![
        get("/plans", On::Nothing),
        row(Method::POST, "/plans", TESTS, On::Nothing, 201)
            .body(|_| json!({ "name": "p", "tests": [{ "name": "t", "run": ["true"] }] })),
        get("/plans/{id}", On::Plan),
        row(Method::DELETE, "/plans/{id}", TESTS, On::Plan, 200),
        get("/plans/{id}/tests", On::Plan),
        get("/plans/{id}/explain", On::Plan),
        get("/plans/{id}/events", On::Plan),
        row(Method::POST, "/plans/{id}/rerun", TESTS, On::Plan, 201).body(|_| json!({})),
        get("/tests/history", On::Nothing).query("?key=none"),
        get("/tests/flaky", On::Nothing),
        get("/tests/chart", On::Nothing).query("?key=none"),
        get("/tests/quarantine", On::Nothing),
        row(Method::POST, "/tests/quarantine", TESTS, On::Nothing, 201)
            .body(|_| json!({ "plan": "p", "test": "t" })),
        row(
            Method::DELETE,
            "/tests/quarantine/{key}",
            TESTS,
            On::QuarantinedTest,
            204,
        ),
        get("/runs/{id}/cases", On::Run),
        get("/metrics", On::Nothing),
    ]
}

fn agents() -> Vec<Row> {
    let post = |path, right| row(Method::POST, path, AGENTS, On::Agent, right);
    vec![
        row(Method::GET, "/agents", AGENTS_READ, On::Nothing, 200),
        row(Method::POST, "/agents", AGENTS, On::Nothing, 201).body(|_| json!({})),
        row(Method::GET, "/agents/{id}", AGENTS_READ, On::Agent, 200),
        row(Method::DELETE, "/agents/{id}", AGENTS, On::Agent, 204),
        post("/agents/{id}/configure", 200).body(|_| json!({ "config": {} })),
        post("/agents/{id}/exec", 200).body(|_| json!({ "command": ["true"] })),
        post("/agents/{id}/pause", 204),
        post("/agents/{id}/resume", 204),
        row(Method::PUT, "/agents/{id}/files", AGENTS, On::Agent, 200)
            .query("?path=/tmp/x")
            .bytes(),
        row(Method::GET, "/agents/{id}/files", AGENTS, On::AgentWithFile, 200).query("?path=/tmp/x"),
        row(Method::GET, "/agents/{id}/execs", AGENTS, On::Agent, 200),
        row(
            Method::GET,
            "/agents/{id}/execs/{exec_id}",
            AGENTS,
            On::AgentProgram,
            200,
        ),
        row(
            Method::DELETE,
            "/agents/{id}/execs/{exec_id}",
            AGENTS,
            On::AgentProgram,
            204,
        ),
        // Not a WebSocket, which is said to whoever may see the agent.
        row(Method::GET, "/agents/{id}/terminal", AGENTS, On::Agent, 400).lacking(400),
        row(
            Method::POST,
            "/agents/{id}/snapshot",
            SNAPSHOT,
            On::PlatformAgent,
            422,
        )
        .body(|_| json!({ "name": "s" })),
    ]
}

fn fleet() -> Vec<Row> {
    let get = |path, on| row(Method::GET, path, FLEET_READ, on, 200);
    vec![
        get("/pools", On::Nothing),
        row(Method::PUT, "/pools/{name}", FLEET, On::Pool, 200).body(|_| json!({ "target": 0 })),
        get("/pools/{name}/explain", On::Pool),
        get("/hosts", On::Nothing),
        row(Method::POST, "/hosts/{driver}/{name}/drain", FLEET, On::Host, 200)
            .body(|_| json!({ "draining": false })),
        get("/sandboxes", On::Nothing),
        get("/sandboxes/{id}", On::Sandbox),
        get("/sandboxes/{id}/usage", On::Sandbox),
        row(Method::POST, "/sandboxes/{id}/drain", FLEET, On::Sandbox, 200)
            .body(|_| json!({ "force": true })),
        get("/snapshots", On::Nothing),
        // Of a driver that keeps none.
        row(Method::DELETE, "/snapshots/{driver}/{name}", FLEET, On::Host, 404),
    ]
}

/// This server has no Docker Engine, which is said to those who may use one.
fn images() -> Vec<Row> {
    let get = |path, on| row(Method::GET, path, FLEET_READ, on, 503);
    vec![
        get("/images", On::Nothing),
        row(Method::POST, "/images", FLEET, On::Nothing, 503).body(|_| json!({})),
        get("/images/{hash}", On::Image),
        row(Method::DELETE, "/images/{hash}", FLEET, On::Image, 503),
        get("/images/{hash}/log", On::Image),
        row(Method::POST, "/images/{hash}/root-drive", FLEET, On::Image, 503)
            .body(|_| json!({ "size_mb": 4096 })),
    ]
}

fn access() -> Vec<Row> {
    let get = |path, needs, on| row(Method::GET, path, needs, on, 200);
    let delete = |path, needs, on| row(Method::DELETE, path, needs, on, 204);
    let name = |_: &World| json!({ "name": format!("n{}", World::number()) });
    vec![
        get("/tenants", PLATFORM, On::Nothing),
        row(Method::POST, "/tenants", PLATFORM, On::Nothing, 201).body(name),
        // A tenant that is not one's own is not there for anybody but the platform.
        get("/tenants/{id}", PLATFORM, On::Tenant).lacking(404),
        row(Method::PATCH, "/tenants/{id}", PLATFORM, On::Tenant, 200)
            .body(name)
            .lacking(404),
        delete("/tenants/{id}", PLATFORM, On::Tenant).lacking(404),
        get("/departments", AGENTS_READ, On::Nothing),
        row(Method::POST, "/departments", TENANT, On::Nothing, 201).body(name),
        row(Method::PATCH, "/departments/{id}", TENANT, On::Department, 200).body(name),
        delete("/departments/{id}", TENANT, On::Department),
        get("/users", TENANT, On::Nothing),
        row(Method::POST, "/users", TENANT, On::Nothing, 201).body(name),
        get("/users/{id}", TENANT, On::User),
        row(Method::PATCH, "/users/{id}", TENANT, On::User, 200).body(|_| json!({ "disabled": true })),
        delete("/users/{id}", TENANT, On::User),
        row(
            Method::PUT,
            "/users/{id}/roles/{role}",
            TENANT,
            On::UserAndRole,
            204,
        ),
        delete("/users/{id}/roles/{role}", TENANT, On::UserAndRole),
        get("/roles", TENANT, On::Nothing),
        row(Method::POST, "/roles", TENANT, On::Nothing, 201)
            .body(|_| json!({ "name": format!("n{}", World::number()), "permissions": ["runs:read"] })),
        row(Method::PUT, "/roles/{id}", TENANT, On::Role, 200)
            .body(|_| json!({ "permissions": ["agents:read"] })),
        delete("/roles/{id}", TENANT, On::Role),
        // Everybody sees the own ones, and makes some that can do no more.
        get("/tokens", &[], On::Nothing),
        row(Method::POST, "/tokens", &[], On::Nothing, 201).body(|_| json!({ "name": "t" })),
        delete("/tokens/{id}", TENANT, On::Token),
        get("/credentials", TENANT, On::Nothing),
        // A name means another credential in another tenant, which then is one of its own.
        row(
            Method::PUT,
            "/credentials/{name}",
            TENANT,
            On::CredentialName,
            200,
        )
        .body(|_| json!({ "kind": "generic", "value": "v" })),
        delete("/credentials/{name}", TENANT, On::CredentialName).elsewhere(204),
        row(Method::POST, "/credential-key/rotate", PLATFORM, On::Nothing, 200),
        get("/audit", &[P::AuditRead], On::Nothing),
    ]
}
