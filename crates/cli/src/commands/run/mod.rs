//! `ostler run`.

pub(super) mod requirements;

super::noun!(Run {
    /// Submit a command.
    ///
    /// Prints the id of the run. With -f the program's output is shown as it comes, and the command ends with the
    /// program's own code; ending it with Ctrl-C leaves the run as it is.
    Submit(submit),
    /// List runs, newest first.
    List(list),
    /// Show a run.
    Show(show),
    /// Print the log of a run: the program's output to standard output, its errors to standard error.
    Logs(logs),
    /// End a run.
    Cancel(cancel),
    /// Say why a run is where it is.
    Explain(explain),
});

use crate::table::{Colour, Fields, Table, one_line, section};
use crate::when::{ago, between, length};
use ostler_contracts::RunView;
use std::time::Duration;

/// Longest command in a table.
const MAX_COMMAND: usize = 60;

fn what(run: &RunView) -> String {
    match (&run.agent_kind, run.commands.as_slice()) {
        (Some(kind), _) => format!("agent {kind}"),
        (None, commands) => {
            let lines: Vec<String> = commands.iter().map(|argv| argv.join(" ")).collect();
            one_line(&lines.join(" && "))
        }
    }
}

fn exit(run: &RunView) -> Option<String> {
    match (run.exit_code, run.signal) {
        (Some(code), _) => Some(code.to_string()),
        (None, Some(signal)) => Some(format!("signal {signal}")),
        (None, None) => None,
    }
}

pub(super) fn table(runs: &[RunView], colour: Colour) -> String {
    let mut table = Table::new(
        ["ID", "KIND", "STATUS", "EXIT", "CREATED", "TOOK", "COMMAND"],
        colour,
    );
    for run in runs {
        let mut command = what(run);
        if command.chars().count() > MAX_COMMAND {
            command = command.chars().take(MAX_COMMAND - 1).chain(['…']).collect();
        }
        table.row([
            run.id.to_string(),
            run.kind.to_string(),
            run.status.to_string(),
            exit(run).unwrap_or_else(|| "-".to_owned()),
            ago(run.created_at),
            run.started_at
                .map_or_else(|| "-".to_owned(), |at| between(at, run.finished_at)),
            command,
        ]);
    }
    table.or_empty("no runs")
}

fn fields(run: &RunView, colour: Colour) -> String {
    let cancelling = run.cancel_requested && !run.status.is_terminal();
    let usage = run.usage;
    let used = usage.input_tokens + usage.output_tokens + usage.cache_read_tokens + usage.cache_write_tokens;
    let usage = (used > 0).then(|| {
        format!(
            "{} in, {} out, {} from cache, {} into cache, ${:.4}",
            usage.input_tokens,
            usage.output_tokens,
            usage.cache_read_tokens,
            usage.cache_write_tokens,
            usage.cost_usd
        )
    });
    let requirements = run.requirements.canonical();
    let text = Fields::new(colour)
        .add("Id", run.id)
        .add("Kind", run.kind)
        .add(
            "Status",
            if cancelling {
                format!("{} (being cancelled)", run.status)
            } else {
                run.status.to_string()
            },
        )
        .add("Command", what(run))
        .opt("Exit", exit(run))
        .opt("Error", run.error.as_ref())
        .opt("Project", run.project_id)
        .opt("Task", run.task_id)
        .opt("Subtask", run.subtask_id)
        .add("Attempt", run.ordinal)
        .opt(
            "Restarted",
            (run.attempt > 1).then(|| format!("{} times", run.attempt - 1)),
        )
        .add("Priority", run.priority)
        .opt("Needs", (requirements != "{}").then_some(requirements))
        .opt(
            "Time-out",
            run.timeout_seconds.map(|s| length(Duration::from_secs(s))),
        )
        .opt("Sandbox", run.sandbox_id)
        .opt("Usage", usage)
        .opt("Session", run.agent_session.as_ref())
        .opt("Commit", run.head.as_ref())
        .add("Created", ago(run.created_at))
        .opt("Started", run.started_at.map(ago))
        .opt("Took", run.started_at.map(|at| between(at, run.finished_at)))
        .render();
    let result = run.result.as_ref().map(|result| match result {
        serde_json::Value::String(text) => text.clone(),
        other => format!("{other:#}"),
    });
    [
        text,
        section("Result", result.as_deref().unwrap_or_default()),
        section("Prompt", run.prompt.as_deref().unwrap_or_default()),
    ]
    .concat()
}
