//! `ostler task watch`.
//!
//! Events say that something changed; what is shown comes from them and from the objects themselves, which are looked at
//! after every (re)connection and now and then. So nothing is missed, and nothing is shown twice.

use crate::commands::Outcome;
use crate::context::Session;
use crate::error::{CliError, Result};
use crate::exit::Exit;
use crate::table::{one_line, painted};
use ostler_client::{Followed, RunQuery};
use ostler_contracts::{ErrorCode, EventView, SubtaskView, TaskView};
use ostler_domain::{
    BlockedReason, Clock, RunId, RunStatus, SubtaskId, SubtaskStatus, SystemClock, TaskId, TaskStatus,
};
use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::time::Duration;

/// How often everything is looked at, and how long a run waits until it is said why.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// Waiting runs that are explained at a time.
const MAX_WAITING: u32 = 20;

/// Which task.
#[derive(Debug, clap::Args)]
pub struct Watch {
    /// Id, or the end of it.
    #[arg(value_name = "TASK")]
    task: String,
}

impl Watch {
    pub(super) async fn run(self, session: &Session) -> Outcome {
        let id = session.task_id(&self.task).await?;
        let mut watched = Watched {
            session,
            id,
            task: None,
            subtasks: BTreeMap::new(),
            explained: BTreeSet::new(),
        };
        let mut events = session.client.follow_events(None);
        let mut lost = false;
        let mut tick = tokio::time::interval(LOOK_AGAIN);
        // The first tick comes at once, and there is no connection yet.
        tick.tick().await;
        loop {
            // Held over ticks: what is dropped half way would have to begin again.
            let mut next = pin!(events.next());
            let followed = loop {
                tokio::select! {
                    followed = &mut next => break followed?,
                    _ = tick.tick() => {
                        watched.look().await?;
                        watched.waiting().await;
                        if let Some(exit) = watched.end() {
                            return Ok(exit);
                        }
                    }
                }
            };
            match followed {
                Followed::Connected => {
                    if std::mem::take(&mut lost) {
                        session.out.note("the server answers again");
                    }
                    watched.look().await?;
                }
                Followed::Lost(_) => {
                    session
                        .out
                        .note("the connection to the server is lost; trying again");
                    lost = true;
                }
                Followed::Item(event) => watched.event(&event).await?,
            }
            if let Some(exit) = watched.end() {
                return Ok(exit);
            }
        }
    }
}

/// What has been shown so far.
struct Watched<'a> {
    session: &'a Session,
    id: TaskId,
    task: Option<TaskView>,
    subtasks: BTreeMap<SubtaskId, SubtaskView>,
    /// Runs of which it was said why they wait.
    explained: BTreeSet<RunId>,
}

impl Watched<'_> {
    /// Reads everything as it is now; a server that does not answer is asked again later.
    async fn look(&mut self) -> Result<()> {
        let client = &self.session.client;
        let found = match client.task(self.id).await {
            Ok(task) => client.subtasks(self.id).await.map(|subtasks| (task, subtasks)),
            Err(error) => Err(error),
        };
        match found {
            Ok((task, subtasks)) => {
                self.task_is(task)?;
                for subtask in subtasks {
                    self.subtask_is(subtask).await?;
                }
                Ok(())
            }
            Err(error) if error.is_transient() => Ok(()),
            Err(error) if error.code() == Some(ErrorCode::NotFound) && self.task.is_some() => {
                Err(self.deleted())
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn event(&mut self, event: &EventView) -> Result<()> {
        match event.kind.as_str() {
            "task.deleted" if event.subject == self.id.to_string() => Err(self.deleted()),
            // What cannot be read is of a newer server; the next look shows it.
            "task.updated" => match serde_json::from_value::<TaskView>(event.data.clone()) {
                Ok(task) if task.id == self.id => self.task_is(task),
                _ => Ok(()),
            },
            "subtask.created" | "subtask.updated" => {
                match serde_json::from_value::<SubtaskView>(event.data.clone()) {
                    Ok(subtask) if subtask.task_id == self.id => self.subtask_is(subtask).await,
                    _ => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }

    /// Says of the task's runs that wait for long why they do, once of each.
    async fn waiting(&mut self) {
        let query = RunQuery {
            task: Some(self.id),
            status: Some(RunStatus::Queued),
            limit: Some(MAX_WAITING),
            ..RunQuery::default()
        };
        let now = SystemClock.now();
        // Only a comment on what is shown: if it cannot be had, it is missing.
        for run in self.session.client.runs(query).await.unwrap_or_default() {
            if now.since(run.created_at.0) < LOOK_AGAIN || !self.explained.insert(run.id) {
                continue;
            }
            if let Some(why) = self.session.why_waiting(run.id).await {
                let what = run.subtask_id.and_then(|id| self.subtasks.get(&id));
                let what = what.map_or_else(String::new, |subtask| format!("#{}: ", subtask.number));
                self.session
                    .out
                    .note(&format!("{what}the {} run {} waits: {why}", run.kind, run.id));
            }
        }
    }

    fn deleted(&self) -> CliError {
        CliError::Failed(format!("the task {} was deleted", self.id))
    }

    fn task_is(&mut self, task: TaskView) -> Result<()> {
        let seen = |t: &TaskView| (t.status, t.attempts, t.run_id, t.error.clone());
        let known = self.task.as_ref();
        if known.is_some_and(|known| known.updated_at > task.updated_at) {
            return Ok(());
        }
        if known.is_none_or(|known| seen(known) != seen(&task)) {
            let more = match task.status {
                TaskStatus::Planning => [attempt(task.attempts), task.run_id.map(|id| format!("run {id}"))],
                _ => [None, None],
            };
            let line = Line {
                what: format!("task {}", one_line(&task.title)),
                state: task.status.to_string(),
                more: more.into_iter().flatten().collect(),
                error: task.error.as_deref(),
            };
            self.say(&serde_json::json!({ "task": task }), &line)?;
        }
        self.task = Some(task);
        Ok(())
    }

    async fn subtask_is(&mut self, subtask: SubtaskView) -> Result<()> {
        let seen = |s: &SubtaskView| (s.status, s.blocked_reason, s.attempts, s.run_id, s.error.clone());
        let known = self.subtasks.get(&subtask.id);
        if known.is_some_and(|known| known.updated_at > subtask.updated_at) {
            return Ok(());
        }
        if known.is_none_or(|known| seen(known) != seen(&subtask)) {
            let by_hand = self.task.as_ref().is_some_and(|task| !task.auto);
            let more = match (subtask.status, subtask.blocked_reason) {
                (SubtaskStatus::Blocked, Some(reason)) => [Some(reason.to_string()), None],
                (SubtaskStatus::InProgress, _) => {
                    let run = match subtask.run_id {
                        Some(id) => Some(self.run(id).await),
                        None => None,
                    };
                    [attempt(subtask.attempts), run]
                }
                (SubtaskStatus::Ready, _) if by_hand => {
                    [Some(format!("ostler subtask start {}", subtask.id)), None]
                }
                (SubtaskStatus::Completed, _) if by_hand => {
                    [Some(format!("ostler subtask merge {}", subtask.id)), None]
                }
                _ => [None, None],
            };
            let line = Line {
                what: format!("#{} {}", subtask.number, one_line(&subtask.title)),
                state: subtask.status.to_string(),
                more: more.into_iter().flatten().collect(),
                error: subtask.error.as_deref(),
            };
            self.say(&serde_json::json!({ "subtask": subtask }), &line)?;
        }
        self.subtasks.insert(subtask.id, subtask);
        Ok(())
    }

    /// What a run is for: a subtask in progress is worked on by one, and then checked by another.
    async fn run(&self, id: RunId) -> String {
        match self.session.client.run(id).await {
            Ok(run) => format!("{} run {id}", run.kind),
            Err(_) => format!("run {id}"),
        }
    }

    fn say(&self, value: &serde_json::Value, line: &Line<'_>) -> Result<()> {
        let out = self.session.out;
        if out.json {
            return out.line(value);
        }
        let mut text = format!("{}: {}", line.what, painted(&line.state, out.colour));
        if !line.more.is_empty() {
            text.extend([" (", &line.more.join(", "), ")"]);
        }
        if let Some(error) = line.error {
            text.push_str(": ");
            text.push_str(one_line(error).trim());
        }
        text.push('\n');
        out.bytes(text.as_bytes())
    }

    /// How the watch ends, if it does.
    fn end(&self) -> Option<Exit> {
        match self.task.as_ref()?.status {
            TaskStatus::Done => Some(Exit::OK),
            TaskStatus::PlanningFailed => {
                let hint = format!("planning has failed; `ostler task retry-planning {}` tries again", self.id);
                self.session.out.note(&hint);
                Some(Exit::FAILED)
            }
            TaskStatus::Active if stuck(&self.subtasks) => {
                let hint = "every subtask that is left is blocked; `ostler subtask retry` takes one up again";
                self.session.out.note(hint);
                Some(Exit::FAILED)
            }
            TaskStatus::Planning | TaskStatus::Active => None,
        }
    }
}

/// One line of the story.
struct Line<'a> {
    what: String,
    state: String,
    more: Vec<String>,
    error: Option<&'a str>,
}

/// Which attempt it is, unless it is the first.
fn attempt(attempts: u32) -> Option<String> {
    (attempts > 1).then(|| format!("attempt {attempts}"))
}

/// Whether nothing can go on without help: every subtask that is not merged has failed, or waits for one that has. A
/// subtask that waits for merged ones only is about to go on, even though it is still marked as blocked.
fn stuck(subtasks: &BTreeMap<SubtaskId, SubtaskView>) -> bool {
    let left = || subtasks.values().filter(|s| s.status != SubtaskStatus::Merged);
    let blocked = |s: &SubtaskView, reason| s.status == SubtaskStatus::Blocked && s.blocked_reason == Some(reason);
    let mut stuck: BTreeSet<SubtaskId> =
        left().filter(|s| blocked(s, BlockedReason::Failure)).map(|s| s.id).collect();
    loop {
        let waiting = left().filter(|s| blocked(s, BlockedReason::Dependency) && !stuck.contains(&s.id));
        let more: Vec<SubtaskId> = waiting
            .filter(|s| s.depends_on.iter().any(|id| stuck.contains(id)))
            .map(|s| s.id)
            .collect();
        if more.is_empty() {
            break;
        }
        stuck.extend(more);
    }
    !stuck.is_empty() && left().all(|s| stuck.contains(&s.id))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    type State = (u128, &'static str, Option<&'static str>, &'static [u128]);

    fn subtasks(states: &[State]) -> BTreeMap<SubtaskId, SubtaskView> {
        let view = |(id, status, reason, depends_on): &State| {
            let depends_on: Vec<_> = depends_on.iter().map(|id| SubtaskId::from_u128(*id)).collect();
            let view: SubtaskView = serde_json::from_value(json!({
                "id": SubtaskId::from_u128(*id), "task_id": TaskId::from_u128(1),
                "project_id": ostler_domain::ProjectId::from_u128(1), "issue_id": "x-1", "number": 1, "title": "t",
                "spec": "", "plan": "", "position": 1, "status": status, "blocked_reason": reason,
                "depends_on": depends_on, "branch": "b", "attempts": 1, "run_id": null, "error": null,
                "merge_request_id": null, "created_at": "2026-01-01T00:00:00Z", "updated_at": "2026-01-01T00:00:00Z",
            }))
            .unwrap();
            (view.id, view)
        };
        states.iter().map(view).collect()
    }

    #[test]
    fn only_what_cannot_go_on_by_itself_is_stuck() {
        let (failure, dependency) = (Some("failure"), Some("dependency"));
        let cases: [(&[State], bool); 6] = [
            (&[], false),
            (&[(1, "merged", None, &[])], false),
            (&[(1, "blocked", failure, &[]), (2, "merged", None, &[])], true),
            (&[(1, "blocked", failure, &[]), (2, "blocked", dependency, &[1]), (3, "blocked", dependency, &[2])], true),
            // The third is about to be unblocked.
            (&[(1, "blocked", failure, &[]), (2, "merged", None, &[]), (3, "blocked", dependency, &[2])], false),
            (&[(1, "blocked", failure, &[]), (2, "in_progress", None, &[])], false),
        ];
        for (states, wanted) in cases {
            assert_eq!(stuck(&subtasks(states)), wanted, "{states:?}");
        }
    }
}
