//! `ostler task`.

super::noun!(Task {
    /// Create a task; a planner starts at once.
    Create(create),
    /// List tasks, newest first.
    List(list),
    /// Show a task with its subtasks.
    Show(show),
    /// Print state changes as they happen, until the task is done or cannot go on.
    ///
    /// Ends with 0 when the task is done; with 1 when planning has failed, when every subtask that is not merged is
    /// blocked by a failure, or when the task is deleted. A server that restarts is waited for.
    Watch(watch),
    /// End what runs for a task; nothing of it starts by itself any more.
    ///
    /// What was in progress is blocked and can be tried again with `subtask retry` or `task retry-planning`.
    Kill(kill),
    /// Plan a task again whose planning has failed.
    RetryPlanning(retry_planning),
    /// End the runs of a task and delete it with everything that belongs to it.
    Delete(delete),
});

use crate::table::{Colour, Fields, section};
use crate::when::ago;
use ostler_contracts::TaskView;

fn fields(task: &TaskView, colour: Colour) -> String {
    let text = Fields::new(colour)
        .add("Id", task.id)
        .add("Title", &task.title)
        .add("Status", task.status)
        .add("Project", task.project_id)
        .add("Agent", &task.agent_kind)
        .add("By itself", if task.auto { "yes" } else { "no" })
        .opt("Epic", task.epic.as_ref())
        .add("Attempts", task.attempts)
        .opt("Run", task.run_id)
        .opt("Error", task.error.as_ref())
        .add("Created", ago(task.created_at))
        .add("Changed", ago(task.updated_at))
        .render();
    [
        text,
        section("Description", &task.description),
        section("Spec", &task.spec),
        section("Plan", &task.plan),
    ]
    .concat()
}
