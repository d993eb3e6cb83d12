//! Planners that do not do what they should.

use crate::world::{World, me, status};
use ostler_control::ToolCall;
use ostler_domain::{DependencyType, Issue, IssueDependency, RunKind, RunStatus, SubtaskStatus, TaskStatus};
use ostler_store::{Change, Filter, Store, StoreExt};
use std::collections::BTreeSet;
use tokio::task::JoinSet;

fn prompt(run: &ostler_domain::Run) -> &str {
    &run.submitted.spec.agent.as_ref().unwrap().prompt
}

#[tokio::test]
async fn a_planner_that_never_closes_its_epic_fails_in_the_end() {
    for restarts in [false, true] {
        let mut world = World::new(None).await;
        world.restarts = restarts;
        let task = world.task(false).await;
        let mut waits = Vec::new();
        for attempt in 1..=10 {
            let asked = world.clock_now();
            let run = world.next(RunKind::Planner).await;
            assert_eq!(run.submitted.ordinal, attempt);
            waits.push(world.clock_now().since(asked).as_secs());
            assert_eq!(prompt(&run).contains("without closing the epic"), attempt > 1);
            world.finish(&run, RunStatus::Succeeded, None).await;
        }
        assert_eq!(waits, [0, 5, 10, 20, 40, 80, 120, 120, 120, 120]);
        let failed = world.reload(&task).await;
        assert_eq!((failed.status, failed.attempts), (TaskStatus::PlanningFailed, 10));
        assert!(failed.error.unwrap().contains("gave up after 10 attempts"));
        assert!(world.try_next().await.is_none());

        let again = world.control.retry_planning(&me(), task.id).await.unwrap();
        assert_eq!((again.status, again.attempts), (TaskStatus::Planning, 1));
        let early = world.control.retry_planning(&me(), task.id).await.unwrap_err();
        assert_eq!(status(&early), 409);
        let asked = world.clock_now();
        assert_eq!(world.plan(&[("alpha", &[])]).await.len(), 1);
        assert_eq!(world.clock_now(), asked, "the new count begins without a wait");
        let active = world.reload(&task).await;
        assert_eq!((active.status, active.error), (TaskStatus::Active, None));
        let late = world.control.retry_planning(&me(), task.id).await.unwrap_err();
        assert_eq!(status(&late), 409);
    }
}

#[tokio::test]
async fn the_second_planner_may_do_better() {
    let mut world = World::new(None).await;
    let task = world.task(false).await;
    let run = world.next(RunKind::Planner).await;
    world
        .finish(&run, RunStatus::Failed, Some("the program exited with code 1"))
        .await;
    let planning = world.reload(&task).await;
    assert_eq!((planning.status, planning.attempts), (TaskStatus::Planning, 2));
    assert!(planning.error.unwrap().contains("exited with code 1"));
    let run = world.next(RunKind::Planner).await;
    assert!(prompt(&run).contains("exited with code 1"), "{}", prompt(&run));
    world.write_plan(&run, &[("alpha", &[])]).await;
    // What counts is the graph: the plan is complete, however the program ended.
    world
        .finish(&run, RunStatus::TimedOut, Some("it took too long"))
        .await;
    assert_eq!(world.reload(&task).await.status, TaskStatus::Active);
}

#[tokio::test]
async fn an_empty_plan_is_no_plan() {
    let mut world = World::new(None).await;
    let task = world.task(false).await;
    let run = world.next(RunKind::Planner).await;
    world.write_plan(&run, &[]).await;
    world.finish(&run, RunStatus::Succeeded, None).await;
    let planning = world.reload(&task).await;
    assert_eq!((planning.status, planning.attempts), (TaskStatus::Planning, 2));
    let run = world.next(RunKind::Planner).await;
    assert!(prompt(&run).contains("without open issues under it"));
    let epic = world.epic(&run).await;
    let shown = world.bd(&run, &["show", &epic, "--json"]).await;
    assert!(!shown.contains("\"closed\""), "the epic is open again: {shown}");
    world.write_plan(&run, &[("alpha", &[])]).await;
    world.finish(&run, RunStatus::Succeeded, None).await;
    assert_eq!(world.reload(&task).await.status, TaskStatus::Active);
}

#[tokio::test]
async fn issues_below_other_issues_are_not_dropped_in_silence() {
    let mut world = World::new(None).await;
    let task = world.task(false).await;
    let run = world.next(RunKind::Planner).await;
    world.write_plan(&run, &[("alpha", &[])]).await;
    let issues = world.control.issues(&me(), task.project_id).await.unwrap();
    let alpha = issues.iter().find(|issue| issue.title == "alpha").unwrap();
    let call = ToolCall {
        argv: ["create", "below", "--parent", &alpha.id]
            .map(str::to_owned)
            .to_vec(),
        ..ToolCall::default()
    };
    assert_eq!(world.control.bd(&run, &call).await.unwrap().code, 0);
    world.finish(&run, RunStatus::Succeeded, None).await;
    let planning = world.reload(&task).await;
    assert_eq!((planning.status, planning.attempts), (TaskStatus::Planning, 2));
    let run = world.next(RunKind::Planner).await;
    assert!(
        prompt(&run).contains("only issues directly under the epic"),
        "{}",
        prompt(&run)
    );
}

#[tokio::test]
async fn a_cycle_is_refused_and_the_next_planner_is_told() {
    let mut world = World::with(None, |settings| settings.planner_attempts = 2).await;
    let task = world.task(true).await;
    let run = world.next(RunKind::Planner).await;
    let issues = world.write_plan(&run, &[("alpha", &[]), ("beta", &[0])]).await;
    let refused = world
        .try_bd(&run, &["dep", "add", &issues[0], &issues[1]])
        .await
        .unwrap_err();
    let cycle = format!("{0} → {1} → {0}", issues[0], issues[1]);
    assert!(refused.contains("cycle"), "{refused}");
    // As an import of an older graph could leave it.
    let by_id = Filter::<Issue>::by("id", issues[0].clone());
    let mut first = world.store.first(by_id).await.unwrap().unwrap();
    first.dependencies.push(IssueDependency {
        depends_on: issues[1].clone(),
        kind: DependencyType::Blocks,
    });
    world.store.commit(vec![Change::update(&first)]).await.unwrap();
    world.finish(&run, RunStatus::Succeeded, None).await;
    assert!(world.subtasks(&task).await.is_empty());
    let run = world.next(RunKind::Planner).await;
    assert!(prompt(&run).contains(&cycle), "{}", prompt(&run));
    let epic = world.epic(&run).await;
    world.bd(&run, &["close", &epic]).await;
    world.finish(&run, RunStatus::Succeeded, None).await;

    let failed = world.reload(&task).await;
    assert_eq!(failed.status, TaskStatus::PlanningFailed);
    assert!(failed.error.unwrap().contains(&cycle));
    assert!(world.try_next().await.is_none());
    world.control.retry_planning(&me(), task.id).await.unwrap();
    let run = world.next(RunKind::Planner).await;
    assert!(
        prompt(&run).contains(&cycle),
        "a new count knows, too: {}",
        prompt(&run)
    );
    world.bd(&run, &["dep", "remove", &issues[0], &issues[1]]).await;
    world.bd(&run, &["close", &epic]).await;
    world.finish(&run, RunStatus::Succeeded, None).await;
    assert_eq!(world.reload(&task).await.status, TaskStatus::Active);
    assert_eq!(world.subtasks(&task).await.len(), 2);
}

#[tokio::test]
async fn a_cancelled_planner_is_not_followed_by_another() {
    let mut world = World::new(None).await;
    let task = world.task(false).await;
    let waiting = world.reload(&task).await.run_id.unwrap();
    world.control.cancel_run(&me(), waiting).await.unwrap();
    world.settle().await;
    let failed = world.reload(&task).await;
    assert_eq!(failed.status, TaskStatus::PlanningFailed);
    assert!(failed.error.unwrap().contains("cancelled"));
    world.control.retry_planning(&me(), task.id).await.unwrap();
    let run = world.next(RunKind::Planner).await;
    world.control.cancel_run(&me(), run.submitted.id).await.unwrap();
    world.settle().await;
    assert_eq!(world.reload(&task).await.status, TaskStatus::Planning);
    // Even if it was done before the word came: nobody wants to go on from there.
    world.write_plan(&run, &[("alpha", &[])]).await;
    world.finish(&run, RunStatus::Succeeded, None).await;
    assert_eq!(world.reload(&task).await.status, TaskStatus::PlanningFailed);
    assert!(world.subtasks(&task).await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_plan_that_broke_off_goes_on_without_doubles() {
    let mut world = World::with(None, |settings| settings.run_attempts = 2).await;
    let task = world.task(false).await;
    let run = world.next(RunKind::Planner).await;
    let epic = world.epic(&run).await;
    let create = |title: String, request: &str| ToolCall {
        argv: ["create", "--silent", "--parent", &epic, "--", &title]
            .map(str::to_owned)
            .into(),
        request_id: Some(request.into()),
        ..ToolCall::default()
    };
    // The same call comes again, at once and later, because its answer got lost; others come beside it.
    let mut all = JoinSet::new();
    for index in 0..12 {
        let (control, run) = (world.control.clone(), run.clone());
        let other = format!("r{index}");
        let call = if index < 6 {
            create("alpha".into(), "one")
        } else {
            create(other.clone(), &other)
        };
        all.spawn(async move { control.bd(&run, &call).await.unwrap() });
    }
    let replies = all.join_all().await;
    assert!(replies.iter().all(|reply| reply.code == 0), "{replies:?}");
    world.restart();
    let again = world
        .control
        .bd(&run, &create("alpha".into(), "one"))
        .await
        .unwrap();
    let ids: BTreeSet<&String> = replies.iter().map(|reply| &reply.stdout).collect();
    assert_eq!(ids.len(), 7, "one for the call that was repeated: {ids:?}");
    assert!(ids.contains(&again.stdout));

    // Its sandbox goes, then the one that took over crashes: the next planner is told, and sees what is there.
    assert_eq!(world.vanish(&run).await, RunStatus::Queued);
    let run = world.next(RunKind::Planner).await;
    world.finish(&run, RunStatus::Failed, Some("it crashed")).await;
    assert!(world.subtasks(&task).await.is_empty());
    let run = world.next(RunKind::Planner).await;
    assert!(prompt(&run).contains("it crashed"), "{}", prompt(&run));
    let list = world.bd(&run, &["list", "--parent", &epic]).await;
    assert_eq!(list.matches("alpha").count(), 1, "{list}");
    world.bd(&run, &["close", &epic]).await;
    world.finish(&run, RunStatus::Succeeded, None).await;
    assert_eq!(world.subtasks(&task).await.len(), 7);
}

#[tokio::test]
async fn a_deleted_epic_is_made_again() {
    let mut world = World::new(None).await;
    let task = world.task(false).await;
    let run = world.next(RunKind::Planner).await;
    let gone = world.epic(&run).await;
    world.bd(&run, &["delete", &gone, "--force"]).await;
    world.finish(&run, RunStatus::Succeeded, None).await;
    let run = world.next(RunKind::Planner).await;
    let epic = world.epic(&run).await;
    assert!(
        epic != gone && prompt(&run).contains(&format!("{gone} was deleted")),
        "{}",
        prompt(&run)
    );
    world.write_plan(&run, &[("alpha", &[])]).await;
    world.finish(&run, RunStatus::Succeeded, None).await;
    assert_eq!(world.reload(&task).await.status, TaskStatus::Active);
}

#[tokio::test]
async fn a_planner_that_is_lost_counts_as_an_attempt() {
    let mut world = World::with(None, |settings| settings.run_attempts = 3).await;
    let task = world.task(false).await;
    for _ in 0..2 {
        let run = world.next(RunKind::Planner).await;
        assert_eq!(world.vanish(&run).await, RunStatus::Queued);
    }
    let run = world.next(RunKind::Planner).await;
    assert_eq!((run.attempt, run.submitted.ordinal), (3, 1));
    assert_eq!(world.vanish(&run).await, RunStatus::Lost);
    assert_eq!(world.reload(&task).await.attempts, 2);
    assert_eq!(
        world.plan(&[("alpha", &[])]).await[0].status,
        SubtaskStatus::Ready
    );
}

#[tokio::test]
async fn a_project_that_cannot_be_synchronised_gets_no_task() {
    let mut world = World::new(None).await;
    let moved = world.origin.with_file_name("moved");
    std::fs::rename(&world.origin, &moved).unwrap();
    let new = || ostler_control::NewTask {
        title: "x".into(),
        ..Default::default()
    };
    let error = world
        .control
        .create_task(&me(), world.project.id, new())
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains("origin"),
        "what could not be reached: {error}"
    );
    assert!(
        world
            .control
            .tasks(&me(), world.project.id)
            .await
            .unwrap()
            .is_empty()
    );
    std::fs::rename(&moved, &world.origin).unwrap();

    // An automatic start that cannot be made waits, and says why.
    let task = world.task(true).await;
    std::fs::rename(&world.origin, &moved).unwrap();
    let waits = world.plan(&[("alpha", &[])]).await.remove(0);
    assert_eq!(waits.status, SubtaskStatus::Ready);
    let waits = world.subtask(waits.id).await;
    assert!(waits.error.is_some(), "the reason is shown");
    std::fs::rename(&moved, &world.origin).unwrap();
    world.later(30);
    world.settle().await;
    let started = world.subtasks(&task).await.remove(0);
    assert_eq!((started.status, started.error), (SubtaskStatus::InProgress, None));
    assert_eq!(started.attempts, 1);
}
