//! Random walks: whatever happens in whatever order, the rules of [`World::rules`] hold after every step, and in the
//! end, with agents that do their work, the task is done.

use crate::world::{ONE_CHECK, World, me};
use ostler_domain::{Run, RunKind, RunStatus, SubtaskStatus, TaskStatus};
use std::future::Future;
use std::pin::pin;
use std::task::Poll;

const GRAPH: &[(&str, &[usize])] = &[("alpha", &[]), ("beta", &[0]), ("gamma", &[0]), ("delta", &[1])];

/// xorshift64*: small, and the same everywhere.
struct Chance(u64);

impl Chance {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % limit
    }
}

/// Goes on with `work` for some turns and then drops it where it is, as the end of a server does. Whether it ended first.
async fn cut_off(work: impl Future, turns: u64) -> bool {
    let mut work = pin!(work);
    let mut left = turns;
    std::future::poll_fn(|context| {
        if left == 0 {
            return Poll::Ready(false);
        }
        left -= 1;
        work.as_mut().poll(context).map(|_| true)
    })
    .await
}

struct Walk {
    world: World,
    chance: Chance,
    running: Vec<Run>,
    texts: u64,
}

impl Walk {
    async fn step(&mut self) -> String {
        match self.chance.below(20) {
            0..8 => self.end_of_a_run().await,
            8..11 => match self.world.try_next().await {
                Some(run) => {
                    self.running.push(run);
                    "a run starts".into()
                }
                None => "nothing waits".into(),
            },
            11 => {
                self.world.restart();
                "restart".into()
            }
            12 | 13 => {
                let turns = 1 + self.chance.below(60);
                let control = self.world.control.clone();
                let whole = cut_off(control.settle_all(), turns).await;
                self.world.restart();
                format!("killed after {turns} turns of settling (whole: {whole})")
            }
            14 => {
                let ids: Vec<_> = self.world.all_subtasks().await;
                if ids.is_empty() {
                    return "nothing to kill".into();
                }
                let id = ids[self.chance.below(ids.len() as u64) as usize].id;
                self.world.control.kill_subtask(&me(), id).await.unwrap();
                format!("kill {id}")
            }
            15 => {
                let open: Vec<_> = self.world.requests().await;
                let Some(request) = open.first().filter(|_| self.chance.below(3) == 0) else {
                    return "no request to close".into();
                };
                let answer = self.world.control.close_merge_request(&me(), request.id).await;
                format!("close {}: {:?}", request.id, answer.map(drop))
            }
            16 => {
                self.texts += 1;
                let text = format!("one\ntwo\nthree\nby hand {}\n", self.texts);
                crate::world::commit(&self.world.origin, "README", &text);
                let synced = self.world.repository().sync("main", None).await;
                format!("the target moves: {:?}", synced.map(drop))
            }
            _ => self.people().await,
        }
    }

    /// Whatever a person may do to go on.
    async fn people(&mut self) -> String {
        let mut done = Vec::new();
        for subtask in self.world.all_subtasks().await {
            let control = &self.world.control;
            let answer = match self.chance.below(4) {
                0 => control.start_subtask(&me(), subtask.id).await,
                1 => control.merge_subtask(&me(), subtask.id).await,
                2 => control.retry_subtask(&me(), subtask.id).await,
                _ => continue,
            };
            done.push(match answer {
                Ok(subtask) => format!("{} is {}", subtask.title, subtask.status),
                Err(error) => {
                    let code = error.code().status();
                    assert!(matches!(code, 409 | 422), "{error}");
                    code.to_string()
                }
            });
        }
        let task = self.world.only_task().await;
        if task.status == TaskStatus::PlanningFailed {
            self.world.control.retry_planning(&me(), task.id).await.unwrap();
            done.push("plan again".into());
        }
        format!("people: {}", done.join(", "))
    }

    async fn end_of_a_run(&mut self) -> String {
        if self.running.is_empty() {
            self.running.extend(self.world.try_next().await);
        }
        if self.running.is_empty() {
            return "nothing runs".into();
        }
        let at = self.chance.below(self.running.len() as u64) as usize;
        let run = self.running.swap_remove(at);
        let kind = run.submitted.kind;
        let stored = self.world.control.run(&me(), run.submitted.id).await.unwrap();
        let status = match self.chance.below(8) {
            0 => RunStatus::Failed,
            1 => RunStatus::TimedOut,
            2 => {
                let state = self.world.vanish(&run).await;
                return format!("a {kind} run vanishes and is {state}");
            }
            _ if stored.cancel_requested => RunStatus::Cancelled,
            _ => RunStatus::Succeeded,
        };
        let worked = self.chance.below(4) > 0;
        if worked {
            self.good_work(&run).await;
        }
        self.world
            .end(&run, status, (status == RunStatus::Failed).then_some("it failed"))
            .await;
        format!("a {kind} run is {status} (its work is done: {worked})")
    }

    async fn good_work(&mut self, run: &Run) {
        match run.submitted.kind {
            RunKind::Planner => {
                let epic = self.world.epic(run).await;
                // An earlier planner may have got that far, with its program failing after.
                let words = ["list", "--parent", &epic, "--json"];
                if self.world.bd(run, &words).await == "[]" {
                    self.world.write_plan(run, GRAPH).await;
                } else {
                    self.world.bd(run, &["close", &epic]).await;
                }
            }
            RunKind::Worker => {
                self.texts += 1;
                let subtask = run.submitted.subtask_id.unwrap();
                let title = self.world.subtask(subtask).await.title;
                let file = format!("{title}-{}", self.texts);
                self.world.labour(run, &file, "x\n").await;
            }
            _ => {}
        }
    }

    /// From here on everybody does what they should.
    async fn good_end(&mut self) {
        for _ in 0..200 {
            self.world.settle().await;
            let task = self.world.only_task().await;
            if task.status == TaskStatus::Done {
                return;
            }
            if task.status == TaskStatus::PlanningFailed {
                self.world.control.retry_planning(&me(), task.id).await.unwrap();
            }
            for subtask in self.world.all_subtasks().await {
                match subtask.status {
                    SubtaskStatus::Ready => {
                        // A sync, or another server's, may be in the way once; not for ever.
                        let _ = self.world.control.start_subtask(&me(), subtask.id).await;
                    }
                    SubtaskStatus::Completed => {
                        let _ = self.world.control.merge_subtask(&me(), subtask.id).await;
                    }
                    SubtaskStatus::Blocked if subtask.attempts > 0 => {
                        let _ = self.world.control.retry_subtask(&me(), subtask.id).await;
                    }
                    _ => {}
                }
            }
            self.world.settle().await;
            if self.running.is_empty() {
                self.running.extend(self.world.try_next().await);
            }
            if let Some(run) = self.running.pop() {
                let stored = self.world.control.run(&me(), run.submitted.id).await.unwrap();
                let status = if stored.cancel_requested {
                    RunStatus::Cancelled
                } else {
                    self.good_work(&run).await;
                    RunStatus::Succeeded
                };
                self.world.end(&run, status, None).await;
            }
        }
        panic!(
            "it does not come to an end: {:?}",
            self.world.all_subtasks().await
        );
    }
}

async fn walk(seed: u64, auto: bool) {
    let mut world = World::with(Some(ONE_CHECK), |settings| {
        settings.worker_attempts = 3;
        settings.planner_attempts = 2;
        settings.run_attempts = 2;
    })
    .await;
    // A person who merges by hand may merge on top of something newer than what was checked.
    world.strict = auto;
    world.task(auto).await;
    let mut walk = Walk {
        world,
        chance: Chance(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1),
        running: Vec::new(),
        texts: 0,
    };
    for step in 0..60 {
        let what = walk.step().await;
        println!("seed {seed}, step {step}: {what}");
        walk.world.rules().await;
        if walk.chance.below(3) > 0 {
            walk.world.settle().await;
        }
    }
    walk.good_end().await;
    walk.world.rules().await;
    walk.world.control.expire_worktrees().await.unwrap();
    assert!(walk.world.try_next().await.is_none());
    for subtask in walk.world.all_subtasks().await {
        assert!(!walk.world.has_worktree(&subtask), "a worktree is left over");
    }
}

macro_rules! walks {
    ($($name:ident: $seeds:expr, $auto:expr;)*) => {$(
        #[tokio::test]
        async fn $name() {
            for seed in $seeds {
                walk(seed, $auto).await;
            }
        }
    )*};
}
walks! {
    automatic_walks_1: 1..4, true;
    automatic_walks_2: 4..7, true;
    walks_by_hand_1: 7..10, false;
    walks_by_hand_2: 10..13, false;
}
