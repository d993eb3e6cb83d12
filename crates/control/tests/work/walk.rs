//! Any steps in any order: the rules of [`World::rules`] hold after each of them, and in the end, with agents that do
//! their work, every task is done.

use crate::world::{ONE_CHECK, World, commit, git, me, status};
use ostler_control::{Control, NewTask, Result};
use ostler_domain::{BlockedReason, Run, RunKind, RunStatus, SubtaskStatus, TaskStatus};
use proptest::prelude::*;
use std::pin::pin;
use std::task::Poll;

const GRAPH: &[(&str, &[usize])] = &[("alpha", &[]), ("beta", &[]), ("gamma", &[0]), ("delta", &[0, 1])];

/// What somebody asks for; the number says of which subtask, request, run or task.
#[derive(Debug, Clone, Copy)]
enum Wish {
    Start(usize),
    Retry(usize),
    Merge(usize),
    MarkMerged(usize),
    Kill(usize),
    Move(usize),
    CloseRequest(usize),
    CancelRun(usize),
    RetryPlanning(usize),
    CreateTask,
    DeleteTask(usize),
    /// Whatever a person can do to go on with all that is there.
    GoOn,
    /// The round that the server makes by itself.
    Settle,
}

/// How far an agent gets in its run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Work {
    Nothing,
    /// Its issue is closed, or a part of the plan is made.
    Half,
    /// All of it; a worker also changes a file that the others change.
    Whole,
    Clashing,
    /// Its issue or epic is deleted.
    Harm,
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Claim,
    /// A run ends; whether its server lives long enough to go on from there.
    End(usize, RunStatus, Work, bool),
    Wish(Wish),
    /// Two at the same time.
    Both(Wish, Wish),
    /// The server is killed after some turns of it, and started again.
    CutOff(Wish, u64),
    TargetMoves,
}

fn wishes() -> impl Strategy<Value = Wish> {
    let at = 0..8usize;
    prop_oneof![
        2 => at.clone().prop_map(Wish::Start),
        2 => at.clone().prop_map(Wish::Retry),
        3 => at.clone().prop_map(Wish::Merge),
        1 => at.clone().prop_map(Wish::MarkMerged),
        1 => at.clone().prop_map(Wish::Kill),
        1 => at.clone().prop_map(Wish::Move),
        1 => at.clone().prop_map(Wish::CloseRequest),
        1 => at.clone().prop_map(Wish::CancelRun),
        1 => at.clone().prop_map(Wish::RetryPlanning),
        1 => Just(Wish::CreateTask),
        1 => at.prop_map(Wish::DeleteTask),
        16 => Just(Wish::GoOn),
        16 => Just(Wish::Settle),
    ]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let ends = prop_oneof![
        6 => Just(RunStatus::Succeeded),
        1 => Just(RunStatus::Failed),
        1 => Just(RunStatus::TimedOut),
        1 => Just(RunStatus::Lost),
    ];
    let work = prop_oneof![
        1 => Just(Work::Nothing),
        1 => Just(Work::Half),
        6 => Just(Work::Whole),
        3 => Just(Work::Clashing),
        1 => Just(Work::Harm),
    ];
    let step = prop_oneof![
        4 => Just(Step::Claim),
        12 => (0..8usize, ends, work, prop::bool::weighted(0.8)).prop_map(|(at, how, work, seen)| Step::End(at, how, work, seen)),
        8 => wishes().prop_map(Step::Wish),
        2 => (wishes(), wishes()).prop_map(|(a, b)| Step::Both(a, b)),
        3 => (wishes(), 1..60u64).prop_map(|(wish, turns)| Step::CutOff(wish, turns)),
        1 => Just(Step::TargetMoves),
    ];
    proptest::collection::vec(step, 30..90)
}

/// Goes on with `work` for some turns and then drops it where it is, as the end of a server does.
async fn cut_off(work: impl Future, turns: u64) {
    let mut work = pin!(work);
    let mut left = turns;
    std::future::poll_fn(|context| {
        if left == 0 {
            return Poll::Ready(());
        }
        left -= 1;
        work.as_mut().poll(context).map(drop)
    })
    .await;
}

struct Walk {
    world: World,
    auto: bool,
    running: Vec<Run>,
    texts: u64,
}

impl Walk {
    async fn step(&mut self, step: Step) {
        match step {
            Step::Claim => self.running.extend(self.world.try_next().await),
            Step::End(at, how, work, seen) => self.end(at, how, work, seen).await,
            Step::Wish(wish) => answered(self.wish(wish, self.world.control.clone()).await),
            Step::Both(a, b) => {
                let servers = (self.world.control.clone(), self.world.another_server());
                let (a, b) = tokio::join!(self.wish(a, servers.0), self.wish(b, servers.1));
                answered(a);
                answered(b);
            }
            Step::CutOff(wish, turns) => {
                cut_off(self.wish(wish, self.world.control.clone()), turns).await;
                self.world.restart();
            }
            Step::TargetMoves => self.move_target().await,
        }
    }

    async fn wish(&self, wish: Wish, control: Control) -> Result<()> {
        let me = &me();
        let subtasks: Vec<_> = self.world.all_subtasks().await.iter().map(|s| s.id).collect();
        let tasks: Vec<_> = self.world.all_tasks().await.iter().map(|t| t.id).collect();
        let requests: Vec<_> = self.world.requests().await.iter().map(|r| r.id).collect();
        let runs: Vec<_> = self.world.runs().await.iter().map(|r| r.submitted.id).collect();
        match wish {
            Wish::Settle => control.settle_all().await.map(drop),
            Wish::GoOn => {
                self.go_on(&control).await;
                Ok(())
            }
            Wish::CreateTask if tasks.len() < 2 => {
                let new = NewTask {
                    title: "Do more".into(),
                    auto: self.auto,
                    ..NewTask::default()
                };
                let project = self.world.project.id;
                control.create_task(me, project, new).await.map(drop)
            }
            Wish::Start(at) if !subtasks.is_empty() => control
                .start_subtask(me, subtasks[at % subtasks.len()])
                .await
                .map(drop),
            Wish::Retry(at) if !subtasks.is_empty() => control
                .retry_subtask(me, subtasks[at % subtasks.len()])
                .await
                .map(drop),
            Wish::Merge(at) if !subtasks.is_empty() => control
                .merge_subtask(me, subtasks[at % subtasks.len()])
                .await
                .map(drop),
            // What was merged elsewhere is not what was checked here.
            Wish::MarkMerged(at) if !subtasks.is_empty() && !self.auto => control
                .mark_merged(me, subtasks[at % subtasks.len()])
                .await
                .map(drop),
            Wish::Kill(at) if !subtasks.is_empty() => {
                control.kill_subtask(me, subtasks[at % subtasks.len()]).await
            }
            Wish::Move(at) if !subtasks.is_empty() => control
                .position_subtask(me, subtasks[at % subtasks.len()], 1)
                .await
                .map(drop),
            Wish::CloseRequest(at) if !requests.is_empty() => control
                .close_merge_request(me, requests[at % requests.len()])
                .await
                .map(drop),
            Wish::CancelRun(at) if !runs.is_empty() => {
                control.cancel_run(me, runs[at % runs.len()]).await.map(drop)
            }
            Wish::RetryPlanning(at) if !tasks.is_empty() => control
                .retry_planning(me, tasks[at % tasks.len()])
                .await
                .map(drop),
            Wish::DeleteTask(at) if !tasks.is_empty() => {
                control.delete_task(me, tasks[at % tasks.len()]).await
            }
            _ => Ok(()),
        }
    }

    async fn go_on(&self, control: &Control) {
        for task in self.world.all_tasks().await {
            if task.status == TaskStatus::PlanningFailed {
                answered(control.retry_planning(&me(), task.id).await);
            }
        }
        for subtask in self.world.all_subtasks().await {
            let failed = subtask.blocked_reason == Some(BlockedReason::Failure);
            answered(match subtask.status {
                SubtaskStatus::Ready => control.start_subtask(&me(), subtask.id).await,
                // By hand it may land on top of something newer than what was checked.
                SubtaskStatus::Completed if !self.auto => control.merge_subtask(&me(), subtask.id).await,
                SubtaskStatus::Blocked if failed => control.retry_subtask(&me(), subtask.id).await,
                _ => Ok(subtask),
            });
        }
    }

    /// Somebody else works on the project, too. Only while origin has all that was merged here: a person who finds a
    /// clash between the two has to mend it there.
    async fn move_target(&mut self) {
        let ours = self.world.repository().head_of("main").await.unwrap().unwrap();
        if ours == git(&self.world.origin, &["rev-parse", "main"]) {
            self.texts += 1;
            let text = format!("one\nby hand {}\nthree\n", self.texts);
            commit(&self.world.origin, "README", &text);
            self.world.repository().sync("main", None).await.unwrap();
        }
    }

    async fn end(&mut self, at: usize, how: RunStatus, work: Work, seen: bool) {
        if self.running.is_empty() {
            self.running.extend(self.world.try_next().await);
        }
        if self.running.is_empty() {
            return;
        }
        let run = self.running.swap_remove(at % self.running.len());
        self.work(&run, work).await;
        let stored = self.world.control.run(&me(), run.submitted.id).await.unwrap();
        match how {
            RunStatus::Lost => drop(self.world.vanish(&run).await),
            // Its server may see the request, or the program may be faster.
            _ if stored.cancel_requested && at.is_multiple_of(2) => {
                self.world.end(&run, RunStatus::Cancelled, None).await;
            }
            RunStatus::Failed => self.world.end(&run, how, Some("it failed")).await,
            _ => self.world.end(&run, how, None).await,
        }
        if seen {
            answered(match (run.submitted.subtask_id, run.submitted.task_id) {
                (Some(id), _) => self.world.control.settle_subtask(id).await,
                (None, Some(id)) => self.world.control.settle_task(id).await,
                (None, None) => Ok(()),
            });
        }
    }

    /// What the agent of a run does before it ends. Its task may be gone.
    async fn work(&mut self, run: &Run, work: Work) {
        if work == Work::Nothing || run.submitted.kind == RunKind::Check {
            return;
        }
        let Some(issue) = self.world.issue_of(run).await else {
            return;
        };
        if work == Work::Harm {
            let _ = self.world.try_bd(run, &["delete", &issue, "--force"]).await;
            return;
        }
        if run.submitted.kind == RunKind::Planner {
            // An earlier planner may have got that far, with its program failing after.
            let words = ["list", "--parent", &issue, "--json"];
            if self
                .world
                .try_bd(run, &words)
                .await
                .is_ok_and(|list| list == "[]")
            {
                let parts = if work == Work::Half { &GRAPH[..2] } else { GRAPH };
                self.world.write_plan(run, parts).await;
            }
        } else if work != Work::Half {
            self.texts += 1;
            let place = self.world.workspace(run).await;
            git(&place, &["merge", "-q", "-X", "ours", "origin/main"]);
            if work == Work::Clashing {
                let text = format!("one\n{}\nthree\n", self.texts);
                commit(&place, "README", &text);
            }
            commit(&place, &format!("work-{}", self.texts), "x\n");
            self.world.deliver(run, &place).await;
        }
        if work != Work::Half || run.submitted.kind == RunKind::Worker {
            let _ = self.world.try_bd(run, &["close", &issue]).await;
        }
    }

    /// From here on everybody does what they should.
    async fn good_end(&mut self) {
        for _ in 0..300 {
            self.world.settle().await;
            let tasks = self.world.all_tasks().await;
            if tasks.iter().all(|task| task.status == TaskStatus::Done) {
                return;
            }
            self.go_on(&self.world.control).await;
            self.world.settle().await;
            self.end(0, RunStatus::Succeeded, Work::Whole, true).await;
        }
        panic!(
            "it does not come to an end: {:#?}",
            self.world.all_subtasks().await
        );
    }
}

/// What does not fit is refused with a reason; nothing else may go wrong.
fn answered<T>(answer: Result<T>) {
    if let Err(error) = answer {
        assert!(matches!(status(&error), 404 | 409 | 422), "{error}");
    }
}

async fn walk(steps: Vec<Step>, auto: bool) {
    let mut world = World::with(Some(ONE_CHECK), |settings| {
        settings.worker_attempts = 3;
        settings.planner_attempts = 2;
        settings.run_attempts = 2;
    })
    .await;
    world.strict = auto;
    world.task(auto).await;
    let mut walk = Walk {
        world,
        auto,
        running: Vec::new(),
        texts: 0,
    };
    for step in steps {
        walk.step(step).await;
        walk.world.rules().await;
    }
    walk.good_end().await;
    walk.world.control.expire_worktrees().await.unwrap();
    // Runs of tasks that are gone end, too.
    for run in std::mem::take(&mut walk.running) {
        walk.world.end(&run, RunStatus::Cancelled, None).await;
    }
    assert!(walk.world.try_next().await.is_none());
    for subtask in walk.world.all_subtasks().await {
        assert!(!walk.world.has_worktree(&subtask), "a worktree is left over");
    }
}

fn in_runtime(steps: Vec<Step>, auto: bool) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(walk(steps, auto));
}

proptest! {
    // Each case takes seconds, most of them in git: `PROPTEST_CASES` asks for more.
    #![proptest_config(ProptestConfig {
        cases: std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(3),
        max_shrink_iters: 60,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn automatic_tasks(steps in steps()) {
        in_runtime(steps, true);
    }

    #[test]
    fn tasks_by_hand(steps in steps()) {
        in_runtime(steps, false);
    }
}
