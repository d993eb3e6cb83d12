//! Many at once, and servers that end between two steps.

use crate::world::{ONE_CHECK, World, me, status};
use ostler_control::ControlError;
use ostler_domain::{Issue, IssueType, RunKind, RunStatus, SubtaskId, SubtaskStatus, TaskStatus};
use ostler_store::{Change, Filter, Store, StoreExt};
use tokio::task::JoinSet;

const MANY: usize = 12;

/// Many settles of the same subtask, by two servers, at the same time.
async fn settle_at_once(world: &World, id: SubtaskId) {
    let servers = [world.control.clone(), world.another_server()];
    let mut all = JoinSet::new();
    for index in 0..MANY {
        let control = servers[index % 2].clone();
        all.spawn(async move { control.settle_subtask(id).await });
    }
    for settled in all.join_all().await {
        settled.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn settling_at_once_is_settling_once() {
    let mut world = World::new(Some(ONE_CHECK)).await;
    let task = world.task(false).await;
    let a = world.plan(&[("alpha", &[])]).await.remove(0);

    // One start wins, the others hear that it is in progress.
    let mut all = JoinSet::new();
    for _ in 0..MANY {
        let (control, id) = (world.control.clone(), a.id);
        all.spawn(async move { control.start_subtask(&me(), id).await });
    }
    let answers = all.join_all().await;
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 1);
    for error in answers.iter().filter_map(|answer| answer.as_ref().err()) {
        assert_eq!(status(error), 409);
        assert!(error.to_string().contains("in progress"), "{error}");
    }
    world.rules().await;

    // A failed attempt is followed by one.
    let run = world.next(RunKind::Worker).await;
    world.end(&run, RunStatus::Failed, None).await;
    settle_at_once(&world, a.id).await;
    world.settle().await;
    assert_eq!(world.subtask(a.id).await.attempts, 2);

    // Finished work is checked once.
    let run = world.next(RunKind::Worker).await;
    world.labour(&run, "alpha", "alpha\n").await;
    world.end(&run, RunStatus::Succeeded, None).await;
    settle_at_once(&world, a.id).await;
    world.settle().await;
    assert_eq!(world.runs().await.len(), 4);

    // Passed checks open one request.
    let check = world.next(RunKind::Check).await;
    world.end(&check, RunStatus::Succeeded, None).await;
    settle_at_once(&world, a.id).await;
    world.settle().await;
    assert_eq!(world.requests().await.len(), 1);
    assert_eq!(world.subtask(a.id).await.status, SubtaskStatus::Completed);

    // It is merged once.
    let mut all = JoinSet::new();
    for _ in 0..MANY {
        let (control, id) = (world.control.clone(), a.id);
        all.spawn(async move { control.merge_subtask(&me(), id).await });
    }
    let answers = all.join_all().await;
    assert!(answers.iter().any(Result::is_ok));
    for error in answers.iter().filter_map(|answer| answer.as_ref().err()) {
        assert_eq!(status(error), 422, "{error}");
    }
    world.settle().await;
    assert_eq!(world.reload(&task).await.status, TaskStatus::Done);
    assert!(world.try_next().await.is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn planning_at_once_is_planning_once() {
    let mut world = World::new(None).await;
    // Tasks of one project become active at the same time: their subtasks have numbers of their own.
    let mut tasks = Vec::new();
    for _ in 0..3 {
        tasks.push(world.task(true).await);
    }
    for _ in 0..3 {
        let run = world.next(RunKind::Planner).await;
        world.write_plan(&run, &[("alpha", &[]), ("beta", &[0])]).await;
        world.end(&run, RunStatus::Succeeded, None).await;
    }
    let servers = [world.control.clone(), world.another_server()];
    let mut all = JoinSet::new();
    for index in 0..MANY {
        let (control, id) = (servers[index % 2].clone(), tasks[index % 3].id);
        all.spawn(async move { control.settle_task(id).await });
    }
    for settled in all.join_all().await {
        settled.unwrap();
    }
    world.settle().await;
    let mut numbers = Vec::new();
    for task in &tasks {
        let parts = world.subtasks(task).await;
        assert_eq!(parts.len(), 2);
        numbers.extend(parts.iter().map(|part| part.number));
    }
    numbers.sort_unstable();
    assert_eq!(numbers, [1, 2, 3, 4, 5, 6]);
    assert_eq!(world.runs().await.len(), 3 + 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_first_settle_of_a_task_makes_one_epic() {
    let mut world = World::new(None).await;
    let task = world.task(false).await;
    // As a server leaves it that ended just after it had kept the task.
    let mut bare = world.reload(&task).await;
    let run = world.next(RunKind::Planner).await;
    world.end(&run, RunStatus::Failed, None).await;
    let epic: Issue = world
        .store
        .first(Filter::by("project_id", world.project.id))
        .await
        .unwrap()
        .unwrap();
    (bare.epic, bare.run_id) = (None, None);
    world
        .store
        .commit(vec![Change::update(&bare), Change::delete(&epic)])
        .await
        .unwrap();
    let servers = [world.control.clone(), world.another_server()];
    let mut all = JoinSet::new();
    for index in 0..MANY {
        let (control, id) = (servers[index % 2].clone(), task.id);
        all.spawn(async move { control.settle_task(id).await });
    }
    for settled in all.join_all().await {
        settled.unwrap();
    }
    world.settle().await;
    let epics: Vec<Issue> = world
        .store
        .list(Filter::by("issue_type", IssueType::Epic))
        .await
        .unwrap();
    assert_eq!(epics.len(), 1, "{epics:?}");
    assert_eq!(world.reload(&task).await.epic.as_ref(), Some(&epics[0].id));
    assert_eq!(world.runs().await.len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn last_merges_at_once_finish_the_task() {
    let mut world = World::new(None).await;
    let task = world.task(false).await;
    let names = ["alpha", "beta", "gamma", "delta"];
    let mut plan: Vec<crate::world::Part<'_>> = names.map(|name| (name, &[][..])).into();
    plan.push(("last", &[0, 1, 2, 3]));
    let parts = world.plan(&plan).await;
    for part in &parts[..4] {
        world.control.start_subtask(&me(), part.id).await.unwrap();
        assert_eq!(world.work().await.status, SubtaskStatus::Completed);
    }
    let mut all = JoinSet::new();
    for part in &parts[..4] {
        let (control, id) = (world.control.clone(), part.id);
        all.spawn(async move { control.merge_subtask(&me(), id).await });
    }
    for merged in all.join_all().await {
        assert_eq!(merged.unwrap().status, SubtaskStatus::Merged);
    }
    world.settle().await;
    assert_eq!(world.subtask(parts[4].id).await.status, SubtaskStatus::Ready);
    world.control.start_subtask(&me(), parts[4].id).await.unwrap();
    world.work().await;
    world.merge(&parts[4]).await;
    assert_eq!(world.reload(&task).await.status, TaskStatus::Done);
    for name in names {
        assert_eq!(world.main_file(name).await.unwrap(), format!("{name}\n"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn automatic_merges_at_once_land_only_what_was_checked() {
    let mut world = World::new(Some(ONE_CHECK)).await;
    let task = world.task(true).await;
    let parts = world.plan(&[("alpha", &[]), ("beta", &[]), ("gamma", &[])]).await;
    for _ in 0..3 {
        world.work().await;
    }
    let mut rounds = 0;
    while world.reload(&task).await.status != TaskStatus::Done {
        rounds += 1;
        // Each lands one, unless two that settle the same subtask moved its branch under its new check.
        assert!(rounds <= 8, "it does not come to an end");
        let mut ids = Vec::new();
        let mut checks = Vec::new();
        while let Some(check) = world.try_next().await {
            assert_eq!(check.submitted.kind, RunKind::Check);
            ids.push(check.submitted.subtask_id.unwrap());
            checks.push(check);
        }
        for check in &checks {
            world.end(check, RunStatus::Succeeded, None).await;
        }
        let mut all = JoinSet::new();
        for id in ids.into_iter().flat_map(|id| [id; 3]) {
            let control = world.control.clone();
            all.spawn(async move { control.settle_subtask(id).await });
        }
        for settled in all.join_all().await {
            settled.unwrap();
        }
        world.settle().await;
    }
    assert_eq!(parts.len(), world.requests().await.len());
}

#[tokio::test]
async fn a_merge_whose_server_ended_before_it_was_noted_is_not_made_twice() {
    for auto in [true, false] {
        let mut world = World::new(Some(ONE_CHECK)).await;
        let task = world.task(false).await;
        let a = world.plan(&[("alpha", &[])]).await.remove(0);
        world.control.start_subtask(&me(), a.id).await.unwrap();
        world.work().await;
        world.check_ok().await;
        let request = world.requests().await.remove(0);
        let outcome = world
            .repository()
            .merge(&a.branch, "main", "the same", Some(&request.head))
            .await
            .unwrap();
        let main = world.repository().head_of("main").await.unwrap();
        assert!(!world.origin.join("alpha").exists());
        world.restart();
        if auto {
            world.make_automatic(&task).await;
            world.settle().await;
        } else {
            world.merge(&a).await;
        }
        assert_eq!(world.subtask(a.id).await.status, SubtaskStatus::Merged);
        assert_eq!(world.repository().head_of("main").await.unwrap(), main);
        assert!(
            world.origin.join("alpha").exists(),
            "it is published all the same"
        );
        let commit = world.requests().await.remove(0).merge_commit;
        assert_eq!(
            outcome,
            ostler_forge::MergeOutcome::Merged {
                commit: commit.unwrap()
            }
        );
        assert_eq!(world.reload(&task).await.status, TaskStatus::Done);
    }
}

#[tokio::test]
async fn a_branch_that_was_brought_up_to_date_by_a_server_that_ended_is_checked_again() {
    // Just before the request is opened.
    let mut world = World::new(Some(ONE_CHECK)).await;
    let task = world.task(true).await;
    let a = world.plan(&[("alpha", &[])]).await.remove(0);
    world.work().await;
    let check = world.next(RunKind::Check).await;
    crate::world::commit(&world.origin, "other", "x\n");
    world.repository().sync("main", None).await.unwrap();
    world.end(&check, RunStatus::Succeeded, None).await;
    world.repository().update_branch(&a.branch, "main").await.unwrap();
    world.restart();
    world.settle().await;
    assert_eq!(
        world.subtask(a.id).await.status,
        SubtaskStatus::InProgress,
        "nobody has checked what is on the branch now"
    );
    assert_eq!(world.check_ok().await.status, SubtaskStatus::Merged);
    assert_eq!(world.reload(&task).await.status, TaskStatus::Done);

    // Just before the merge.
    for auto in [true, false] {
        let mut world = World::new(Some(ONE_CHECK)).await;
        let task = world.task(false).await;
        let a = world.plan(&[("alpha", &[])]).await.remove(0);
        world.control.start_subtask(&me(), a.id).await.unwrap();
        world.work().await;
        world.check_ok().await;
        crate::world::commit(&world.origin, "other", "x\n");
        world.repository().sync("main", None).await.unwrap();
        world.repository().update_branch(&a.branch, "main").await.unwrap();
        world.restart();
        if auto {
            world.make_automatic(&task).await;
            world.settle().await;
        } else {
            let answer = world.merge(&a).await;
            assert_eq!(answer.status, SubtaskStatus::InProgress, "it is checked first");
        }
        let done = world.check_ok().await;
        if !auto {
            assert_eq!(done.status, SubtaskStatus::Completed);
            world.merge(&a).await;
        }
        assert_eq!(world.reload(&task).await.status, TaskStatus::Done);
        assert_eq!(world.requests().await.len(), 1);
    }
}

#[tokio::test]
async fn the_worktree_of_a_merge_goes_even_if_its_server_ended_first() {
    let mut world = World::new(None).await;
    world.task(false).await;
    let a = world.plan(&[("alpha", &[])]).await.remove(0);
    world.control.start_subtask(&me(), a.id).await.unwrap();
    world.work().await;
    world.merge(&a).await;
    // As if it had ended before that.
    let mut merged = world.subtask(a.id).await;
    merged.worktree_expires_at = Some(world.clock_now());
    world.store.commit(vec![Change::update(&merged)]).await.unwrap();
    world
        .repository()
        .worktree_add(a.id, &a.branch, "main")
        .await
        .unwrap();
    world.restart();
    world.control.expire_worktrees().await.unwrap();
    assert!(!world.has_worktree(&a));
    assert_eq!(world.control.expire_worktrees().await.unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn deleting_a_task_while_it_moves_leaves_no_run() {
    for round in 0..8u64 {
        let mut world = World::new(None).await;
        let task = world.task(true).await;
        let a = world.plan(&[("alpha", &[])]).await.remove(0);
        let run = world.next(RunKind::Worker).await;
        world.end(&run, RunStatus::Failed, None).await;
        let mut all: JoinSet<Result<(), ControlError>> = JoinSet::new();
        for _ in 0..2 {
            let (control, id) = (world.control.clone(), a.id);
            all.spawn(async move { control.settle_subtask(id).await });
        }
        let (control, id) = (world.control.clone(), task.id);
        all.spawn(async move {
            tokio::time::sleep(std::time::Duration::from_micros(300 * round)).await;
            control.delete_task(&me(), id).await
        });
        for done in all.join_all().await {
            done.or_else(|error| match status(&error) {
                404 => Ok(()),
                _ => Err(error),
            })
            .unwrap();
        }
        world.rules().await;
        assert!(
            world.try_next().await.is_none(),
            "nothing waits for a task that is gone"
        );
        assert!(!world.has_worktree(&a));
    }
}
