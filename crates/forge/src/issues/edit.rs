//! `bd update`, `close`, `reopen`, `delete`, `label` and `comments`.

use super::arguments::{Close, Comment, Comments, CommentsAction, Delete, Label, Reopen, Update};
use super::{Answer, Context, Done, Failure, Graph, create, list, text, wire};
use ostler_domain::{DependencyType, Issue, IssueComment, IssueStatus, IssueType};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Most comments of one issue.
const MAX_COMMENTS: usize = 1000;

fn all(graph: &Graph, typed: &[String]) -> Done<Vec<String>> {
    typed.iter().map(|id| graph.find(id)).collect()
}

/// Takes an issue for the caller.
pub(super) fn claim(graph: &mut Graph, context: &Context<'_>, id: &str) -> Done<()> {
    let actor = create::word("an actor", context.actor)?;
    let issue = graph.edit(id)?;
    match (&issue.assignee, issue.status) {
        (_, IssueStatus::Closed) => {
            return Err(Failure::new(format!(
                "{id} is closed; reopen it before you claim it"
            )));
        }
        (Some(other), _) if *other != actor => {
            return Err(Failure::new(format!(
                "{id} is already claimed by {other}; `bd ready` lists what is free"
            )));
        }
        _ => {}
    }
    issue.assignee = Some(actor);
    issue.status = IssueStatus::InProgress;
    issue.updated_at = context.call.now;
    Ok(())
}

pub(super) fn update(graph: &mut Graph, context: &mut Context<'_>, options: &Update) -> Done {
    let ids = all(graph, &options.ids)?;
    for id in &ids {
        let before = graph.issue(id)?.clone();
        if options.claim {
            claim(graph, context, id)?;
        }
        fields(graph, context, options, id)?;
        if let Some(parent) = &options.parent {
            if parent.is_empty() {
                if let Some(old) = before.parent() {
                    graph.unlink(id, old)?;
                }
            } else {
                let parent = graph.find(parent)?;
                graph.link(id, &parent, DependencyType::ParentChild)?;
            }
        }
        let issue = graph.edit(id)?;
        if *issue != before {
            issue.updated_at = context.call.now;
        }
    }
    let mut lines = Vec::new();
    let mut values = Vec::new();
    for id in &ids {
        let issue = graph.issue(id)?;
        lines.push(format!("✓ Updated issue: {id}: {}", issue.title));
        values.push(wire::record(issue));
    }
    Ok(Answer::new(lines.join("\n"), wire::one_or_list(values)))
}

fn fields(graph: &mut Graph, context: &Context<'_>, options: &Update, id: &str) -> Done<()> {
    let issue = graph.edit(id)?;
    if let Some(text) = &options.status {
        create::set_status(issue, create::status(text)?, context);
    }
    if let Some(text) = &options.title {
        issue.title = create::title(text)?;
    }
    if let Some(text) = &options.issue_type {
        issue.issue_type = create::issue_type(text)?;
    }
    if let Some(text) = &options.priority {
        issue.priority = create::priority(text)?;
    }
    if let Some(text) = &options.description {
        issue.description = create::long_text("the description", text)?;
    }
    if let Some(file) = &options.body_file {
        issue.description = create::long_text("the description", &context.file(file)?)?;
    }
    if let Some(text) = &options.design {
        issue.design = create::long_text("the design", text)?;
    }
    if let Some(text) = &options.acceptance {
        issue.acceptance_criteria = create::long_text("the acceptance criteria", text)?;
    }
    if let Some(text) = &options.notes {
        issue.notes = create::long_text("the notes", text)?;
    }
    if let Some(text) = &options.append_notes {
        let joined = if issue.notes.is_empty() {
            text.clone()
        } else {
            format!("{}\n{text}", issue.notes)
        };
        issue.notes = create::long_text("the notes", &joined)?;
    }
    if let Some(text) = &options.assignee {
        issue.assignee = if text.trim().is_empty() {
            None
        } else {
            Some(create::word("an assignee", text)?)
        };
    }
    if let Some(words) = &options.set_labels {
        issue.labels = create::labels(words)?;
    }
    let mut labels = issue.labels.clone();
    labels.extend(create::labels(&options.add_label)?);
    labels.retain(|label| !options.remove_label.contains(label));
    issue.labels = create::labels(&labels)?;
    Ok(())
}

/// Closes one issue; says whether it was open.
pub(super) fn close_one(
    graph: &mut Graph,
    context: &Context<'_>,
    id: &str,
    reason: Option<&str>,
    force: bool,
) -> Done<bool> {
    if graph.issue(id)?.status == IssueStatus::Closed {
        return Ok(false);
    }
    if !force {
        let blockers = graph.blockers(id);
        if !blockers.is_empty() {
            let ids = text::ids(blockers);
            return Err(Failure::new(format!(
                "cannot close {id}: it waits for {ids}; close these first, or use --force"
            )));
        }
        let issue = graph.issue(id)?;
        let open = graph.children(id).filter(|c| c.status != IssueStatus::Closed);
        let open = text::ids(open);
        if issue.issue_type == IssueType::Epic && !open.is_empty() && !graph.may_close_epics() {
            return Err(Failure::new(format!(
                "cannot close epic {id}: {open} are open; close these first, or use --force"
            )));
        }
    }
    let reason = create::long_text("the reason", reason.unwrap_or("Closed"))?;
    let issue = graph.edit(id)?;
    create::set_status(issue, IssueStatus::Closed, context);
    issue.close_reason = Some(reason).filter(|r| !r.is_empty());
    issue.updated_at = context.call.now;
    Ok(true)
}

pub(super) fn close(graph: &mut Graph, context: &mut Context<'_>, options: &Close) -> Done {
    let ids = all(graph, &options.ids)?;
    let waiting: Vec<String> = graph
        .issues()
        .filter(|i| !graph.is_ready(&i.id))
        .map(|i| i.id.clone())
        .collect();
    let mut lines = Vec::new();
    for id in &ids {
        let done = close_one(graph, context, id, options.reason.as_deref(), options.force)?;
        let issue = graph.issue(id)?;
        let reason = issue.close_reason.as_deref().unwrap_or("no reason");
        lines.push(if done {
            format!("✓ Closed {id}: {} ({reason})", issue.title)
        } else {
            format!("✓ {id} was closed already: {}", issue.title)
        });
    }
    let closed: Vec<Value> = ids
        .iter()
        .filter_map(|id| graph.get(id))
        .map(wire::record)
        .collect();
    let mut extra = serde_json::Map::new();
    if options.suggest_next {
        let now_ready: Vec<&Issue> = waiting
            .iter()
            .filter(|id| graph.is_ready(id))
            .filter_map(|id| graph.get(id))
            .collect();
        lines.push(if now_ready.is_empty() {
            "Nothing new can start.".to_owned()
        } else {
            "Newly unblocked:".to_owned()
        });
        lines.extend(now_ready.iter().map(|issue| format!("  • {}", text::line(issue))));
        let values: Vec<Value> = now_ready.into_iter().map(wire::record).collect();
        extra.insert("unblocked".to_owned(), values.into());
    }
    if options.claim_next {
        let next = list::in_order(
            graph
                .issues()
                .filter(|i| graph.is_ready(&i.id) && i.assignee.is_none()),
        );
        if let Some(id) = next.first().map(|issue| issue.id.clone()) {
            claim(graph, context, &id)?;
            let issue = graph.issue(&id)?;
            lines.push(format!("✓ Claimed: {}", text::line(issue)));
            extra.insert("claimed".to_owned(), wire::record(issue));
        } else {
            lines.push("Nothing is ready to be claimed.".to_owned());
            extra.insert("claimed".to_owned(), Value::Null);
        }
    }
    let json = if extra.is_empty() {
        wire::one_or_list(closed)
    } else {
        extra.insert("closed".to_owned(), closed.into());
        Value::Object(extra)
    };
    Ok(Answer::new(lines.join("\n"), json))
}

pub(super) fn reopen(graph: &mut Graph, context: &mut Context<'_>, options: &Reopen) -> Done {
    let ids = all(graph, &options.ids)?;
    let mut lines = Vec::new();
    for id in &ids {
        if graph.issue(id)?.status != IssueStatus::Closed {
            lines.push(format!("{id} is not closed"));
            continue;
        }
        let issue = graph.edit(id)?;
        create::set_status(issue, IssueStatus::Open, context);
        issue.updated_at = context.call.now;
        lines.push(format!("↻ Reopened {id}: {}", issue.title));
        if let Some(reason) = &options.reason {
            remark(graph, context, id, None, reason)?;
        }
    }
    let values = ids
        .iter()
        .filter_map(|id| graph.get(id))
        .map(wire::record)
        .collect();
    Ok(Answer::new(lines.join("\n"), wire::one_or_list(values)))
}

pub(super) fn delete(graph: &mut Graph, options: &Delete) -> Done {
    let mut ids = all(graph, &options.ids)?;
    if options.cascade {
        ids = ids.iter().flat_map(|id| graph.with_parts(id)).collect();
    }
    ids.sort();
    ids.dedup();
    let links: Vec<(String, String)> = graph
        .issues()
        .flat_map(|issue| {
            issue
                .dependencies
                .iter()
                .map(|d| (issue.id.clone(), d.depends_on.clone()))
        })
        .filter(|(from, to)| ids.contains(from) || ids.contains(to))
        .collect();
    let list = ids.join(", ");
    if options.dry_run || !options.force {
        let text = format!(
            "Would delete {list} with {} dependency links. To do it: add --force",
            links.len()
        );
        return Ok(Answer::new(
            text,
            json!({ "dry_run": true, "would_delete": ids, "dependencies": links.len() }),
        ));
    }
    for (from, to) in &links {
        graph.unlink(from, to)?;
    }
    for id in &ids {
        graph.remove(id);
    }
    let deleted: Value = if let [id] = ids.as_slice() {
        id.clone().into()
    } else {
        ids.clone().into()
    };
    Ok(Answer::new(
        format!("✓ Deleted {list}; removed {} dependency links", links.len()),
        json!({ "deleted": deleted, "deleted_count": ids.len(), "dependencies_removed": links.len() }),
    ))
}

pub(super) fn label(graph: &mut Graph, context: &Context<'_>, action: Label) -> Done {
    let (words, add) = match action {
        Label::List { id } => {
            let id = graph.find(&id)?;
            let labels = &graph.issue(&id)?.labels;
            let text = if labels.is_empty() {
                format!("{id} has no labels")
            } else {
                labels.join("\n")
            };
            return Ok(Answer::new(text, json!(labels)));
        }
        Label::ListAll => {
            let mut counts = BTreeMap::<&str, usize>::new();
            for label in graph.issues().flat_map(|issue| &issue.labels) {
                *counts.entry(label).or_default() += 1;
            }
            let lines: Vec<String> = counts.iter().map(|(label, n)| format!("{label} ({n})")).collect();
            let json: Vec<Value> = counts
                .iter()
                .map(|(label, n)| json!({ "label": label, "count": n }))
                .collect();
            return Ok(Answer::new(lines.join("\n"), json));
        }
        Label::Add { words } => (words, true),
        Label::Remove { words } => (words, false),
    };
    let Some((label, typed)) = words.split_last() else {
        return Err(Failure::new("give one or more ids, and the label at the end"));
    };
    let label = create::word("a label", label)?;
    let (verb, status) = if add {
        ("Added", "added")
    } else {
        ("Removed", "removed")
    };
    let mut lines = Vec::new();
    let mut values = Vec::new();
    for id in all(graph, typed)? {
        let issue = graph.edit(&id)?;
        let mut labels = issue.labels.clone();
        labels.retain(|l| *l != label);
        if add {
            labels.push(label.clone());
        }
        labels.sort();
        if labels != issue.labels {
            issue.labels = labels;
            issue.updated_at = context.call.now;
        }
        lines.push(format!("✓ {verb} label '{label}': {id}"));
        values.push(json!({ "status": status, "issue_id": id, "label": label }));
    }
    Ok(Answer::new(lines.join("\n"), values))
}

fn remark(graph: &mut Graph, context: &Context<'_>, id: &str, author: Option<&str>, text: &str) -> Done<()> {
    let author = create::word("an author", author.unwrap_or(context.actor))?;
    let text = create::long_text("the comment", text.trim_end())?;
    if text.is_empty() {
        return Err(Failure::new("the comment is empty: bd comments add ID \"text\""));
    }
    let issue = graph.edit(id)?;
    if issue.comments.len() >= MAX_COMMENTS {
        return Err(Failure::new(format!("{id} has {MAX_COMMENTS} comments already")));
    }
    issue.comments.push(IssueComment {
        author,
        text,
        created_at: context.call.now,
    });
    issue.updated_at = context.call.now;
    Ok(())
}

pub(super) fn comments(graph: &mut Graph, context: &Context<'_>, options: Comments) -> Done {
    if let Some(CommentsAction::Add(options)) = options.action {
        return comment(graph, context, &options);
    }
    let typed = options
        .id
        .ok_or_else(|| Failure::new("which issue? bd comments ID, or bd comments add ID \"text\""))?;
    let issue = graph.issue(&graph.find(&typed)?)?;
    let text = if issue.comments.is_empty() {
        format!("No comments on {}", issue.id)
    } else {
        text::comments(issue)
    };
    Ok(Answer::new(text, wire::comments(issue)))
}

pub(super) fn comment(graph: &mut Graph, context: &Context<'_>, options: &Comment) -> Done {
    let id = graph.find(&options.id)?;
    let text = match (&options.file, options.stdin) {
        (Some(file), _) => context.file(file)?,
        (None, true) => context.file("-")?,
        (None, false) => options.text.join(" "),
    };
    remark(graph, context, &id, options.author.as_deref(), &text)?;
    let mut values = wire::comments(graph.issue(&id)?);
    let last = values.as_array_mut().and_then(Vec::pop).unwrap_or_default();
    Ok(Answer::new(format!("✓ Comment added to {id}"), last))
}
