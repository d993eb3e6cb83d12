//! From a task to its end.

use crate::world::{ONE_CHECK, World, commit, git, me};
use ostler_domain::{BlockedReason, IssueStatus, RunKind, RunStatus, SubtaskStatus, TaskStatus};

const THREE: &[(&str, &[usize])] = &[("alpha", &[]), ("beta", &[0]), ("gamma", &[0])];

/// Three subtasks, two of which wait for the first, each started and merged by a person.
async fn by_hand(restarts: bool) {
    let mut world = World::new(Some(ONE_CHECK)).await;
    world.restarts = restarts;
    let task = world.task(false).await;
    assert_eq!(task.status, TaskStatus::Planning);
    let [a, b, c] = <[_; 3]>::try_from(world.plan(THREE).await).unwrap();
    assert_eq!(world.reload(&task).await.status, TaskStatus::Active);
    assert_eq!(
        (a.status, a.spec.as_str(), a.plan.as_str(), a.branch.as_str()),
        (SubtaskStatus::Ready, "Write alpha.", "With care.", "iv-1-alpha")
    );
    for waits in [&b, &c] {
        assert_eq!(waits.blocked_reason, Some(BlockedReason::Dependency));
        assert_eq!(waits.depends_on, [a.id]);
    }
    assert!(world.try_next().await.is_none(), "nobody started anything");

    for subtask in [&a, &b, &c] {
        let started = world.control.start_subtask(&me(), subtask.id).await.unwrap();
        assert_eq!((started.status, started.attempts), (SubtaskStatus::InProgress, 1));
        world.settle().await;
        assert!(world.has_worktree(subtask));
        let run = world.next(RunKind::Worker).await;
        assert_eq!(run.submitted.not_before, None, "the first attempt does not wait");
        world
            .work_on(&run, &subtask.title, &format!("{}\n", subtask.title))
            .await;
        let done = world.check_ok().await;
        assert_eq!(
            (done.id, done.status),
            (subtask.id, SubtaskStatus::Completed),
            "{done:?}"
        );
        let request = world.requests().await.remove(0);
        assert_eq!(Some(request.id), done.merge_request_id);
        assert!(
            request
                .body
                .contains(&format!("- write {title}", title = subtask.title)),
            "{}",
            request.body
        );
        let diff = world.control.merge_request_diff(&me(), request.id).await.unwrap();
        let merged = world.merge(subtask).await;
        assert_eq!(merged.status, SubtaskStatus::Merged);
        assert!(!world.has_worktree(subtask), "its worktree goes with the merge");
        let after = world.control.merge_request_diff(&me(), request.id).await.unwrap();
        assert_eq!(
            diff.diff, after.diff,
            "a merged request still shows what it changed"
        );
        if subtask.id == a.id {
            for waits in [&b, &c] {
                assert_eq!(world.subtask(waits.id).await.status, SubtaskStatus::Ready);
            }
            assert_eq!(world.reload(&task).await.status, TaskStatus::Active);
        }
    }
    assert_eq!(world.reload(&task).await.status, TaskStatus::Done);
    for title in ["alpha", "beta", "gamma"] {
        let text = format!("{title}\n");
        assert_eq!(world.main_file(title).await.as_ref(), Some(&text));
        assert_eq!(
            std::fs::read_to_string(world.origin.join(title)).unwrap(),
            text,
            "published"
        );
    }
    for issue in world.control.issues(&me(), world.project.id).await.unwrap() {
        assert_eq!(issue.status, IssueStatus::Closed, "{issue:?}");
    }
    assert_eq!(world.runs().await.len(), 1 + 3 * 2);
    assert!(world.try_next().await.is_none());
}

#[tokio::test]
async fn a_task_goes_step_by_step() {
    by_hand(false).await;
}

#[tokio::test]
async fn a_task_goes_step_by_step_through_restarts() {
    by_hand(true).await;
}

#[tokio::test]
async fn an_automatic_task_needs_nobody_but_its_agents() {
    for restarts in [false, true] {
        let mut world = World::new(Some(ONE_CHECK)).await;
        world.restarts = restarts;
        let task = world.task(true).await;
        let a = world.plan(THREE).await.remove(0);
        assert_eq!(
            world.work().await.id,
            a.id,
            "only what waits for nothing has started"
        );
        assert_eq!(world.check_ok().await.status, SubtaskStatus::Merged);
        world.work().await;
        // Both are at work at the same time, from the same main branch.
        let other = world.next(RunKind::Worker).await;
        assert_eq!(world.check_ok().await.status, SubtaskStatus::Merged);
        let title = world.subtask(other.submitted.subtask_id.unwrap()).await.title;
        world.work_on(&other, &title, &format!("{title}\n")).await;
        assert_eq!(world.check_ok().await.status, SubtaskStatus::Merged);
        assert_eq!(world.reload(&task).await.status, TaskStatus::Done);
        for title in ["alpha", "beta", "gamma"] {
            assert_eq!(world.main_file(title).await.unwrap(), format!("{title}\n"));
        }
    }
}

#[tokio::test]
async fn failed_checks_go_back_with_their_output() {
    let mut world = World::new(Some(ONE_CHECK)).await;
    world.task(false).await;
    let a = world.plan(&[("alpha", &[])]).await.remove(0);
    world.control.start_subtask(&me(), a.id).await.unwrap();
    let first = world.next(RunKind::Worker).await;
    let prompt = &first.submitted.spec.agent.as_ref().unwrap().prompt;
    assert!(
        prompt.contains("./test") && prompt.contains("Write alpha."),
        "{prompt}"
    );
    world.work_on(&first, "alpha", "wrong\n").await;
    let back = world
        .check_fail("./test: exited with 1\nexpected 41 to be 42")
        .await;
    assert_eq!((back.status, back.attempts), (SubtaskStatus::InProgress, 2));
    assert!(world.requests().await.is_empty());

    let second = world.next(RunKind::Worker).await;
    let prompt = &second.submitted.spec.agent.as_ref().unwrap().prompt;
    assert!(prompt.contains("expected 41 to be 42"), "{prompt}");
    let issue = world.bd(&second, &["show", &a.issue_id, "--json"]).await;
    assert!(
        issue.contains("in_progress"),
        "it is open again for the worker: {issue}"
    );
    world.work_on(&second, "alpha", "right\n").await;
    let done = world.check_ok().await;
    assert_eq!(
        (done.status, done.feedback, done.error),
        (SubtaskStatus::Completed, None, None)
    );
    assert_eq!(world.merge(&a).await.status, SubtaskStatus::Merged);
    assert_eq!(world.main_file("alpha").await.unwrap(), "right\n");
}

#[tokio::test]
async fn without_a_project_file_there_is_nothing_to_check() {
    let mut world = World::new(None).await;
    world.task(false).await;
    let a = world.plan(&[("alpha", &[])]).await.remove(0);
    world.control.start_subtask(&me(), a.id).await.unwrap();
    assert_eq!(world.work().await.status, SubtaskStatus::Completed);
    assert_eq!(world.requests().await.len(), 1);
}

#[tokio::test]
async fn a_broken_project_file_is_the_workers_to_mend() {
    let mut world = World::new(Some("[[check]]\nname = \"tests\"\ncomand = \"x\"\n")).await;
    world.task(false).await;
    let a = world.plan(&[("alpha", &[])]).await.remove(0);
    world.control.start_subtask(&me(), a.id).await.unwrap();
    let back = world.work().await;
    assert_eq!((back.status, back.attempts), (SubtaskStatus::InProgress, 2));
    let run = world.next(RunKind::Worker).await;
    let prompt = &run.submitted.spec.agent.as_ref().unwrap().prompt;
    assert!(
        prompt.contains("ostler.toml") && prompt.contains("comand"),
        "the file and what is wrong in it: {prompt}"
    );
    world.work_on(&run, "ostler.toml", ONE_CHECK).await;
    assert_eq!(world.check_ok().await.status, SubtaskStatus::Completed);
}

#[tokio::test]
async fn a_branch_does_not_choose_where_its_checks_run() {
    let mut world = World::new(Some(&format!("{ONE_CHECK}[pool]\nname = \"safe\"\n"))).await;
    world.task(false).await;
    let a = world.plan(&[("alpha", &[])]).await.remove(0);
    world.control.start_subtask(&me(), a.id).await.unwrap();
    let run = world.next(RunKind::Worker).await;
    let elsewhere =
        format!("{ONE_CHECK}[pool]\nname = \"privileged\"\n[requirements]\nimage = \"with-secrets\"\n");
    world.work_on(&run, "ostler.toml", &elsewhere).await;
    let runs = world.runs().await;
    let check = runs.iter().find(|r| r.submitted.kind == RunKind::Check).unwrap();
    let wanted = &check.submitted.requirements;
    assert_eq!((wanted.pool.as_deref(), &wanted.image), (Some("safe"), &None));
}

#[tokio::test]
async fn work_that_weakens_the_checks_waits_for_a_person() {
    let weaker = [String::new(), ONE_CHECK.replace("./test", "true")];
    for file in weaker {
        let mut world = World::new(Some(ONE_CHECK)).await;
        // Without checks nothing is checked.
        world.strict = !file.is_empty();
        world.task(true).await;
        let a = world.plan(&[("alpha", &[])]).await.remove(0);
        let run = world.next(RunKind::Worker).await;
        world.work_on(&run, "ostler.toml", &file).await;
        if !file.is_empty() {
            world.check_ok().await;
        }
        let waiting = world.subtask(a.id).await;
        assert_eq!(waiting.status, SubtaskStatus::Completed);
        assert!(waiting.error.unwrap().contains("the check `tests`"));
        assert_eq!(world.merge(&a).await.status, SubtaskStatus::Merged);
    }
    // More checks, and others in the same file, are no trouble.
    let mut world = World::new(Some(ONE_CHECK)).await;
    world.task(true).await;
    world.plan(&[("alpha", &[])]).await;
    let run = world.next(RunKind::Worker).await;
    let more = format!("{ONE_CHECK}[[check]]\nname = \"lint\"\ncommand = \"./lint\"\n");
    world.work_on(&run, "ostler.toml", &more).await;
    assert_eq!(world.check_ok().await.status, SubtaskStatus::Merged);
}

#[tokio::test]
async fn a_conflict_goes_back_to_a_worker_with_the_files_named() {
    for auto in [true, false] {
        let mut world = World::new(None).await;
        let task = world.task(auto).await;
        let parts = world.plan(&[("alpha", &[]), ("beta", &[])]).await;
        if !auto {
            for part in &parts {
                world.control.start_subtask(&me(), part.id).await.unwrap();
            }
        }
        let first = world.next_of(&parts[0]).await;
        let second = world.next_of(&parts[1]).await;
        world.work_on(&first, "README", "one\nalpha\nthree\n").await;
        let late = if auto {
            world.work_on(&second, "README", "one\nbeta\nthree\n").await
        } else {
            // Both are in review before one of them lands.
            let done = world.work_on(&second, "README", "one\nbeta\nthree\n").await;
            assert_eq!(done.status, SubtaskStatus::Completed);
            world.merge(&parts[0]).await;
            world.merge(&parts[1]).await
        };
        assert_eq!(
            (late.status, late.attempts),
            (SubtaskStatus::InProgress, 2),
            "{late:?}"
        );
        let run = world.next(RunKind::Worker).await;
        let prompt = run.submitted.spec.agent.as_ref().unwrap().prompt.clone();
        assert!(prompt.contains("conflicts with main in: README"), "{prompt}");

        let place = world.workspace(&run).await;
        std::process::Command::new("git")
            .args(["-c", "user.name=Ann", "-c", "user.email=ann@example.org"])
            .args(["merge", "-q", "origin/main"])
            .current_dir(&place)
            .output()
            .unwrap();
        commit(&place, "README", "one\nalpha and beta\nthree\n");
        assert!(git(&place, &["status", "--porcelain"]).is_empty());
        world.deliver(&run, &place).await;
        world.bd(&run, &["close", &late.issue_id]).await;
        world.finish(&run, RunStatus::Succeeded, None).await;
        if !auto {
            world.merge(&late).await;
        }
        assert_eq!(world.reload(&task).await.status, TaskStatus::Done);
        assert_eq!(
            world.main_file("README").await.unwrap(),
            "one\nalpha and beta\nthree\n"
        );
        assert_eq!(world.requests().await.len(), 2, "the open request is used again");
    }
}

#[tokio::test]
async fn what_was_checked_on_an_older_target_is_checked_again() {
    let mut world = World::new(Some(ONE_CHECK)).await;
    let task = world.task(true).await;
    let parts = world.plan(&[("alpha", &[]), ("beta", &[])]).await;
    let (a, b) = (world.next_of(&parts[0]).await, world.next_of(&parts[1]).await);
    world.work_on(&a, "alpha", "alpha\n").await;
    world.work_on(&b, "beta", "beta\n").await;
    // The checks of both run at once; the first lands and moves the target under the second.
    let (a, b) = (world.next_of(&parts[0]).await, world.next_of(&parts[1]).await);
    assert_eq!(world.pass(&a).await.status, SubtaskStatus::Merged);
    let second = world.pass(&b).await;
    assert_eq!(
        (second.status, second.attempts),
        (SubtaskStatus::InProgress, 1),
        "{second:?}"
    );
    let again = world.next(RunKind::Check).await;
    let place = world.workspace(&again).await;
    assert!(
        place.join("alpha").exists(),
        "the second check sees what has landed"
    );
    assert_eq!(world.pass(&again).await.status, SubtaskStatus::Merged);
    assert_eq!(world.reload(&task).await.status, TaskStatus::Done);

    // The same when the target moves while a request is open: it is merged by itself only after a new check.
    let mut world = World::new(Some(ONE_CHECK)).await;
    world.task(true).await;
    let a = world.plan(&[("alpha", &[])]).await.remove(0);
    let run = world.next(RunKind::Worker).await;
    world.work_on(&run, "alpha", "alpha\n").await;
    let check = world.next(RunKind::Check).await;
    commit(&world.origin, "other", "by somebody else\n");
    world.repository().sync("main", None).await.unwrap();
    assert_eq!(world.pass(&check).await.status, SubtaskStatus::InProgress);
    assert_eq!(world.check_ok().await.status, SubtaskStatus::Merged);
    assert_eq!(world.requests().await.len(), 1);
    assert!(!world.has_worktree(&a));
}

#[tokio::test]
async fn merged_work_that_cannot_be_published_says_so() {
    let mut world = World::new(None).await;
    let task = world.task(false).await;
    let parts = world.plan(&[("alpha", &[]), ("beta", &[])]).await;
    for part in &parts {
        world.control.start_subtask(&me(), part.id).await.unwrap();
        world.work().await;
    }
    // The owner is in the middle of something there.
    std::fs::write(world.origin.join("README"), "half a thought\n").unwrap();
    assert_eq!(world.merge(&parts[0]).await.status, SubtaskStatus::Merged);
    let told = world.reload(&task).await.error.unwrap();
    assert!(
        told.contains("not brought to origin") && told.contains("git pull"),
        "{told}"
    );
    git(&world.origin, &["checkout", "-q", "README"]);
    world.merge(&parts[1]).await;
    let done = world.reload(&task).await;
    assert_eq!((done.status, done.error), (TaskStatus::Done, None));
    assert!(world.origin.join("alpha").exists() && world.origin.join("beta").exists());
}
