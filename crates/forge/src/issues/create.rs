//! `bd create`.

use super::arguments::Create;
use super::{Answer, Context, Done, Failure, Graph, ids, plan, wire};
use ostler_domain::{DependencyType, Issue, IssueStatus, IssueType};
use serde_json::json;
use std::fmt::Write;

/// Longest title, in characters.
const MAX_TITLE: usize = 500;
/// Longest text field, in bytes.
const MAX_TEXT: usize = 256 << 10;
/// Longest short text such as a label or a name, in bytes.
const MAX_WORD: usize = 200;
/// Most issues of one graph.
const MAX_ISSUES: usize = 5000;

/// A new issue with nothing but a title.
pub(super) fn blank(graph: &Graph, context: &Context<'_>, id: String, title: &str) -> Issue {
    let (tenant_id, project_id) = graph.owner();
    let now = context.call.now;
    Issue {
        id,
        tenant_id,
        project_id,
        task_id: context.call.task,
        issue_type: IssueType::Task,
        title: title.to_owned(),
        description: String::new(),
        design: String::new(),
        acceptance_criteria: String::new(),
        notes: String::new(),
        status: IssueStatus::Open,
        priority: 2,
        assignee: None,
        labels: Vec::new(),
        dependencies: Vec::new(),
        comments: Vec::new(),
        close_reason: None,
        created_at: now,
        updated_at: now,
        closed_at: None,
        version: 0,
    }
}

pub(super) fn title(text: &str) -> Done<String> {
    let text = text.trim();
    let length = text.chars().count();
    if length == 0 || length > MAX_TITLE || text.contains(char::is_control) {
        return Err(Failure::new(format!(
            "a title is one line of 1 to {MAX_TITLE} characters"
        )));
    }
    Ok(text.to_owned())
}

pub(super) fn long_text(what: &str, text: &str) -> Done<String> {
    if text.len() > MAX_TEXT {
        let kib = MAX_TEXT >> 10;
        return Err(Failure::new(format!(
            "{what} is longer than {kib} KiB; put it into a file of the repository"
        )));
    }
    Ok(text.to_owned())
}

pub(super) fn word(what: &str, text: &str) -> Done<String> {
    let text = text.trim();
    if text.is_empty() || text.len() > MAX_WORD || text.contains(char::is_control) {
        return Err(Failure::new(format!(
            "{what} is one line of 1 to {MAX_WORD} bytes"
        )));
    }
    Ok(text.to_owned())
}

pub(super) fn priority(text: &str) -> Done<u8> {
    let digits = text.trim().trim_start_matches(['P', 'p']);
    let parsed = digits.parse().ok().filter(|p| *p <= 4);
    parsed.ok_or_else(|| {
        Failure::new(format!(
            "priority `{text}` is not 0 (most urgent) to 4, or P0 to P4"
        ))
    })
}

pub(super) fn issue_type(text: &str) -> Done<IssueType> {
    match text.trim().to_ascii_lowercase().as_str() {
        "enhancement" | "feat" => Ok(IssueType::Feature),
        other => other.parse().map_err(|_| {
            Failure::new(format!(
                "type `{text}` is not known; use epic, task, bug, feature or chore"
            ))
        }),
    }
}

pub(super) fn status(text: &str) -> Done<IssueStatus> {
    text.trim()
        .to_ascii_lowercase()
        .replace('-', "_")
        .parse()
        .map_err(|_| {
            Failure::new(format!(
                "status `{text}` is not known; use open, in_progress, blocked or closed"
            ))
        })
}

pub(super) fn dependency_type(text: &str) -> Done<DependencyType> {
    match text.trim().to_ascii_lowercase().as_str() {
        "relates-to" | "relates_to" => Ok(DependencyType::Related),
        "parent" => Ok(DependencyType::ParentChild),
        other => other.parse().map_err(|_| {
            Failure::new(format!(
                "dependency type `{text}` is not known; use blocks, parent-child, related or discovered-from"
            ))
        }),
    }
}

pub(super) fn labels(words: &[String]) -> Done<Vec<String>> {
    let mut labels = Vec::new();
    for label in words.iter().filter(|w| !w.trim().is_empty()) {
        labels.push(word("a label", label)?);
    }
    labels.sort();
    labels.dedup();
    Ok(labels)
}

/// Refuses a graph that has grown beyond what one command line can oversee.
pub(super) fn room(graph: &Graph) -> Done<()> {
    if graph.len() >= MAX_ISSUES {
        return Err(Failure::new(format!(
            "this project has {MAX_ISSUES} issues; delete closed ones first"
        )));
    }
    Ok(())
}

/// Puts an issue into a state, with all that belongs to it.
pub(super) fn set_status(issue: &mut Issue, status: IssueStatus, context: &Context<'_>) {
    if status == IssueStatus::Closed {
        issue.closed_at.get_or_insert(context.call.now);
    } else {
        issue.closed_at = None;
        issue.close_reason = None;
    }
    issue.status = status;
}

pub(super) fn create(graph: &mut Graph, context: &mut Context<'_>, options: &Create) -> Done {
    if let Some(file) = &options.graph {
        let text = context.file(file)?;
        return plan::create(graph, context, &text, options.dry_run);
    }
    let given = match (&options.title, &options.title_option) {
        (Some(a), Some(b)) if a != b => {
            return Err(Failure::new("two different titles were given; give one"));
        }
        (Some(text), _) | (None, Some(text)) => text,
        (None, None) => {
            return Err(Failure::new(
                "a title is needed: bd create \"Title\" -t task -d \"What is to be done\"",
            ));
        }
    };
    room(graph)?;
    let title = title(given)?;
    let parent = options.parent.as_deref().map(|p| graph.find(p)).transpose()?;
    let id = match (&parent, &options.id) {
        (Some(parent), _) => ids::child_id(graph, parent),
        (None, Some(id)) => explicit(graph, id, options.force)?,
        (None, None) => ids::new_id(graph, context.ids),
    };
    let mut issue = blank(graph, context, id.clone(), &title);
    issue.issue_type = issue_type(&options.issue_type)?;
    issue.priority = priority(&options.priority)?;
    let stdin = options.stdin.then_some("-");
    issue.description = match (&options.description, options.body_file.as_deref().or(stdin)) {
        (Some(text), _) => long_text("the description", text)?,
        (None, Some(file)) => long_text("the description", &context.file(file)?)?,
        (None, None) => String::new(),
    };
    issue.design = match (&options.design, &options.design_file) {
        (Some(text), _) => long_text("the design", text)?,
        (None, Some(file)) => long_text("the design", &context.file(file)?)?,
        (None, None) => String::new(),
    };
    issue.acceptance_criteria = long_text(
        "the acceptance criteria",
        options.acceptance.as_deref().unwrap_or_default(),
    )?;
    issue.notes = long_text("the notes", options.notes.as_deref().unwrap_or_default())?;
    issue.labels = labels(&options.labels)?;
    issue.assignee = options
        .assignee
        .as_deref()
        .map(|a| word("an assignee", a))
        .transpose()?;
    if let Some(text) = &options.status {
        let status = status(text)?;
        set_status(&mut issue, status, context);
    }
    graph.insert(issue);
    if let Some(parent) = &parent {
        graph.link(&id, parent, DependencyType::ParentChild)?;
    }
    for spec in options.deps.iter().filter(|d| !d.trim().is_empty()) {
        depend(graph, context, &id, spec)?;
    }
    let issue = graph.issue(&id)?;
    let json = wire::record(issue);
    let text = if options.silent {
        id.clone()
    } else {
        let mut text = format!(
            "{} {id}: {}\n  Type: {}\n  Priority: P{}\n  Status: {}",
            if options.dry_run {
                "Would create issue"
            } else {
                "✓ Created issue:"
            },
            issue.title,
            issue.issue_type,
            issue.priority,
            issue.status
        );
        for blocker in graph.blockers(&id) {
            let _ = write!(text, "\n  Waits for: {} {}", blocker.id, blocker.title);
        }
        text
    };
    if options.dry_run {
        graph.end(false);
    }
    Ok(Answer {
        raw: options.silent,
        ..Answer::new(text, json)
    })
}

fn explicit(graph: &Graph, id: &str, force: bool) -> Done<String> {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'.' | b'_');
    if id.len() > 64 || !id.bytes().all(plain) || !id.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        return Err(Failure::new(format!(
            "id `{id}` is not valid: at most 64 small letters, digits, `-`, `_` and `.`"
        )));
    }
    let prefix = format!("{}-", graph.prefix());
    if !force && id.strip_prefix(&prefix).is_none_or(str::is_empty) {
        return Err(Failure::new(format!(
            "id `{id}` does not start with `{prefix}`; use --force if it must be so"
        )));
    }
    if graph.contains(id) {
        return Err(Failure::new(format!("issue {id} exists already")));
    }
    Ok(id.to_owned())
}

/// One word of `--deps`.
fn depend(graph: &mut Graph, context: &Context<'_>, id: &str, spec: &str) -> Done<()> {
    let (kind, other) = spec.split_once(':').unwrap_or(("depends-on", spec));
    let other = graph.find(other)?;
    match kind.trim() {
        "depends-on" | "blocked-by" => graph.link(id, &other, DependencyType::Blocks)?,
        // As in the real program: "this issue blocks that one".
        "blocks" => {
            let linked = graph.link(&other, id, DependencyType::Blocks)?;
            graph.edit(&other)?.updated_at = context.call.now;
            linked
        }
        kind => graph.link(id, &other, dependency_type(kind)?)?,
    };
    Ok(())
}

/// The answer to a whole plan.
pub(super) fn created(ids: &[(String, String)], dry_run: bool) -> Answer {
    let map: serde_json::Map<_, _> = ids
        .iter()
        .map(|(key, id)| (key.clone(), id.clone().into()))
        .collect();
    let verb = if dry_run { "Would create" } else { "✓ Created" };
    let mut text = format!("{verb} {} issues:", ids.len());
    for (key, id) in ids {
        let _ = write!(text, "\n  {key} → {id}");
    }
    Answer::new(text, json!({ "ids": map }))
}
