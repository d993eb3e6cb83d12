//! A server with two tenants, and objects of every kind in one of them.

use crate::rows::Scope;
use ostler_artifacts::{ArtifactSettings, ArtifactStore};
use ostler_domain::{
    Artifact, ArtifactId, BlockedReason, Clock, MergeRequest, MergeRequestId, MergeRequestStatus, NewRun,
    Permission, PlanId, Project, RunId, RunStatus, Subtask, SubtaskId, SubtaskStatus, SystemClock, Task,
    TaskId, TaskStatus, TenantId, TestRecord, Timestamp,
};
use ostler_store::{Change, Filter, Store, StoreExt};
use ostler_store_postgres::PostgresStore;
use ostler_store_sqlite::{SqliteOptions, SqliteStore};
use ostler_test_kit::{TestServer, repository};
use reqwest::{Client, Method};
use serde_json::{Value, json};
use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// Objects that only agents or their runs make, prepared in the database.
const PREPARED: usize = 12;
/// A file that runs have left, and the key of their test.
const KEPT: &str = "a/b";
const KEY: &str = "0123456789abcdef";
/// For the beginning of an answer; a stream has no end.
const LIMIT: Duration = Duration::from_secs(60);

/// The object that a path names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum On {
    Nothing,
    Project,
    Task,
    FailedTask,
    Subtask,
    BlockedSubtask,
    CompletedSubtask,
    MergeRequest,
    Run,
    RunAndPath,
    TestAndPath,
    QuarantinedTest,
    Plan,
    Agent,
    AgentWithFile,
    AgentProgram,
    PlatformAgent,
    Image,
    Pool,
    Host,
    Sandbox,
    Tenant,
    Department,
    User,
    UserAndRole,
    Role,
    Token,
    CredentialName,
}

impl On {
    /// Whether it belongs to the tenant, so that another one must not know of it.
    pub(crate) fn is_of_tenant(self) -> bool {
        !matches!(
            self,
            Self::Nothing
                | Self::TestAndPath
                | Self::Image
                | Self::Pool
                | Self::Host
                | Self::Sandbox
                | Self::CredentialName
        )
    }
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Value,
}

pub(crate) struct World {
    pub(crate) server: TestServer,
    http: Client,
    administrator: String,
    /// The tenant with the objects.
    pub(crate) home_id: String,
    /// May do everything in the other tenant.
    pub(crate) other: String,
    /// May do everything in the tenant with the objects.
    owner: String,
    /// Where repositories are made.
    sources: PathBuf,
    prepared: Mutex<BTreeMap<On, VecDeque<String>>>,
}

static NUMBER: AtomicU32 = AtomicU32::new(1);

impl World {
    pub(crate) fn number() -> u32 {
        NUMBER.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) async fn new(directory: &Path, database: Option<&str>) -> Self {
        let source = directory.join("source");
        repository(&source, &[("README", "sample\n")]);
        let server = TestServer::new(env!("CARGO_BIN_EXE_ostler"), directory.join("data"))
            .args(database.into_iter().flat_map(|url| ["--database", url]))
            .env("OSTLER_DRIVERS__SIM", "true")
            .env("OSTLER_DRIVERS__PROCESS", "false")
            .env("OSTLER_DRIVERS__DOCKER", "false")
            // What is planned comes to nothing here, and is not tried again within the test.
            .env("OSTLER_WORK__BACKOFF_FIRST_SECONDS", "3600")
            .start()
            .await;
        let administrator = server.token.clone().unwrap();
        let mut world = Self {
            http: Client::new(),
            administrator: administrator.clone(),
            home_id: String::new(),
            other: String::new(),
            owner: String::new(),
            sources: directory.join("sources"),
            prepared: Mutex::default(),
            server,
        };
        let home = world
            .post(&administrator, None, "/tenants", json!({ "name": "home" }))
            .await;
        let other = world
            .post(&administrator, None, "/tenants", json!({ "name": "other" }))
            .await;
        world.home_id = id(&home);
        let all = json!({ "name": "all", "permissions": ["tenant:admin"] });
        let token = world
            .post(&administrator, Some("home"), "/tokens", all.clone())
            .await;
        world.owner = secret(&token);
        let token = world.post(&administrator, Some("other"), "/tokens", all).await;
        world.other = secret(&token);
        assert_ne!(id(&other), world.home_id);
        // An agent for nearly every row, and a program of the queue here and there.
        let (status, pool) = world
            .server
            .call(Method::PUT, "/pools/default", Some(json!({ "max": 500 })))
            .await;
        assert_eq!(status, 200, "{pool}");
        let project = json!({ "source": source });
        let project = world
            .post(&administrator, Some("home"), "/projects", project)
            .await;
        world.server.stop().await;
        let store = open(&directory.join("data/ostler.db"), database).await;
        let mut prepared = prepare(store.as_ref(), &id(&project)).await;
        let runs = kept(store.as_ref(), &directory.join("data/artifacts"), &world.home_id).await;
        prepared.insert(On::RunAndPath, runs);
        store.close().await;
        *world.prepared.lock().unwrap() = prepared;
        world.server.start_again().await;
        world
    }

    /// One request; of an answer that has no end only the beginning.
    pub(crate) async fn call(
        &self,
        method: Method,
        path: &str,
        query: &str,
        token: Option<&str>,
        body: Option<Value>,
    ) -> Answer {
        self.send(method, &format!("{path}{query}"), token, None, body)
            .await
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        token: Option<&str>,
        tenant: Option<&str>,
        body: Option<Value>,
    ) -> Answer {
        let url = format!("{}/api/v1{path}", self.server.url());
        let mut request = self.http.request(method, url);
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        if let Some(tenant) = tenant {
            request = request.header("ostler-tenant", tenant);
        }
        request = match body {
            None => request,
            Some(Value::Null) => request.body("content"),
            Some(body) => request.json(&body),
        };
        let answered = async {
            let response = request.send().await.unwrap();
            let status = response.status().as_u16();
            let is_json = response
                .headers()
                .get("content-type")
                .is_some_and(|kind| kind.as_bytes().starts_with(b"application/json"));
            let body = if is_json {
                response.json().await.unwrap()
            } else {
                Value::Null
            };
            Answer { status, body }
        };
        let answer = tokio::time::timeout(LIMIT, answered).await;
        answer.unwrap_or_else(|_| panic!("{path} does not answer"))
    }

    async fn post(&self, token: &str, tenant: Option<&str>, path: &str, body: Value) -> Value {
        let answer = self
            .send(Method::POST, path, Some(token), tenant, Some(body))
            .await;
        assert!((200..300).contains(&answer.status), "{path}: {answer:?}");
        answer.body
    }

    /// Makes something in the tenant as one who may.
    async fn new_object(&self, path: &str, body: Value) -> String {
        id(&self.post(&self.owner, None, path, body).await)
    }

    /// An object for one row, as the variables of its path.
    pub(crate) async fn make(&self, on: On) -> Vec<String> {
        let named = || json!({ "name": format!("n{}", Self::number()) });
        if on == On::RunAndPath {
            let run = self
                .prepared
                .lock()
                .unwrap()
                .get_mut(&On::RunAndPath)
                .unwrap()
                .pop_front();
            return vec![run.unwrap(), KEPT.to_owned()];
        }
        if let Some(ready) = self.prepared.lock().unwrap().get_mut(&on) {
            return vec![
                ready
                    .pop_front()
                    .unwrap_or_else(|| panic!("more of {on:?} are needed")),
            ];
        }
        let one = match on {
            On::Nothing => return Vec::new(),
            On::Project => {
                let source = self.sources.join(Self::number().to_string());
                repository(&source, &[("README", "sample\n")]);
                let body = json!({ "source": source });
                id(&self
                    .post(&self.administrator, Some("home"), "/projects", body)
                    .await)
            }
            On::Run => {
                self.new_object("/runs", json!({ "command": ["sleep", "3600"] }))
                    .await
            }
            On::TestAndPath => return vec![KEY.to_owned(), KEPT.to_owned()],
            On::QuarantinedTest => {
                let body = json!({ "plan": "p", "test": named()["name"] });
                let listed = self.post(&self.owner, None, "/tests/quarantine", body).await;
                listed["key"].as_str().unwrap().to_owned()
            }
            On::Plan => {
                let test = json!({ "name": "t", "run": ["sleep", "3600"] });
                self.new_object("/plans", json!({ "name": "p", "tests": [test] }))
                    .await
            }
            On::Agent | On::AgentWithFile => {
                let agent = self.new_object("/agents", json!({})).await;
                if on == On::AgentWithFile {
                    let path = format!("/agents/{agent}/files?path=/tmp/x");
                    let body = Some(Value::Null);
                    let put = self.send(Method::PUT, &path, Some(&self.owner), None, body).await;
                    assert_eq!(put.status, 200, "{put:?}");
                }
                agent
            }
            On::AgentProgram => {
                let agent = self.new_object("/agents", json!({})).await;
                let body = json!({ "command": ["sleep", "3600"], "grace_seconds": 3600 });
                let path = format!("/agents/{agent}/exec");
                let started = self
                    .send(Method::POST, &path, Some(&self.owner), None, Some(body))
                    .await;
                assert_eq!(started.status, 200, "{started:?}");
                let path = format!("/agents/{agent}/execs");
                let programs = self.send(Method::GET, &path, Some(&self.owner), None, None).await;
                let program = programs.body[0]["exec_id"].as_str();
                let program = program
                    .unwrap_or_else(|| panic!("no program in {programs:?}"))
                    .to_owned();
                return vec![agent, program];
            }
            On::PlatformAgent => id(&self.post(&self.administrator, None, "/agents", json!({})).await),
            On::Image => "0123456789abcdef".to_owned(),
            On::Pool => "default".to_owned(),
            On::Host => return vec!["sim".to_owned(), "local".to_owned()],
            On::Sandbox => self.new_object("/agents", json!({})).await,
            On::Tenant => id(&self.post(&self.administrator, None, "/tenants", named()).await),
            On::Department => self.new_object("/departments", named()).await,
            On::User => self.new_object("/users", named()).await,
            On::Role => {
                self.new_object("/roles", json!({ "name": named()["name"], "permissions": [] }))
                    .await
            }
            On::UserAndRole => {
                let role = json!({ "name": named()["name"], "permissions": ["runs:read"] });
                return vec![
                    self.new_object("/users", named()).await,
                    self.new_object("/roles", role).await,
                ];
            }
            On::Token => self.new_object("/tokens", named()).await,
            On::CredentialName => {
                let name = format!("c{}", Self::number());
                let value = json!({ "kind": "generic", "value": "v" });
                for owner in [&self.owner, &self.other] {
                    let path = format!("/credentials/{name}");
                    let put = self
                        .send(Method::PUT, &path, Some(owner), None, Some(value.clone()))
                        .await;
                    assert_eq!(put.status, 200, "{put:?}");
                }
                name
            }
            prepared => panic!("{prepared:?} is not prepared"),
        };
        vec![one]
    }

    /// Variables that name nothing.
    pub(crate) fn strange(on: On) -> Vec<String> {
        use ostler_domain as d;
        let one = match on {
            On::Project => d::ProjectId::new().to_string(),
            On::Task | On::FailedTask => TaskId::new().to_string(),
            On::Subtask | On::BlockedSubtask | On::CompletedSubtask => SubtaskId::new().to_string(),
            On::MergeRequest => MergeRequestId::new().to_string(),
            On::Run => d::RunId::new().to_string(),
            On::RunAndPath => return vec![d::RunId::new().to_string(), KEPT.to_owned()],
            On::QuarantinedTest => format!("{:032x}", Self::number()),
            On::Plan => d::PlanId::new().to_string(),
            On::Agent | On::AgentWithFile | On::PlatformAgent | On::Sandbox => {
                d::SandboxId::new().to_string()
            }
            On::AgentProgram => return vec![d::SandboxId::new().to_string(), "x".to_owned()],
            On::Tenant => d::TenantId::new().to_string(),
            On::Department => d::DepartmentId::new().to_string(),
            On::User => d::UserId::new().to_string(),
            On::UserAndRole => return vec![d::UserId::new().to_string(), d::RoleId::new().to_string()],
            On::Role => d::RoleId::new().to_string(),
            On::Token => d::TokenId::new().to_string(),
            On::Nothing | On::TestAndPath | On::Image | On::Pool | On::Host | On::CredentialName => {
                panic!("{on:?} is nobody's")
            }
        };
        vec![one]
    }

    /// A token with these permissions alone.
    pub(crate) async fn only(&self, scope: Scope, permissions: &[Permission]) -> String {
        let tenant = (scope == Scope::Tenant).then_some("home");
        let body = json!({ "name": "only", "permissions": permissions });
        secret(&self.post(&self.administrator, tenant, "/tokens", body).await)
    }

    /// A token with every permission but the first of these.
    pub(crate) async fn all_but(&self, scope: Scope, permissions: &[Permission]) -> String {
        let lacking = permissions.first();
        let includes = |p: Permission| match (p, lacking) {
            (Permission::Admin, _) => true,
            (Permission::TenantAdmin, Some(lacking)) => !lacking.is_of_platform(),
            _ => false,
        };
        let rest: Vec<Permission> = Permission::ALL
            .iter()
            .copied()
            .filter(|p| scope == Scope::Platform || !p.is_of_platform())
            .filter(|p| Some(p) != lacking && !includes(*p))
            .collect();
        self.only(scope, &rest).await
    }
}

fn id(body: &Value) -> String {
    body["id"]
        .as_str()
        .unwrap_or_else(|| panic!("no id in {body}"))
        .to_owned()
}

fn secret(body: &Value) -> String {
    body["secret"]
        .as_str()
        .unwrap_or_else(|| panic!("no secret in {body}"))
        .to_owned()
}

async fn open(file: &Path, database: Option<&str>) -> Box<dyn Store> {
    let Some(url) = database else {
        return Box::new(SqliteStore::open(file, SqliteOptions::default()).unwrap());
    };
    let options = ostler_store_postgres::Options::default();
    Box::new(PostgresStore::connect(url, options).await.unwrap())
}

/// Runs of a test that left a file each, with its content.
async fn kept(store: &dyn Store, directory: &Path, tenant: &str) -> VecDeque<String> {
    let tenant_id: TenantId = tenant.parse().unwrap();
    let artifacts = ArtifactStore::open(&ArtifactSettings::default(), directory.to_owned()).unwrap();
    let now = SystemClock.now();
    let mut runs = VecDeque::new();
    for _ in 0..PREPARED {
        let run: NewRun = serde_json::from_value(json!({
            "id": RunId::new(), "tenant_id": tenant_id, "kind": "test", "project_id": null, "task_id": null,
            "subtask_id": null, "plan_id": null, "ordinal": 1, "requirements": {}, "priority": 0, "max_attempts": 1,
            "not_before": null, "held": true, "created_at": now, "spec": { "test": { "name": "t", "key": KEY } },
        }))
        .unwrap();
        let mut archive = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(6);
        header.set_mode(0o644);
        archive.append_data(&mut header, KEPT, &b"secret"[..]).unwrap();
        let archive = bytes::Bytes::from(archive.into_inner().unwrap());
        let stream = futures::stream::iter([Ok::<_, std::io::Error>(archive)]);
        let limits = ArtifactSettings::default().limits(None, None);
        let stored = artifacts.put(run.id, limits, now, stream).await;
        let file = &stored.files[0];
        let artifact = Artifact {
            id: ArtifactId::new(),
            tenant_id,
            run_id: run.id,
            plan_id: None,
            path: file.path.clone(),
            bytes: 6,
            sha256: file.sha256.clone(),
            object: file.place.to_string(),
            created_at: stored.created_at,
            expires_at: None,
        };
        let record = TestRecord {
            run_id: run.id,
            tenant_id,
            key: KEY.into(),
            plan_id: PlanId::new(),
            plan: "p".into(),
            name: "t".into(),
            ordinal: 1,
            status: RunStatus::Succeeded,
            tolerated: false,
            superseded: false,
            flaky: false,
            duration_us: 1,
            cpu_us: 0,
            peak_memory_bytes: 0,
            revision: None,
            created_at: now,
        };
        runs.push_back(run.id.to_string());
        let changes = vec![
            Change::enqueue(run),
            Change::insert(&artifact),
            Change::insert(&record),
        ];
        store.commit(changes).await.unwrap();
    }
    runs
}

/// Objects of the project in the states that rows need, while no server runs.
async fn prepare(store: &dyn Store, project: &str) -> BTreeMap<On, VecDeque<String>> {
    let project: Project = store
        .first(Filter::by(
            "id",
            project.parse::<ostler_domain::ProjectId>().unwrap(),
        ))
        .await
        .unwrap()
        .unwrap();
    let mut made: BTreeMap<On, VecDeque<String>> = BTreeMap::new();
    let mut changes = Vec::new();
    let mut number = 100;
    for _ in 0..PREPARED {
        for (on, status) in [
            (On::Task, TaskStatus::Active),
            (On::FailedTask, TaskStatus::PlanningFailed),
        ] {
            let task = task(&project, status);
            made.entry(on).or_default().push_back(task.id.to_string());
            changes.push(Change::insert(&task));
        }
        let parent = task(&project, TaskStatus::Active);
        changes.push(Change::insert(&parent));
        for (on, status) in [
            (On::Subtask, SubtaskStatus::Ready),
            (On::BlockedSubtask, SubtaskStatus::Blocked),
            (On::CompletedSubtask, SubtaskStatus::Completed),
            (On::MergeRequest, SubtaskStatus::Ready),
        ] {
            number += 1;
            let mut subtask = subtask(&parent, number, status);
            let request = request(&project, &subtask);
            if matches!(on, On::CompletedSubtask | On::MergeRequest) {
                subtask.merge_request_id = Some(request.id);
            }
            changes.push(Change::insert(&subtask));
            changes.push(Change::insert(&request));
            let made_id = match on {
                On::MergeRequest => request.id.to_string(),
                _ => subtask.id.to_string(),
            };
            made.entry(on).or_default().push_back(made_id);
        }
    }
    store.commit(changes).await.unwrap();
    made
}

fn task(project: &Project, status: TaskStatus) -> Task {
    let now = Timestamp(1);
    Task {
        id: TaskId::new(),
        tenant_id: project.tenant_id,
        project_id: project.id,
        title: "a task".into(),
        description: String::new(),
        agent_kind: "claude".into(),
        auto: false,
        status,
        epic: None,
        spec: String::new(),
        plan: String::new(),
        attempts: 1,
        run_id: None,
        error: None,
        created_at: now,
        updated_at: now,
        version: 0,
    }
}

fn subtask(task: &Task, number: i64, status: SubtaskStatus) -> Subtask {
    Subtask {
        id: SubtaskId::new(),
        tenant_id: task.tenant_id,
        project_id: task.project_id,
        task_id: task.id,
        issue_id: String::new(),
        number,
        title: format!("subtask {number}"),
        spec: String::new(),
        plan: String::new(),
        position: number,
        status,
        blocked_reason: (status == SubtaskStatus::Blocked).then_some(BlockedReason::Failure),
        depends_on: Vec::new(),
        branch: format!("subtask-{number}"),
        attempts: 0,
        run_id: None,
        feedback: None,
        error: None,
        merge_request_id: None,
        worktree_expires_at: None,
        created_at: task.created_at,
        updated_at: task.updated_at,
        version: 0,
    }
}

fn request(project: &Project, subtask: &Subtask) -> MergeRequest {
    MergeRequest {
        id: MergeRequestId::new(),
        tenant_id: subtask.tenant_id,
        project_id: subtask.project_id,
        number: subtask.number,
        task_id: subtask.task_id,
        subtask_id: subtask.id,
        title: String::new(),
        body: String::new(),
        source_branch: subtask.branch.clone(),
        target_branch: project.default_branch.clone(),
        head: project.default_branch.clone(),
        merge_commit: None,
        status: MergeRequestStatus::Open,
        created_at: subtask.created_at,
        closed_at: None,
        version: 0,
    }
}
