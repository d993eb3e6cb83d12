//! Projects and the work in them.

use super::{AWKWARD, at, either};
use ostler_domain as d;
use ostler_domain::{RunId, TenantId};

pub(in crate::conformance) fn project(tenant_id: TenantId) -> d::Project {
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

pub(in crate::conformance) fn task(project: &d::Project, full: bool) -> d::Task {
    d::Task {
        id: d::TaskId::new(),
        tenant_id: project.tenant_id,
        project_id: project.id,
        title: "a title".into(),
        description: AWKWARD.into(),
        agent_kind: "claude".into(),
        auto: full,
        status: either(full, d::TaskStatus::Active, d::TaskStatus::Planning),
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

pub(in crate::conformance) fn subtask(task: &d::Task, number: i64, full: bool) -> d::Subtask {
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
        status: either(full, d::SubtaskStatus::Blocked, d::SubtaskStatus::Pending),
        blocked_reason: full.then_some(d::BlockedReason::Dependency),
        depends_on: either(full, vec![d::SubtaskId::new(), d::SubtaskId::new()], Vec::new()),
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

pub(in crate::conformance) fn merge_request(
    subtask: &d::Subtask,
    number: i64,
    full: bool,
) -> d::MergeRequest {
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
        status: either(full, d::MergeRequestStatus::Merged, d::MergeRequestStatus::Open),
        created_at: at(12),
        closed_at: full.then_some(at(13)),
        version: 1,
    }
}

pub(in crate::conformance) fn issue(project: &d::Project, id: &str, task: Option<&d::Task>) -> d::Issue {
    let full = task.is_some();
    d::Issue {
        id: id.into(),
        tenant_id: project.tenant_id,
        project_id: project.id,
        task_id: task.map(|t| t.id),
        issue_type: either(full, d::IssueType::Epic, d::IssueType::Chore),
        title: "an issue".into(),
        description: AWKWARD.into(),
        design: String::new(),
        acceptance_criteria: "it works".into(),
        notes: String::new(),
        status: either(full, d::IssueStatus::InProgress, d::IssueStatus::Open),
        priority: 4,
        assignee: full.then(|| "somebody".into()),
        labels: if full { vec![AWKWARD.into()] } else { Vec::new() },
        dependencies: either(
            full,
            vec![d::IssueDependency {
                depends_on: "os-0".into(),
                kind: d::DependencyType::ParentChild,
            }],
            Vec::new(),
        ),
        comments: either(
            full,
            vec![d::IssueComment {
                author: "somebody".into(),
                text: AWKWARD.into(),
                created_at: at(14),
            }],
            Vec::new(),
        ),
        close_reason: full.then(|| "done".into()),
        created_at: at(15),
        updated_at: at(16),
        closed_at: full.then_some(at(17)),
        version: 1,
    }
}
