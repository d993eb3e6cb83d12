//! What people may ask, and what they are answered when it does not fit.

use crate::world::{ONE_CHECK, World, me, status};
use ostler_control::{Caller, ControlError, NewTask};
use ostler_domain::{
    BlockedReason, Issue, MergeRequestStatus, RunKind, RunStatus, Subtask, SubtaskStatus, Task, TaskStatus,
    TenantId,
};
use ostler_store::{Filter, RunFilter, StoreExt};

const TWO: &[(&str, &[usize])] = &[("alpha", &[]), ("beta", &[0])];

fn refused<T: std::fmt::Debug>(answer: Result<T, ControlError>, code: u16) -> String {
    let error = answer.unwrap_err();
    assert_eq!(status(&error), code, "{error}");
    error.to_string()
}

#[tokio::test]
async fn requests_out_of_turn_are_refused() {
    let mut world = World::new(Some(ONE_CHECK)).await;
    world.task(false).await;
    let [a, b] = <[_; 2]>::try_from(world.plan(TWO).await).unwrap();
    let control = world.control.clone();
    refused(control.start_subtask(&me(), b.id).await, 422);
    refused(control.retry_subtask(&me(), b.id).await, 409);
    refused(control.retry_subtask(&me(), a.id).await, 409);
    for subtask in [&a, &b] {
        refused(control.mark_merged(&me(), subtask.id).await, 422);
        refused(control.merge_subtask(&me(), subtask.id).await, 422);
    }
    refused(control.subtask_diff(&me(), a.id).await, 422);

    control.start_subtask(&me(), a.id).await.unwrap();
    refused(control.start_subtask(&me(), a.id).await, 409);
    refused(control.retry_subtask(&me(), a.id).await, 409);
    refused(control.mark_merged(&me(), a.id).await, 422);
    world.work().await;
    refused(control.mark_merged(&me(), a.id).await, 422);
    let diff = control.subtask_diff(&me(), a.id).await.unwrap();
    assert!(
        diff.diff.text.contains("+alpha") && diff.commits.len() == 1,
        "{diff:?}"
    );
    world.check_ok().await;
    refused(control.start_subtask(&me(), a.id).await, 409);
    world.merge(&a).await;
    refused(control.start_subtask(&me(), a.id).await, 409);
    refused(control.mark_merged(&me(), a.id).await, 422);
    refused(control.merge_subtask(&me(), a.id).await, 422);
    assert_eq!(world.subtask(b.id).await.status, SubtaskStatus::Ready);
}

#[tokio::test]
async fn what_was_merged_elsewhere_counts() {
    let mut world = World::new(None).await;
    let task = world.task(false).await;
    let [a, b] = <[_; 2]>::try_from(world.plan(TWO).await).unwrap();
    world.control.start_subtask(&me(), a.id).await.unwrap();
    world.work().await;
    let merged = world.control.mark_merged(&me(), a.id).await.unwrap();
    world.settle().await;
    assert_eq!(merged.status, SubtaskStatus::Merged);
    assert_eq!(world.requests().await[0].status, MergeRequestStatus::Merged);
    assert_eq!(world.main_file("alpha").await, None, "nothing was merged by us");
    assert!(!world.has_worktree(&a));
    assert_eq!(world.subtask(b.id).await.status, SubtaskStatus::Ready);
    world.control.start_subtask(&me(), b.id).await.unwrap();
    world.work().await;
    world.control.mark_merged(&me(), b.id).await.unwrap();
    assert_eq!(world.reload(&task).await.status, TaskStatus::Done);
}

#[tokio::test]
async fn a_closed_request_blocks_its_subtask() {
    let mut world = World::new(Some(ONE_CHECK)).await;
    world.task(false).await;
    let a = world.plan(&[("alpha", &[])]).await.remove(0);
    world.control.start_subtask(&me(), a.id).await.unwrap();
    world.work().await;
    let done = world.check_ok().await;
    let request = done.merge_request_id.unwrap();
    let closed = world.control.close_merge_request(&me(), request).await.unwrap();
    assert_eq!(closed.status, MergeRequestStatus::Closed);
    world.settle().await;
    refused(world.control.close_merge_request(&me(), request).await, 409);
    refused(world.control.merge_subtask(&me(), a.id).await, 422);
    assert_eq!(
        world.subtask(a.id).await.blocked_reason,
        Some(BlockedReason::Failure)
    );
    // Another try opens another request.
    world.control.retry_subtask(&me(), a.id).await.unwrap();
    world.work_more(&a).await;
    let done = world.check_ok().await;
    assert_ne!(done.merge_request_id, Some(request));
    assert_eq!(world.requests().await.len(), 2);
    assert_eq!(world.merge(&a).await.status, SubtaskStatus::Merged);
}

#[tokio::test]
async fn closing_a_request_that_is_being_reworked_ends_the_run() {
    for running in [false, true] {
        let mut world = World::new(None).await;
        world.task(false).await;
        let a = world.plan(&[("alpha", &[])]).await.remove(0);
        world.control.start_subtask(&me(), a.id).await.unwrap();
        let run = world.next(RunKind::Worker).await;
        let done = world.work_on(&run, "README", "one\nours\nthree\n").await;
        crate::world::commit(&world.origin, "README", "one\ntheirs\nthree\n");
        world.repository().sync("main", None).await.unwrap();
        assert_eq!(world.merge(&a).await.status, SubtaskStatus::InProgress);
        let run = if running {
            Some(world.next(RunKind::Worker).await)
        } else {
            None
        };
        world
            .control
            .close_merge_request(&me(), done.merge_request_id.unwrap())
            .await
            .unwrap();
        world.settle().await;
        match run {
            // Its agent is still there: nobody may start a second one beside it.
            Some(run) => {
                refused(world.control.retry_subtask(&me(), a.id).await, 409);
                world.finish(&run, RunStatus::Cancelled, None).await;
            }
            None => assert!(world.try_next().await.is_none()),
        }
        assert_eq!(
            world.subtask(a.id).await.blocked_reason,
            Some(BlockedReason::Failure)
        );
        world.control.retry_subtask(&me(), a.id).await.unwrap();
        world.settle().await;
    }
}

#[tokio::test]
async fn the_request_of_a_blocked_subtask_can_be_closed() {
    let mut world = World::with(None, |settings| settings.worker_attempts = 1).await;
    world.task(false).await;
    let a = world.plan(&[("alpha", &[])]).await.remove(0);
    world.control.start_subtask(&me(), a.id).await.unwrap();
    let run = world.next(RunKind::Worker).await;
    let done = world.work_on(&run, "README", "one\nours\nthree\n").await;
    crate::world::commit(&world.origin, "README", "one\ntheirs\nthree\n");
    world.repository().sync("main", None).await.unwrap();
    let blocked = world.merge(&a).await;
    assert_eq!(blocked.blocked_reason, Some(BlockedReason::Failure));
    assert!(blocked.error.unwrap().contains("README"));
    let closed = world
        .control
        .close_merge_request(&me(), done.merge_request_id.unwrap())
        .await
        .unwrap();
    assert_eq!(closed.status, MergeRequestStatus::Closed);
    world.settle().await;
    assert_eq!(
        world.subtask(a.id).await.blocked_reason,
        Some(BlockedReason::Failure)
    );
}

#[tokio::test]
async fn a_deleted_task_leaves_nothing_behind() {
    let mut world = World::new(Some(ONE_CHECK)).await;
    let other = world.task(false).await;
    world.plan(&[("other", &[])]).await;
    let task = world.task(true).await;
    let parts = world
        .plan(&[("alpha", &[]), ("beta", &[]), ("gamma", &[0])])
        .await;
    let running = world.next_of(&parts[0]).await;
    let waiting = world.subtask(parts[1].id).await.run_id.unwrap();
    assert!(world.has_worktree(&parts[0]) && world.has_worktree(&parts[1]));

    world.control.delete_task(&me(), task.id).await.unwrap();
    world.settle().await;
    for part in &parts {
        assert!(!world.has_worktree(part));
        refused(world.control.subtask(&me(), part.id).await, 404);
    }
    refused(world.control.task(&me(), task.id).await, 404);
    refused(world.control.subtasks(&me(), task.id).await, 404);
    refused(world.control.delete_task(&me(), task.id).await, 404);
    let run = world.control.run(&me(), waiting).await.unwrap();
    assert_eq!(run.status, RunStatus::Cancelled);
    let run = world.control.run(&me(), running.submitted.id).await.unwrap();
    assert!(run.cancel_requested && run.status == RunStatus::Running);
    // Its server ends it, and that is the end.
    world.finish(&running, RunStatus::Cancelled, None).await;
    assert!(world.try_next().await.is_none());
    let issues: Vec<Issue> = world
        .store
        .list(Filter::by("project_id", world.project.id))
        .await
        .unwrap();
    assert!(
        issues.iter().all(|issue| issue.task_id == Some(other.id)),
        "{issues:?}"
    );
    assert_eq!(world.subtasks(&other).await.len(), 1);

    // A planner's, too.
    let task = world.task(false).await;
    let run = world.next(RunKind::Planner).await;
    world.write_plan(&run, TWO).await;
    world.control.delete_task(&me(), task.id).await.unwrap();
    world.finish(&run, RunStatus::Succeeded, None).await;
    refused(world.control.task(&me(), task.id).await, 404);
    assert!(world.try_next().await.is_none());
}

#[tokio::test]
async fn a_killed_task_stands_still_until_a_person_goes_on() {
    let mut world = World::new(None).await;
    let task = world.task(true).await;
    // While its planner waits, and while it runs.
    world.control.kill_task(&me(), task.id).await.unwrap();
    assert_eq!(world.reload(&task).await.status, TaskStatus::PlanningFailed);
    assert!(world.try_next().await.is_none());
    world.control.retry_planning(&me(), task.id).await.unwrap();
    let run = world.next(RunKind::Planner).await;
    world.control.kill_task(&me(), task.id).await.unwrap();
    world.finish(&run, RunStatus::Cancelled, None).await;
    assert_eq!(world.reload(&task).await.status, TaskStatus::PlanningFailed);
    assert!(world.try_next().await.is_none());

    world.control.retry_planning(&me(), task.id).await.unwrap();
    world.make_automatic(&task).await;
    let parts = world
        .plan(&[("alpha", &[]), ("beta", &[]), ("gamma", &[0])])
        .await;
    let alpha = world.next_of(&parts[0]).await;
    let killed = world.control.kill_task(&me(), task.id).await.unwrap();
    assert!(!killed.auto);
    world.finish(&alpha, RunStatus::Cancelled, None).await;
    for part in &parts[..2] {
        let blocked = world.subtask(part.id).await;
        assert_eq!(
            blocked.blocked_reason,
            Some(BlockedReason::Failure),
            "{blocked:?}"
        );
    }
    assert!(world.try_next().await.is_none());
    // Again, when there is nothing to end.
    world.control.kill_task(&me(), task.id).await.unwrap();

    world.control.retry_subtask(&me(), parts[0].id).await.unwrap();
    assert_eq!(world.work().await.status, SubtaskStatus::Completed);
    assert!(
        world.try_next().await.is_none(),
        "something was started by itself"
    );
}

#[tokio::test]
async fn a_project_goes_with_everything_once_nothing_runs() {
    let mut world = World::new(None).await;
    let task = world.task(true).await;
    let parts = world.plan(&[("alpha", &[]), ("beta", &[])]).await;
    let clone = world.repository().path().to_owned();
    let told = refused(world.control.remove_project(&me(), world.project.id).await, 409);
    assert!(told.contains("delete its tasks"), "{told}");
    assert!(clone.exists());
    let run = world.next_of(&parts[0]).await;
    world.work_on(&run, "alpha", "alpha\n").await;
    world.control.kill_subtask(&me(), parts[1].id).await.unwrap();
    assert!(world.has_worktree(&parts[1]));
    world
        .control
        .remove_project(&me(), world.project.id)
        .await
        .unwrap();
    assert!(!clone.exists() && !world.has_worktree(&parts[1]));
    refused(world.control.project(&me(), world.project.id).await, 404);
    refused(world.control.task(&me(), task.id).await, 404);
    assert!(
        world
            .store
            .list::<Subtask>(Filter::all())
            .await
            .unwrap()
            .is_empty()
    );
    assert!(world.store.list::<Task>(Filter::all()).await.unwrap().is_empty());
    world.control.settle_all().await.unwrap();
    assert!(world.origin.join("alpha").exists(), "the source is not touched");
    // And it can come again.
    let source = world.origin.to_str().unwrap();
    world.control.add_project(&me(), source, None).await.unwrap();
}

#[tokio::test]
async fn another_tenant_finds_nothing() {
    let mut world = World::new(None).await;
    let task = world.task(false).await;
    let a = world.plan(&[("alpha", &[])]).await.remove(0);
    world.control.start_subtask(&me(), a.id).await.unwrap();
    let done = world.work().await;
    let (project, run) = (world.project.id, done.run_id.unwrap());
    let request = done.merge_request_id.unwrap();
    let other = Caller {
        tenant_id: TenantId::new(),
        ..me()
    };
    let control = &world.control;
    refused(control.project(&other, project).await, 404);
    refused(control.remove_project(&other, project).await, 404);
    refused(control.cleanup_project(&other, project).await, 404);
    let new = NewTask {
        title: "x".into(),
        ..NewTask::default()
    };
    refused(control.create_task(&other, project, new).await, 404);
    refused(control.tasks(&other, project).await, 404);
    refused(control.issues(&other, project).await, 404);
    refused(control.merge_requests(&other, project).await, 404);
    refused(control.task(&other, task.id).await, 404);
    refused(control.retry_planning(&other, task.id).await, 404);
    refused(control.delete_task(&other, task.id).await, 404);
    refused(control.subtasks(&other, task.id).await, 404);
    refused(control.subtask(&other, a.id).await, 404);
    refused(control.start_subtask(&other, a.id).await, 404);
    refused(control.retry_subtask(&other, a.id).await, 404);
    refused(control.merge_subtask(&other, a.id).await, 404);
    refused(control.mark_merged(&other, a.id).await, 404);
    refused(control.position_subtask(&other, a.id, 1).await, 404);
    refused(control.kill_subtask(&other, a.id).await, 404);
    refused(control.subtask_runs(&other, a.id).await, 404);
    refused(control.subtask_diff(&other, a.id).await, 404);
    refused(control.merge_request(&other, request).await, 404);
    refused(control.merge_request_diff(&other, request).await, 404);
    refused(control.close_merge_request(&other, request).await, 404);
    refused(control.run(&other, run).await, 404);
    refused(control.cancel_run(&other, run).await, 404);
    refused(control.explain_run(&other, run).await, 404);
    assert!(control.run_log(&other, run).await.is_err());
    assert!(control.projects(&other).await.unwrap().is_empty());
    assert!(
        control
            .runs(&other, RunFilter::default())
            .await
            .unwrap()
            .is_empty()
    );
    assert_eq!(world.subtask(a.id).await, done, "and nothing was changed");
}
