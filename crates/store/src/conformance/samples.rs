//! Values to store: one with every optional field set, one with none.

use crate::{
    AgentSession, Change, ClaimRuns, ClaimSandbox, CredentialCheck, FinishRun, KeptReply, RequeueRun,
    RunClass, Store,
};
use ostler_domain as d;
use ostler_domain::{NewRun, Requirements, RunId, RunOutcome, RunStatus, ServerId, TenantId, Timestamp};
use serde_json::json;
use std::time::Duration;

/// A text with everything that quoting or encoding could spoil.
pub(super) const AWKWARD: &str = "it's \"quoted\"\\ \n\t$1 ? % _ ü 漢 🐎 NULL";

pub(super) fn at(micros: i64) -> Timestamp {
    Timestamp(micros)
}

pub(super) fn tenant() -> d::Tenant {
    let id = TenantId::new();
    d::Tenant {
        id,
        name: format!("tenant {id}"),
        created_at: at(1_700_000_000_000_001),
        version: 1,
    }
}

pub(super) fn department(tenant_id: TenantId) -> d::Department {
    let id = d::DepartmentId::new();
    d::Department {
        id,
        tenant_id,
        name: format!("department {id}"),
        created_at: at(1),
        version: 1,
    }
}

pub(super) fn user(tenant_id: TenantId, department_id: Option<d::DepartmentId>) -> d::User {
    let id = d::UserId::new();
    d::User {
        id,
        tenant_id,
        name: format!("user {id}"),
        email: department_id.map(|_| AWKWARD.into()),
        department_id,
        disabled_at: department_id.map(|_| at(9)),
        created_at: at(1),
        version: 1,
    }
}

pub(super) fn role(tenant_id: Option<TenantId>) -> d::Role {
    let id = d::RoleId::new();
    d::Role {
        id,
        tenant_id,
        name: format!("role {id}"),
        permissions: [d::Permission::AuditRead, d::Permission::TenantAdmin]
            .into_iter()
            .collect(),
        created_at: at(1),
        version: 1,
    }
}

pub(super) fn credential(tenant_id: TenantId) -> d::Credential {
    let id = d::CredentialId::new();
    d::Credential {
        id,
        tenant_id,
        kind: d::CredentialKind::SshKey,
        name: format!("credential {id}"),
        ciphertext: "c2VhbGVk".into(),
        nonce: "bm9uY2U=".into(),
        key_id: "0d8f".into(),
        created_at: at(1),
        updated_at: at(2),
        version: 1,
    }
}

pub(super) fn credential_check() -> CredentialCheck {
    CredentialCheck {
        id: CredentialCheck::ID,
        key_id: "0d8f".into(),
        ciphertext: "c2VhbGVk".into(),
        nonce: "bm9uY2U=".into(),
        version: 1,
    }
}

pub(super) fn audit_entry(tenant_id: TenantId, full: bool) -> d::AuditEntry {
    d::AuditEntry {
        id: d::AuditId::new(),
        at: at(4),
        tenant_id,
        actor: "development".into(),
        token_id: full.then(d::TokenId::new),
        action: "project.create".into(),
        kind: "project".into(),
        object: AWKWARD.into(),
        request_id: full.then(|| "r".into()),
        details: if full {
            json!({ "name": AWKWARD })
        } else {
            json!(null)
        },
    }
}

/// A tenant that is there.
pub(super) async fn some_tenant(store: &dyn Store) -> TenantId {
    let tenant = tenant();
    store.commit(vec![Change::insert(&tenant)]).await.unwrap();
    tenant.id
}

pub(super) fn token(tenant_id: TenantId, full: bool) -> d::ApiToken {
    let id = d::TokenId::new();
    d::ApiToken {
        id,
        tenant_id,
        user_id: None,
        name: AWKWARD.into(),
        prefix: "ost_ab".into(),
        hash: format!("hash of {id}"),
        permissions: if full {
            [d::Permission::RunsRead, d::Permission::Admin]
                .into_iter()
                .collect()
        } else {
            d::Permissions::default()
        },
        created_at: at(2),
        expires_at: full.then_some(at(i64::MAX)),
        last_used_at: full.then_some(at(3)),
        revoked_at: full.then_some(at(-4)),
        version: 1,
    }
}

pub(super) fn project(tenant_id: TenantId) -> d::Project {
    let id = d::ProjectId::new();
    d::Project {
        id,
        tenant_id,
        name: format!("name of {id}"),
        source: format!("source of {id}"),
        default_branch: "main".into(),
        next_subtask: 1,
        next_merge_request: 1,
        created_at: at(5),
        version: 1,
    }
}

pub(super) fn task(project: &d::Project, full: bool) -> d::Task {
    d::Task {
        id: d::TaskId::new(),
        tenant_id: project.tenant_id,
        project_id: project.id,
        title: "a title".into(),
        description: AWKWARD.into(),
        agent_kind: "claude".into(),
        auto: full,
        status: if full {
            d::TaskStatus::Active
        } else {
            d::TaskStatus::Planning
        },
        epic: full.then(|| "os-1".into()),
        spec: String::new(),
        plan: "first\nsecond".into(),
        attempts: 3,
        run_id: full.then(RunId::new),
        error: full.then(|| "it broke".into()),
        created_at: at(6),
        updated_at: at(7),
        version: 1,
    }
}

pub(super) fn subtask(task: &d::Task, number: i64, full: bool) -> d::Subtask {
    d::Subtask {
        id: d::SubtaskId::new(),
        tenant_id: task.tenant_id,
        project_id: task.project_id,
        task_id: task.id,
        issue_id: "os-1.1".into(),
        number,
        title: "a piece".into(),
        spec: AWKWARD.into(),
        plan: String::new(),
        position: -2,
        status: if full {
            d::SubtaskStatus::Blocked
        } else {
            d::SubtaskStatus::Pending
        },
        blocked_reason: full.then_some(d::BlockedReason::Dependency),
        depends_on: if full {
            vec![d::SubtaskId::new(), d::SubtaskId::new()]
        } else {
            Vec::new()
        },
        branch: format!("ostler/{number}"),
        attempts: u32::MAX,
        run_id: full.then(RunId::new),
        feedback: full.then(|| "again".into()),
        error: full.then(|| "it broke".into()),
        merge_request_id: full.then(d::MergeRequestId::new),
        worktree_expires_at: full.then_some(at(9)),
        created_at: at(10),
        updated_at: at(11),
        version: 1,
    }
}

pub(super) fn merge_request(subtask: &d::Subtask, number: i64, full: bool) -> d::MergeRequest {
    d::MergeRequest {
        id: d::MergeRequestId::new(),
        tenant_id: subtask.tenant_id,
        project_id: subtask.project_id,
        number,
        task_id: subtask.task_id,
        subtask_id: subtask.id,
        title: "merge it".into(),
        body: AWKWARD.into(),
        source_branch: subtask.branch.clone(),
        target_branch: "main".into(),
        head: "0123456789abcdef".into(),
        merge_commit: full.then(|| "fedcba".into()),
        status: if full {
            d::MergeRequestStatus::Merged
        } else {
            d::MergeRequestStatus::Open
        },
        created_at: at(12),
        closed_at: full.then_some(at(13)),
        version: 1,
    }
}

pub(super) fn issue(project: &d::Project, id: &str, task: Option<&d::Task>) -> d::Issue {
    let full = task.is_some();
    d::Issue {
        id: id.into(),
        tenant_id: project.tenant_id,
        project_id: project.id,
        task_id: task.map(|t| t.id),
        issue_type: if full {
            d::IssueType::Epic
        } else {
            d::IssueType::Chore
        },
        title: "an issue".into(),
        description: AWKWARD.into(),
        design: String::new(),
        acceptance_criteria: "it works".into(),
        notes: String::new(),
        status: if full {
            d::IssueStatus::InProgress
        } else {
            d::IssueStatus::Open
        },
        priority: 4,
        assignee: full.then(|| "somebody".into()),
        labels: if full { vec![AWKWARD.into()] } else { Vec::new() },
        dependencies: if full {
            vec![d::IssueDependency {
                depends_on: "os-0".into(),
                kind: d::DependencyType::ParentChild,
            }]
        } else {
            Vec::new()
        },
        comments: if full {
            vec![d::IssueComment {
                author: "somebody".into(),
                text: AWKWARD.into(),
                created_at: at(14),
            }]
        } else {
            Vec::new()
        },
        close_reason: full.then(|| "done".into()),
        created_at: at(15),
        updated_at: at(16),
        closed_at: full.then_some(at(17)),
        version: 1,
    }
}

pub(super) fn template(full: bool) -> d::SandboxTemplate {
    let mut template = d::SandboxTemplate::new(d::DriverKind::Docker);
    if full {
        template.image = Some("debian:13".into());
        template.disk_mb = Some(u64::from(u32::MAX));
        template.network = d::NetworkPolicy::Open;
        template.env = [("A".to_owned(), AWKWARD.to_owned())].into();
        template.mounts = vec![d::Mount {
            source: "/a".into(),
            target: "/b".into(),
            writable: true,
        }];
        template.labels = [("gpu".to_owned(), "yes".to_owned())].into();
    }
    template
}

pub(super) fn pool(name: &str, full: bool) -> d::Pool {
    d::Pool {
        name: name.into(),
        template: template(full),
        target: 2,
        max: 10,
        start_concurrency: 3,
        refill_per_minute: 60,
        refill_burst: 5,
        failures: u32::from(full),
        last_error: full.then(|| AWKWARD.into()),
        retry_at: full.then_some(at(18)),
        version: 1,
    }
}

pub(super) fn host(name: &str, full: bool) -> d::Host {
    let server = ServerId::from_u128(7);
    d::Host {
        id: d::Host::id_of(server, d::DriverKind::Docker, name),
        server_id: server,
        driver: d::DriverKind::Docker,
        name: name.into(),
        failures: 3,
        last_error: full.then(|| AWKWARD.into()),
        quarantined_until: full.then_some(at(30)),
        draining: full,
        version: 1,
    }
}

pub(super) fn usage(when: d::Timestamp, holder: Option<TenantId>) -> d::UsageSample {
    let amount = holder.map(|_| 1 << 40);
    d::UsageSample {
        sandbox_id: d::SandboxId::new(),
        at: when,
        tenant_id: holder,
        cpu_us: amount,
        memory_bytes: amount,
        read_bytes: amount,
        written_bytes: amount,
        received_bytes: amount,
        sent_bytes: amount,
        processes: amount,
    }
}

pub(super) fn sandbox(holder: Option<TenantId>, cid: Option<i64>) -> d::Sandbox {
    let full = holder.is_some();
    d::Sandbox {
        id: d::SandboxId::new(),
        tenant_id: holder,
        department_id: full.then(d::DepartmentId::new),
        pool: "default".into(),
        driver: d::DriverKind::Docker,
        driver_ref: full.then(|| "container".into()),
        server_id: ServerId::new(),
        host: "local".into(),
        paused: full.then_some(d::PausedBy::Holder),
        status: if full {
            d::SandboxStatus::Running
        } else {
            d::SandboxStatus::Warm
        },
        template: template(full),
        config: if full {
            json!({"a": [1, null, {"b": AWKWARD}], "n": -1.5})
        } else {
            serde_json::Value::Null
        },
        tool_allowlist: full.then(|| vec!["git".to_owned()]),
        vsock_cid: cid,
        for_run: full,
        failures: 2,
        reason: full.then(|| "unwell".into()),
        created_at: at(19),
        claimed_at: full.then_some(at(20)),
        checked_at: full.then_some(at(21)),
        used_at: full.then_some(at(22)),
        version: 1,
    }
}

pub(super) fn kept_reply(tenant_id: TenantId) -> KeptReply {
    let run_id = RunId::new();
    KeptReply {
        id: format!("{run_id}:1"),
        tenant_id,
        run_id,
        stdout: AWKWARD.into(),
        stderr: String::new(),
        code: -1,
        created_at: at(6),
    }
}

pub(super) fn agent_session(tenant_id: TenantId, subject: &str) -> AgentSession {
    AgentSession {
        subject: subject.into(),
        tenant_id,
        agent_session: "0d8f".into(),
        totals: d::Usage {
            input_tokens: 1,
            output_tokens: 1 << 40,
            cache_read_tokens: 3,
            cache_write_tokens: 4,
            cost_usd: 0.125,
        },
        expires_at: at(22),
        version: 1,
    }
}

/// Requirements of a class of its own.
pub(super) fn class_named(name: &str) -> Requirements {
    Requirements {
        labels: [("class".to_owned(), name.to_owned())].into(),
        ..Requirements::default()
    }
}

/// A run with no optional field set.
pub(super) fn run(tenant_id: TenantId, class: &str, priority: i32) -> NewRun {
    NewRun {
        id: RunId::new(),
        tenant_id,
        kind: d::RunKind::Command,
        project_id: None,
        task_id: None,
        subtask_id: None,
        ordinal: 1,
        requirements: class_named(class),
        priority,
        max_attempts: 3,
        not_before: None,
        spec: d::RunSpec {
            commands: vec![d::CommandSpec {
                argv: vec!["true".into()],
                ..d::CommandSpec::default()
            }],
            ..d::RunSpec::default()
        },
        created_at: at(100),
    }
}

/// A run with every field set, due at once.
pub(super) fn full_run(tenant_id: TenantId, class: &str) -> NewRun {
    let project_id = d::ProjectId::new();
    NewRun {
        kind: d::RunKind::Worker,
        project_id: Some(project_id),
        task_id: Some(d::TaskId::new()),
        subtask_id: Some(d::SubtaskId::new()),
        ordinal: 7,
        requirements: Requirements {
            pool: Some("small".into()),
            cpus: Some(2),
            network: Some(d::NetworkPolicy::None),
            devices: ["kvm".to_owned()].into(),
            ..class_named(class)
        },
        not_before: Some(at(50)),
        spec: d::RunSpec {
            commands: vec![d::CommandSpec {
                argv: vec!["sh".into(), AWKWARD.into()],
                env: [("K".to_owned(), AWKWARD.to_owned())].into(),
                cwd: Some("/tmp".into()),
                stdin: Some(AWKWARD.repeat(500)),
            }],
            agent: Some(d::AgentSpec {
                kind: "claude".into(),
                prompt: AWKWARD.into(),
                resume: Some("0d8f".into()),
            }),
            workspace: Some(d::WorkspaceSpec {
                project_id,
                branch: "b".into(),
                head: Some("0d8f".into()),
                write_back: true,
            }),
            timeout: Some(Duration::new(60, 500_000_000)),
        },
        ..run(tenant_id, class, -5)
    }
}

/// An outcome with every field set.
pub(super) fn outcome() -> RunOutcome {
    RunOutcome {
        exit_code: Some(-1),
        signal: Some(9),
        error: Some(AWKWARD.into()),
        usage: agent_session(TenantId::DEFAULT, "x").totals,
        agent_session: Some("0d8f".into()),
        result: Some(json!({"ok": [true, null]})),
        head: Some("abc".into()),
        log_seq: 1 << 50,
    }
}

/// The number of the class that [`class_named`] describes.
pub(super) async fn class_id(store: &dyn Store, name: &str) -> i64 {
    let wanted = class_named(name);
    let classes = store.classes().await.unwrap();
    let found: Vec<&RunClass> = classes.iter().filter(|c| c.requirements == wanted).collect();
    assert_eq!(found.len(), 1, "class {name} must be there once: {classes:?}");
    found[0].id
}

/// A claim of up to `limit` runs of one class at the time 1000.
pub(super) async fn claim_of(store: &dyn Store, server: ServerId, class: &str, limit: u32) -> Vec<d::Run> {
    let classes = vec![class_id(store, class).await];
    store
        .claim(ClaimRuns {
            server_id: server,
            classes,
            limit,
            now: at(1000),
        })
        .await
        .unwrap()
}

pub(super) fn ids(runs: &[d::Run]) -> Vec<RunId> {
    runs.iter().map(|run| run.submitted.id).collect()
}

pub(super) fn finish(id: RunId, attempt: u32, status: RunStatus) -> FinishRun {
    FinishRun {
        id,
        attempt,
        status,
        outcome: outcome(),
        at: at(2000),
    }
}

pub(super) fn requeue(id: RunId, attempt: u32) -> RequeueRun {
    RequeueRun {
        id,
        attempt,
        reason: "the server went away".into(),
        not_before: None,
        at: at(3000),
        counts: true,
    }
}

pub(super) fn claim_sandbox(pool: &str, server_id: ServerId, tenant_id: TenantId) -> ClaimSandbox {
    ClaimSandbox {
        pool: pool.into(),
        server_id,
        tenant_id,
        department_id: None,
        config: json!({"held": true}),
        tool_allowlist: Some(vec!["git".into()]),
        for_run: true,
        now: at(5000),
    }
}
