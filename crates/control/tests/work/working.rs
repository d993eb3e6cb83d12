//! Workers that do not do what they should.

use crate::world::{ONE_CHECK, World, git, me, status};
use ostler_control::{AgentServices, Executor, ExecutorSettings};
use ostler_domain::{BlockedReason, RunKind, RunStatus, Subtask, SubtaskStatus, TaskStatus};
use ostler_gateway::{Gateway, GatewaySettings};
use ostler_store::{Change, Store};
use std::sync::Arc;

fn prompt(run: &ostler_domain::Run) -> &str {
    &run.submitted.spec.agent.as_ref().unwrap().prompt
}

async fn started(world: &mut World) -> Subtask {
    world.task(false).await;
    let subtask = world.plan(&[("alpha", &[])]).await.remove(0);
    world.control.start_subtask(&me(), subtask.id).await.unwrap()
}

#[tokio::test]
async fn a_worker_that_never_closes_its_issue_blocks_after_ten_attempts() {
    for restarts in [false, true] {
        let mut world = World::new(None).await;
        world.restarts = restarts;
        let subtask = started(&mut world).await;
        let mut waits = Vec::new();
        for attempt in 1..=10 {
            let asked = world.clock_now();
            let run = world.next(RunKind::Worker).await;
            assert_eq!(run.submitted.ordinal, attempt);
            assert_eq!(prompt(&run).contains("without closing its issue"), attempt > 1);
            waits.push(world.clock_now().since(asked).as_secs());
            world.finish(&run, RunStatus::Succeeded, None).await;
        }
        assert_eq!(waits, [0, 5, 10, 20, 40, 80, 120, 120, 120, 120]);
        let blocked = world.subtask(subtask.id).await;
        assert_eq!(
            (blocked.status, blocked.blocked_reason, blocked.attempts),
            (SubtaskStatus::Blocked, Some(BlockedReason::Failure), 10)
        );
        assert!(blocked.error.unwrap().contains("gave up after 10 attempts"));
        assert!(world.try_next().await.is_none());
        let runs = world.control.subtask_runs(&me(), subtask.id).await.unwrap();
        assert_eq!(runs.len(), 10);

        let error = world.control.start_subtask(&me(), subtask.id).await.unwrap_err();
        assert_eq!(status(&error), 422);
        let again = world.control.retry_subtask(&me(), subtask.id).await.unwrap();
        assert_eq!(
            (again.status, again.blocked_reason, again.attempts),
            (SubtaskStatus::InProgress, None, 1)
        );
        let asked = world.clock_now();
        assert_eq!(world.work().await.status, SubtaskStatus::Completed);
        assert_eq!(world.clock_now(), asked, "the new count begins without a wait");
    }
}

#[tokio::test]
async fn closing_an_issue_without_a_commit_is_not_enough() {
    let mut world = World::with(None, |settings| settings.worker_attempts = 2).await;
    let subtask = started(&mut world).await;
    for attempt in 1..=2 {
        let run = world.next(RunKind::Worker).await;
        assert_eq!(prompt(&run).contains("nothing is committed"), attempt == 2);
        // At the second attempt this also says that the issue was opened again.
        world.bd(&run, &["close", &subtask.issue_id]).await;
        world.finish(&run, RunStatus::Succeeded, None).await;
    }
    let blocked = world.subtask(subtask.id).await;
    assert_eq!(blocked.blocked_reason, Some(BlockedReason::Failure));
    assert!(blocked.error.unwrap().contains("nothing is committed"));
    assert!(world.requests().await.is_empty());
}

#[tokio::test]
async fn a_worker_that_crashed_after_its_work_is_taken_at_its_word() {
    let mut world = World::new(None).await;
    started(&mut world).await;
    let run = world.next(RunKind::Worker).await;
    let subtask = world.labour(&run, "alpha", "alpha\n").await;
    world
        .finish(&run, RunStatus::TimedOut, Some("it took too long"))
        .await;
    assert_eq!(world.subtask(subtask.id).await.status, SubtaskStatus::Completed);
}

#[tokio::test]
async fn work_of_an_attempt_that_failed_is_kept_for_the_next() {
    let mut world = World::new(None).await;
    let subtask = started(&mut world).await;
    let run = world.next(RunKind::Worker).await;
    let place = world.workspace(&run).await;
    crate::world::commit(&place, "alpha", "half\n");
    world.deliver(&run, &place).await;
    world
        .finish(&run, RunStatus::Failed, Some("the program exited with code 1"))
        .await;
    let run = world.next(RunKind::Worker).await;
    assert!(prompt(&run).contains("exited with code 1"));
    let place = world.workspace(&run).await;
    assert_eq!(std::fs::read_to_string(place.join("alpha")).unwrap(), "half\n");
    world.bd(&run, &["close", &subtask.issue_id]).await;
    world.finish(&run, RunStatus::Succeeded, None).await;
    assert_eq!(world.subtask(subtask.id).await.status, SubtaskStatus::Completed);
}

#[tokio::test]
async fn a_deleted_issue_is_not_a_closed_one() {
    let mut world = World::with(None, |settings| settings.worker_attempts = 2).await;
    let subtask = started(&mut world).await;
    for attempt in 1..=2 {
        let run = world.next(RunKind::Worker).await;
        let issue = world.issue_of(&run).await.unwrap();
        assert_eq!(issue == subtask.issue_id, attempt == 1, "it is made again");
        world.bd(&run, &["delete", &issue, "--force"]).await;
        world.finish(&run, RunStatus::Succeeded, None).await;
    }
    let blocked = world.subtask(subtask.id).await;
    assert_eq!(blocked.blocked_reason, Some(BlockedReason::Failure));
    world.control.retry_subtask(&me(), subtask.id).await.unwrap();
    assert_eq!(world.work().await.status, SubtaskStatus::Completed);
}

#[tokio::test]
async fn a_cancelled_run_blocks_its_subtask() {
    let mut world = World::new(Some(ONE_CHECK)).await;
    let subtask = started(&mut world).await;
    // While it waits.
    world.control.kill_subtask(&me(), subtask.id).await.unwrap();
    world.settle().await;
    let blocked = world.subtask(subtask.id).await;
    assert_eq!(blocked.blocked_reason, Some(BlockedReason::Failure));
    assert!(blocked.error.unwrap().contains("cancelled"));
    assert!(world.try_next().await.is_none());
    world.control.kill_subtask(&me(), subtask.id).await.unwrap();

    // While it runs: only when its server has ended it.
    world.control.retry_subtask(&me(), subtask.id).await.unwrap();
    let run = world.next(RunKind::Worker).await;
    world.control.kill_subtask(&me(), subtask.id).await.unwrap();
    world.settle().await;
    assert_eq!(world.subtask(subtask.id).await.status, SubtaskStatus::InProgress);
    let error = world.control.retry_subtask(&me(), subtask.id).await.unwrap_err();
    assert_eq!(status(&error), 409, "two agents at one subtask are not to be had");
    world.finish(&run, RunStatus::Cancelled, None).await;
    assert_eq!(world.subtask(subtask.id).await.status, SubtaskStatus::Blocked);

    // It was done before the word came: it is not worked on all the same.
    world.control.retry_subtask(&me(), subtask.id).await.unwrap();
    let run = world.next(RunKind::Worker).await;
    world.labour(&run, "alpha", "alpha\n").await;
    world.control.kill_subtask(&me(), subtask.id).await.unwrap();
    world.finish(&run, RunStatus::Succeeded, None).await;
    assert_eq!(world.subtask(subtask.id).await.status, SubtaskStatus::Blocked);
    assert!(world.try_next().await.is_none());

    // Its end is written, but nobody has gone on from there yet.
    world.control.retry_subtask(&me(), subtask.id).await.unwrap();
    let run = world.next(RunKind::Worker).await;
    world.end(&run, RunStatus::Succeeded, None).await;
    world.control.kill_subtask(&me(), subtask.id).await.unwrap();
    world.settle().await;
    assert_eq!(world.subtask(subtask.id).await.status, SubtaskStatus::Blocked);
    assert!(world.try_next().await.is_none());

    // And the checks.
    world.control.retry_subtask(&me(), subtask.id).await.unwrap();
    world.work_more(&subtask).await;
    world.control.kill_subtask(&me(), subtask.id).await.unwrap();
    world.settle().await;
    assert_eq!(world.subtask(subtask.id).await.status, SubtaskStatus::Blocked);
    assert!(world.try_next().await.is_none());
}

#[tokio::test]
async fn a_lost_worker_is_followed_by_another_until_the_limit() {
    let mut world = World::with(None, |settings| {
        settings.run_attempts = 2;
        settings.worker_attempts = 2;
    })
    .await;
    let subtask = started(&mut world).await;
    for attempt in 1..=2 {
        let run = world.next(RunKind::Worker).await;
        assert_eq!((run.submitted.ordinal, run.attempt), (attempt, 1));
        assert_eq!(world.vanish(&run).await, RunStatus::Queued);
        assert_eq!(world.subtask(subtask.id).await.attempts, attempt);
        let run = world.next(RunKind::Worker).await;
        assert_eq!((run.submitted.ordinal, run.attempt), (attempt, 2));
        assert_eq!(world.vanish(&run).await, RunStatus::Lost);
    }
    let blocked = world.subtask(subtask.id).await;
    assert_eq!(
        (blocked.status, blocked.blocked_reason),
        (SubtaskStatus::Blocked, Some(BlockedReason::Failure))
    );
    assert!(blocked.error.unwrap().contains("its sandbox is gone"));
}

#[tokio::test]
async fn lost_checks_block_and_are_not_the_workers_fault() {
    let mut world = World::with(Some(ONE_CHECK), |settings| settings.run_attempts = 1).await;
    let subtask = started(&mut world).await;
    world.work().await;
    let check = world.next(RunKind::Check).await;
    assert_eq!(world.vanish(&check).await, RunStatus::Lost);
    let blocked = world.subtask(subtask.id).await;
    assert_eq!(
        (blocked.blocked_reason, blocked.attempts),
        (Some(BlockedReason::Failure), 1)
    );
    world.control.retry_subtask(&me(), subtask.id).await.unwrap();
    let run = world.next(RunKind::Worker).await;
    world.bd(&run, &["close", &subtask.issue_id]).await;
    world.finish(&run, RunStatus::Succeeded, None).await;
    assert_eq!(world.check_ok().await.status, SubtaskStatus::Completed);
}

#[tokio::test]
async fn a_branch_that_somebody_deleted_is_said_and_made_again() {
    let mut world = World::new(Some(ONE_CHECK)).await;
    let subtask = started(&mut world).await;
    world.work().await;
    let check = world.next(RunKind::Check).await;
    let clone = world.repository().path().to_owned();
    git(
        &clone,
        &["update-ref", "-d", &format!("refs/heads/{}", subtask.branch)],
    );
    world.finish(&check, RunStatus::Succeeded, None).await;
    let blocked = world.subtask(subtask.id).await;
    assert_eq!(blocked.blocked_reason, Some(BlockedReason::Failure));
    assert!(blocked.error.unwrap().contains(&subtask.branch));
    world.control.retry_subtask(&me(), subtask.id).await.unwrap();
    world.work().await;
    assert_eq!(world.check_ok().await.status, SubtaskStatus::Completed);
}

#[tokio::test]
async fn the_worktree_of_a_failure_is_kept_for_an_hour() {
    let mut world = World::with(None, |settings| settings.worker_attempts = 1).await;
    let subtask = started(&mut world).await;
    let run = world.next(RunKind::Worker).await;
    let place = world.workspace(&run).await;
    crate::world::commit(&place, "alpha", "half\n");
    world.deliver(&run, &place).await;
    world.finish(&run, RunStatus::Failed, None).await;
    assert_eq!(world.subtask(subtask.id).await.status, SubtaskStatus::Blocked);
    world.later(3599);
    assert_eq!(world.control.expire_worktrees().await.unwrap(), 0);
    let kept = world.repository().worktree_path(subtask.id).join("alpha");
    assert_eq!(std::fs::read_to_string(kept).unwrap(), "half\n", "for a look");
    world.later(1);
    assert_eq!(world.control.expire_worktrees().await.unwrap(), 1);
    assert_eq!(world.control.expire_worktrees().await.unwrap(), 0);
    assert!(!world.has_worktree(&subtask));

    // What was committed is still there for a later try, whose worktree is safe.
    world.control.retry_subtask(&me(), subtask.id).await.unwrap();
    world.later(7200);
    assert_eq!(world.control.expire_worktrees().await.unwrap(), 0);
    assert!(world.has_worktree(&subtask));
    let run = world.next(RunKind::Worker).await;
    let place = world.workspace(&run).await;
    assert_eq!(std::fs::read_to_string(place.join("alpha")).unwrap(), "half\n");
    world.bd(&run, &["close", &subtask.issue_id]).await;
    world.finish(&run, RunStatus::Succeeded, None).await;
    assert!(world.has_worktree(&subtask));
    world.merge(&subtask).await;
    assert!(!world.has_worktree(&subtask));
}

#[tokio::test]
async fn a_session_is_taken_up_as_long_as_it_lives() {
    let mut world = World::new(None).await;
    let subtask = started(&mut world).await;
    let run = world.next(RunKind::Worker).await;
    let session = ostler_store::AgentSession {
        subject: subtask.id.to_string(),
        tenant_id: subtask.tenant_id,
        agent_session: "s-1".into(),
        totals: ostler_domain::Usage::default(),
        expires_at: world.clock_now().plus(std::time::Duration::from_secs(7200)),
        version: 1,
    };
    world.store.commit(vec![Change::insert(&session)]).await.unwrap();
    world.finish(&run, RunStatus::Succeeded, None).await;
    let run = world.next(RunKind::Worker).await;
    let agent = run.submitted.spec.agent.as_ref().unwrap();
    assert_eq!(agent.resume.as_deref(), Some("s-1"));
    assert!(
        !agent.prompt.contains("Write alpha."),
        "the conversation knows it: {}",
        agent.prompt
    );
    world.later(7200);
    world.finish(&run, RunStatus::Succeeded, None).await;
    let run = world.next(RunKind::Worker).await;
    let agent = run.submitted.spec.agent.as_ref().unwrap();
    assert_eq!(agent.resume, None);
    assert!(agent.prompt.contains("Write alpha."), "{}", agent.prompt);

    // Some time later nothing of it is left.
    let sessions = world.dir.path().join("sessions");
    std::fs::create_dir(&sessions).unwrap();
    let archive = sessions.join(format!("{}.tar", subtask.id));
    std::fs::write(&archive, "a conversation").unwrap();
    let (records, _calls) = tokio::sync::mpsc::channel(1);
    let executor =
        Executor::new(world.control.clone(), ExecutorSettings::default()).with_agents(AgentServices {
            gateway: Arc::new(Gateway::new(&GatewaySettings::default(), records).unwrap()),
            token_key: [0; 32],
            sessions,
        });
    assert_eq!(executor.expire_sessions().await.unwrap(), 0);
    world.later(3601);
    assert_eq!(executor.expire_sessions().await.unwrap(), 1);
    assert!(!archive.exists());
    assert_eq!(executor.expire_sessions().await.unwrap(), 0);
}

#[tokio::test]
async fn a_task_is_active_while_something_is_blocked() {
    let mut world = World::with(None, |settings| settings.worker_attempts = 1).await;
    let task = world.task(true).await;
    let parts = world
        .plan(&[("alpha", &[]), ("beta", &[0]), ("gamma", &[])])
        .await;
    let (a, c) = (world.next_of(&parts[0]).await, world.next_of(&parts[2]).await);
    world.finish(&a, RunStatus::Failed, Some("no")).await;
    world.work_on(&c, "gamma", "gamma\n").await;
    assert_eq!(world.subtask(parts[2].id).await.status, SubtaskStatus::Merged);
    assert_eq!(
        world.subtask(parts[1].id).await.blocked_reason,
        Some(BlockedReason::Dependency)
    );
    assert_eq!(world.reload(&task).await.status, TaskStatus::Active);
    world.control.retry_subtask(&me(), parts[0].id).await.unwrap();
    world.work().await;
    assert_eq!(world.work().await.status, SubtaskStatus::Merged);
    assert_eq!(world.reload(&task).await.status, TaskStatus::Done);
}
