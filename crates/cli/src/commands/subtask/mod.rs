//! `ostler subtask`.

super::noun!(Subtask {
    /// List the subtasks of a task.
    List(list),
    /// Show a subtask with its runs.
    Show(show),
    /// Start a ready subtask.
    Start(start),
    /// Start a subtask again that its failures have blocked.
    Retry(retry),
    /// Merge the merge request of a completed subtask; a conflict goes back to an agent.
    Merge(merge),
    /// Show what the branch of a subtask changes.
    Diff(diff),
    /// End the run of a subtask, which is then blocked.
    Kill(kill),
});

use crate::table::{Colour, Fields, Table, section};
use crate::when::ago;
use ostler_contracts::SubtaskView;

fn status(subtask: &SubtaskView) -> String {
    match subtask.blocked_reason {
        Some(reason) => format!("{} ({reason})", subtask.status),
        None => subtask.status.to_string(),
    }
}

pub(super) fn table(subtasks: &[SubtaskView], colour: Colour) -> String {
    let mut table = Table::new(["ID", "#", "STATUS", "ATTEMPTS", "AFTER", "TITLE"], colour);
    for subtask in subtasks {
        let numbers = subtasks
            .iter()
            .filter(|s| subtask.depends_on.contains(&s.id))
            .map(|s| s.number);
        let after: Vec<String> = numbers.map(|n| n.to_string()).collect();
        table.row([
            subtask.id.to_string(),
            subtask.number.to_string(),
            status(subtask),
            subtask.attempts.to_string(),
            after.join(","),
            subtask.title.clone(),
        ]);
    }
    table.or_empty("no subtasks yet")
}

fn fields(subtask: &SubtaskView, colour: Colour) -> String {
    let after: Vec<String> = subtask.depends_on.iter().map(ToString::to_string).collect();
    let text = Fields::new(colour)
        .add("Id", subtask.id)
        .add("Title", &subtask.title)
        .add("Status", status(subtask))
        .add("Task", subtask.task_id)
        .add("Issue", &subtask.issue_id)
        .add("Branch", &subtask.branch)
        .opt("After", (!after.is_empty()).then(|| after.join("\n")))
        .add("Attempts", subtask.attempts)
        .opt("Run", subtask.run_id)
        .opt("Merge request", subtask.merge_request_id)
        .opt("Error", subtask.error.as_ref())
        .add("Created", ago(subtask.created_at))
        .add("Changed", ago(subtask.updated_at))
        .render();
    [
        text,
        section("Spec", &subtask.spec),
        section("Plan", &subtask.plan),
    ]
    .concat()
}
