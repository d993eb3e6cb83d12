//! Runs, their claims and their ends.

use super::{AWKWARD, agent_session, at};
use crate::{ClaimRuns, FinishRun, RequeueRun, RunClass, Store};
use ostler_domain as d;
use ostler_domain::{NewRun, Requirements, RunId, RunOutcome, RunStatus, ServerId, TenantId};
use serde_json::json;
use std::time::Duration;

/// Requirements of a class of its own.
pub(in crate::conformance) fn class_named(name: &str) -> Requirements {
    Requirements {
        labels: [("class".to_owned(), name.to_owned())].into(),
        ..Requirements::default()
    }
}

/// A run with no optional field set.
pub(in crate::conformance) fn run(tenant_id: TenantId, class: &str, priority: i32) -> NewRun {
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
pub(in crate::conformance) fn full_run(tenant_id: TenantId, class: &str) -> NewRun {
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
pub(in crate::conformance) fn outcome() -> RunOutcome {
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
pub(in crate::conformance) async fn class_id(store: &dyn Store, name: &str) -> i64 {
    let wanted = class_named(name);
    let classes = store.classes().await.unwrap();
    let found: Vec<&RunClass> = classes.iter().filter(|c| c.requirements == wanted).collect();
    assert_eq!(found.len(), 1, "class {name} must be there once: {classes:?}");
    found[0].id
}

/// A claim of up to `limit` runs of one class at the time 1000.
pub(in crate::conformance) async fn claim_of(
    store: &dyn Store,
    server: ServerId,
    class: &str,
    limit: u32,
) -> Vec<d::Run> {
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

pub(in crate::conformance) fn ids(runs: &[d::Run]) -> Vec<RunId> {
    runs.iter().map(|run| run.submitted.id).collect()
}

pub(in crate::conformance) fn finish(id: RunId, attempt: u32, status: RunStatus) -> FinishRun {
    FinishRun {
        id,
        attempt,
        status,
        outcome: outcome(),
        at: at(2000),
    }
}

pub(in crate::conformance) fn requeue(id: RunId, attempt: u32) -> RequeueRun {
    RequeueRun {
        id,
        attempt,
        reason: "the server went away".into(),
        not_before: None,
        at: at(3000),
        counts: true,
    }
}
