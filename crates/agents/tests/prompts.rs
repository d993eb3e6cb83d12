//! The prompts as agents read them.

use ostler_agents::{FeedbackPrompt, PlannerPrompt, Prompts, WorkerPrompt};

const PLANNER: PlannerPrompt<'static> = PlannerPrompt {
    title: "Add a --json flag",
    description: "All list commands should print JSON when asked & stay <readable>.",
    project: "sample",
    default_branch: "main",
    epic: "iv-1",
    instruction_file: Some("CLAUDE.md"),
    attempt: 1,
    feedback: None,
};

fn worker(checks: &[String]) -> WorkerPrompt<'_> {
    WorkerPrompt {
        task_title: "Add a --json flag",
        title: "Print the list as JSON",
        spec: "`list --json` prints an array.",
        plan: "1. Extend the parser.",
        project: "sample",
        default_branch: "main",
        branch: "iv-1-print-the-list-as-json",
        issue: "iv-1.1",
        checks,
        instruction_file: Some("CLAUDE.md"),
        attempt: 1,
        feedback: None,
    }
}

#[test]
fn planner() {
    let prompts = Prompts::embedded().unwrap();
    insta::assert_snapshot!("planner", prompts.planner(&PLANNER).unwrap());
    let again = PlannerPrompt {
        description: "",
        instruction_file: None,
        attempt: 2,
        feedback: Some("The epic iv-1 was not closed."),
        ..PLANNER
    };
    insta::assert_snapshot!("planner-again", prompts.planner(&again).unwrap());
}

#[test]
fn workers() {
    let prompts = Prompts::embedded().unwrap();
    let checks = ["cargo test".to_owned(), "make lint".to_owned()];
    insta::assert_snapshot!("worker", prompts.worker(&worker(&checks)).unwrap());
    let bare = WorkerPrompt {
        spec: "",
        plan: "",
        instruction_file: None,
        attempt: 3,
        feedback: Some("`cargo test` failed:\n\n    assertion failed"),
        ..worker(&[])
    };
    insta::assert_snapshot!("worker-bare-again", prompts.worker(&bare).unwrap());
    let feedback = FeedbackPrompt {
        title: "Print the list as JSON",
        issue: "iv-1.1",
        branch: "iv-1-print-the-list-as-json",
        checks: &checks,
        feedback: Some("`cargo test` failed."),
        attempt: 2,
    };
    insta::assert_snapshot!("feedback", prompts.feedback(&feedback).unwrap());
    let unfinished = FeedbackPrompt {
        feedback: None,
        checks: &[],
        ..feedback
    };
    insta::assert_snapshot!("feedback-unfinished", prompts.feedback(&unfinished).unwrap());
}

#[test]
fn words_of_a_task_are_neither_escaped_nor_executed() {
    let prompts = Prompts::embedded().unwrap();
    let description = "<b>{{ 7 * 6 }}</b> & {% raw %}";
    let text = prompts
        .planner(&PlannerPrompt {
            description,
            ..PLANNER
        })
        .unwrap();
    assert!(text.contains(description), "{text}");
}
