//! `ostler task watch`.
//!
//! Events say that something changed; what is shown comes from them and, after every (re)connection, from the objects
//! themselves, so that nothing is missed and nothing is shown twice.

use crate::commands::Outcome;
use crate::context::Session;
use crate::error::{CliError, Result};
use crate::exit::Exit;
use crate::table::{one_line, painted};
use ostler_client::Followed;
use ostler_contracts::{ErrorCode, EventView, SubtaskView, TaskView};
use ostler_domain::{BlockedReason, SubtaskId, SubtaskStatus, TaskId, TaskStatus};
use std::collections::{BTreeMap, BTreeSet};

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
        };
        let mut events = session.client.follow_events(None);
        let mut lost = false;
        loop {
            match events.next().await? {
                Followed::Connected => {
                    if std::mem::take(&mut lost) {
                        session.out.note("the server answers again");
                    }
                    // The server may go away again right now; the follower waits for it.
                    match watched.look().await {
                        Err(CliError::Client(error)) if error.is_transient() => continue,
                        other => other?,
                    }
                }
                Followed::Lost(_) => {
                    session.out.note("the connection to the server is lost; trying again");
                    lost = true;
                    continue;
                }
                Followed::Item(event) => watched.event(&event)?,
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
}

impl Watched<'_> {
    /// Reads everything as it is now.
    async fn look(&mut self) -> Result<()> {
        let task = match self.session.client.task(self.id).await {
            Err(error) if error.code() == Some(ErrorCode::NotFound) && self.task.is_some() => {
                return Err(self.deleted());
            }
            other => other?,
        };
        self.task_is(task)?;
        for subtask in self.session.client.subtasks(self.id).await? {
            self.subtask_is(subtask)?;
        }
        Ok(())
    }

    fn event(&mut self, event: &EventView) -> Result<()> {
        match event.kind.as_str() {
            "task.deleted" if event.subject == self.id.to_string() => Err(self.deleted()),
            // What cannot be read is of a newer server; the next look shows it.
            "task.updated" => match serde_json::from_value::<TaskView>(event.data.clone()) {
                Ok(task) if task.id == self.id => self.task_is(task),
                _ => Ok(()),
            },
            "subtask.created" | "subtask.updated" => {
                match serde_json::from_value::<SubtaskView>(event.data.clone()) {
                    Ok(subtask) if subtask.task_id == self.id => self.subtask_is(subtask),
                    _ => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }

    fn deleted(&self) -> CliError {
        CliError::Failed(format!("the task {} was deleted", self.id))
    }

    fn task_is(&mut self, task: TaskView) -> Result<()> {
        let seen = |t: &TaskView| (t.status, t.attempts, t.error.clone());
        let older = self.task.as_ref().is_some_and(|known| known.updated_at > task.updated_at);
        let same = self.task.as_ref().is_some_and(|known| seen(known) == seen(&task));
        if older {
            return Ok(());
        }
        if !same {
            let what = format!("task {}", one_line(&task.title));
            let state = task.status.to_string();
            let more = match task.status {
                TaskStatus::Planning if task.attempts > 1 => format!("(attempt {})", task.attempts),
                _ => String::new(),
            };
            self.say(&serde_json::json!({ "task": task }), &what, &state, &more, task.error.as_deref())?;
        }
        self.task = Some(task);
        Ok(())
    }

    fn subtask_is(&mut self, subtask: SubtaskView) -> Result<()> {
        let seen = |s: &SubtaskView| (s.status, s.blocked_reason, s.attempts, s.error.clone());
        let known = self.subtasks.get(&subtask.id);
        if known.is_some_and(|known| known.updated_at > subtask.updated_at) {
            return Ok(());
        }
        if known.is_none_or(|known| seen(known) != seen(&subtask)) {
            let what = format!("#{} {}", subtask.number, one_line(&subtask.title));
            let state = subtask.status.to_string();
            let by_hand = self.task.as_ref().is_some_and(|task| !task.auto);
            let more = match (subtask.status, subtask.blocked_reason) {
                (SubtaskStatus::Blocked, Some(reason)) => format!("({reason})"),
                (SubtaskStatus::InProgress, _) if subtask.attempts > 1 => format!("(attempt {})", subtask.attempts),
                (SubtaskStatus::Ready, _) if by_hand => format!("(ostler subtask start {})", subtask.id),
                (SubtaskStatus::Completed, _) if by_hand => format!("(ostler subtask merge {})", subtask.id),
                _ => String::new(),
            };
            self.say(&serde_json::json!({ "subtask": subtask }), &what, &state, &more, subtask.error.as_deref())?;
        }
        self.subtasks.insert(subtask.id, subtask);
        Ok(())
    }

    fn say(
        &self,
        value: &serde_json::Value,
        what: &str,
        state: &str,
        more: &str,
        error: Option<&str>,
    ) -> Result<()> {
        let out = self.session.out;
        if out.json {
            return out.line(value);
        }
        let mut line = format!("{what}: {} {more}", painted(state, out.colour));
        line.truncate(line.trim_end().len());
        if let Some(error) = error {
            line.push_str(": ");
            line.push_str(one_line(error).trim());
        }
        out.bytes(format!("{line}\n").as_bytes())
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
