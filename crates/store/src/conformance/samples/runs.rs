//! Runs, their claims and their ends.

use super::{AWKWARD, agent_session, at};
use crate::{ClaimRuns, FinishRun, RequeueRun, Store};
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
        plan_id: None,
        ordinal: 1,
        requirements: class_named(class),
        priority,
        max_attempts: 3,
        not_before: None,
        held: false,
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
        plan_id: Some(d::PlanId::new()),
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
            test: Some(Box::new(test_spec())),
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
        test: Some(Box::new(test_result())),
    }
}

/// The numbers of the classes that [`class_named`] describes: one of each tenant.
pub(in crate::conformance) async fn class_ids(store: &dyn Store, name: &str) -> Vec<i64> {
    let wanted = class_named(name);
    let classes = store.classes().await.unwrap();
    let found = classes.iter().filter(|c| c.requirements == wanted);
    found.map(|c| c.id).collect()
}

/// The number of the class that [`class_named`] describes, where only one tenant has it.
pub(in crate::conformance) async fn class_id(store: &dyn Store, name: &str) -> i64 {
    let found = class_ids(store, name).await;
    assert_eq!(found.len(), 1, "class {name} must be there once");
    found[0]
}

/// A claim of up to `limit` runs of one class, of all tenants, at the time 1000.
pub(in crate::conformance) async fn claim_of(
    store: &dyn Store,
    server: ServerId,
    class: &str,
    limit: u32,
) -> Vec<d::Run> {
    let classes = class_ids(store, class).await;
    assert!(!classes.is_empty(), "class {class} must be there");
    store
        .claim(ClaimRuns {
            server_id: server,
            classes,
            picks: Vec::new(),
            limit,
            now: at(1000),
            sandbox: None,
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
        then: Vec::new(),
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

/// A test with every field set.
pub(in crate::conformance) fn test_spec() -> d::TestSpec {
    d::TestSpec {
        plan: AWKWARD.into(),
        name: AWKWARD.into(),
        key: "0123456789abcdef".into(),
        index: 3,
        shard: Some(d::Shard { index: 1, count: 2 }),
        needs: vec!["build".into()],
        retries: 2,
        retry_delay_ms: 1 << 40,
        kernel: Some(d::Kernel {
            name: "6.1".into(),
            args: vec!["panic=1".into()],
            expect: d::KernelEnd::Panic,
        }),
        isolation: d::TestIsolation::Sandbox,
        network: d::TestNetwork::Sandbox,
        artifacts: vec!["out/**".into()],
        artifact_limits: d::ArtifactLimits {
            max_files: Some(1),
            max_bytes: Some(1 << 40),
        },
        reports: vec![d::TestReport {
            source: d::ReportSource::Files("*.xml".into()),
            format: Some(d::ReportFormat::Junit),
        }],
        quarantined: true,
        allow_failure: true,
        tags: vec![AWKWARD.into()],
    }
}

/// What became known of a test, with every field set.
pub(in crate::conformance) fn test_result() -> d::TestResult {
    d::TestResult {
        metrics: Some(d::TestMetrics {
            wall_us: 1 << 50,
            cpu_user_us: 2,
            ..d::TestMetrics::default()
        }),
        cases: Some(d::CaseCounts {
            passed: 3,
            ..d::CaseCounts::default()
        }),
        failure: Some(d::FailureClass::Test),
        kernel_end: Some(d::KernelEnd::Oops),
        artifacts: 4,
        problems: vec![AWKWARD.into()],
        superseded: false,
        regressions: vec![d::Measure::Cpu],
    }
}

pub(in crate::conformance) fn plan(tenant_id: TenantId, full: bool) -> d::TestPlan {
    d::TestPlan {
        id: d::PlanId::new(),
        tenant_id,
        name: AWKWARD.into(),
        project_id: full.then(d::ProjectId::new),
        branch: full.then(|| "main".into()),
        fail_fast: full,
        max_parallel: full.then_some(4),
        labels: full
            .then(|| (AWKWARD.to_owned(), AWKWARD.to_owned()))
            .into_iter()
            .collect(),
        tests: u32::from(full),
        ordered: full,
        cancel_requested: full,
        created_by: full.then(d::UserId::new),
        created_at: at(40),
        finished_at: full.then_some(at(41)),
        first_event: 7,
        version: 1,
    }
}

pub(in crate::conformance) fn test_record(tenant_id: TenantId, full: bool) -> d::TestRecord {
    d::TestRecord {
        run_id: RunId::new(),
        tenant_id,
        key: "0123456789abcdef".into(),
        plan_id: d::PlanId::new(),
        plan: AWKWARD.into(),
        name: AWKWARD.into(),
        ordinal: 2,
        status: if full {
            RunStatus::Skipped
        } else {
            RunStatus::Succeeded
        },
        tolerated: full,
        superseded: full,
        flaky: full,
        duration_us: 1 << 50,
        cpu_us: 0,
        peak_memory_bytes: 1 << 40,
        revision: full.then(|| "0d8f".into()),
        created_at: at(42),
    }
}

pub(in crate::conformance) fn quarantined(tenant_id: TenantId, full: bool) -> d::QuarantinedTest {
    d::QuarantinedTest {
        tenant_id,
        key: RunId::new().to_string(),
        plan: AWKWARD.into(),
        name: AWKWARD.into(),
        reason: AWKWARD.into(),
        created_by: full.then(d::UserId::new),
        created_at: at(43),
    }
}

pub(in crate::conformance) fn artifact(tenant_id: TenantId, full: bool) -> d::Artifact {
    d::Artifact {
        id: d::ArtifactId::new(),
        tenant_id,
        run_id: RunId::new(),
        plan_id: full.then(d::PlanId::new),
        path: AWKWARD.into(),
        bytes: 1 << 40,
        sha256: "0d8f".into(),
        object: "ab/cd".into(),
        created_at: at(43),
        expires_at: full.then_some(at(44)),
    }
}
