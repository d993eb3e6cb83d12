//! The JSON form of issues, field by field as Beads has it. Empty fields are left out, as there.

use super::Graph;
use ostler_domain::{DependencyType, Issue, IssueStatus, IssueType, Timestamp};
use serde_json::{Map, Value, json};

/// A point in time by RFC 3339, in UTC.
pub(super) fn time(at: Timestamp) -> String {
    let clamped = at.0.clamp(
        jiff::Timestamp::MIN.as_microsecond() + 1,
        jiff::Timestamp::MAX.as_microsecond() - 1,
    );
    jiff::Timestamp::from_microsecond(clamped)
        .unwrap_or_default()
        .to_string()
}

/// The reverse of [`time`], for any offset.
pub(super) fn parse_time(text: &str) -> Option<Timestamp> {
    let parsed: jiff::Timestamp = text.parse().ok()?;
    Some(Timestamp(parsed.as_microsecond()))
}

/// The issue's own fields, without its links and comments.
fn fields(issue: &Issue) -> Map<String, Value> {
    let mut map = Map::new();
    map.insert("id".to_owned(), issue.id.clone().into());
    map.insert("title".to_owned(), issue.title.clone().into());
    map.insert("status".to_owned(), issue.status.as_str().into());
    map.insert("priority".to_owned(), issue.priority.into());
    map.insert("issue_type".to_owned(), issue.issue_type.as_str().into());
    let mut text = |name: &str, value: &str| {
        if !value.is_empty() {
            map.insert(name.to_owned(), value.into());
        }
    };
    text("description", &issue.description);
    text("design", &issue.design);
    text("acceptance_criteria", &issue.acceptance_criteria);
    text("notes", &issue.notes);
    text("assignee", issue.assignee.as_deref().unwrap_or_default());
    text("close_reason", issue.close_reason.as_deref().unwrap_or_default());
    text("created_at", &time(issue.created_at));
    text("updated_at", &time(issue.updated_at));
    text("closed_at", &issue.closed_at.map(time).unwrap_or_default());
    if !issue.labels.is_empty() {
        map.insert("labels".to_owned(), json!(issue.labels));
    }
    map
}

fn dependencies(issue: &Issue) -> Value {
    issue
        .dependencies
        .iter()
        .map(|d| {
            json!({
                "issue_id": issue.id,
                "depends_on_id": d.depends_on,
                "type": d.kind.as_str(),
                "created_at": time(issue.created_at),
            })
        })
        .collect()
}

pub(super) fn comments(issue: &Issue) -> Value {
    issue
        .comments
        .iter()
        .enumerate()
        .map(|(i, comment)| {
            json!({
                "id": (i + 1).to_string(),
                "issue_id": issue.id,
                "author": comment.author,
                "text": comment.text,
                "created_at": time(comment.created_at),
            })
        })
        .collect()
}

/// As `export` writes it and `create`, `update` and `close` answer.
pub(super) fn record(issue: &Issue) -> Value {
    let mut map = fields(issue);
    if !issue.dependencies.is_empty() {
        map.insert("dependencies".to_owned(), dependencies(issue));
    }
    if !issue.comments.is_empty() {
        map.insert("comments".to_owned(), comments(issue));
    }
    Value::Object(map)
}

/// As `list` and `ready` have it: a record with counts.
pub(super) fn listed(graph: &Graph, issue: &Issue) -> Value {
    let mut value = record(issue);
    value["dependency_count"] = issue.dependencies.len().into();
    value["dependent_count"] = graph.dependents(&issue.id).count().into();
    value["comment_count"] = issue.comments.len().into();
    if let Some(parent) = issue.parent() {
        value["parent"] = parent.into();
    }
    value
}

/// As `show` has it: with the issues at the other end of every link.
pub(super) fn detailed(graph: &Graph, issue: &Issue) -> Value {
    let linked = |other: &Issue, kind: DependencyType| {
        let mut map = fields(other);
        map.insert("dependency_type".to_owned(), kind.as_str().into());
        Value::Object(map)
    };
    let mut value = record(issue);
    let needs: Vec<Value> = issue
        .dependencies
        .iter()
        .filter_map(|d| Some(linked(graph.get(&d.depends_on)?, d.kind)))
        .collect();
    let needed_by: Vec<Value> = graph
        .dependents(&issue.id)
        .map(|(other, kind)| linked(other, kind))
        .collect();
    value["dependencies"] = needs.into();
    value["dependents"] = needed_by.into();
    if let Some(parent) = issue.parent() {
        value["parent"] = parent.into();
    }
    if issue.issue_type == IssueType::Epic {
        let (total, closed) = progress(graph, &issue.id);
        value["epic_total_children"] = total.into();
        value["epic_closed_children"] = closed.into();
        value["epic_closeable"] =
            (total > 0 && total == closed && issue.status != IssueStatus::Closed).into();
    }
    value
}

/// Number of parts of an epic, and how many of them are closed.
pub(super) fn progress(graph: &Graph, epic: &str) -> (usize, usize) {
    graph.children(epic).fold((0, 0), |(total, closed), child| {
        (
            total + 1,
            closed + usize::from(child.status == IssueStatus::Closed),
        )
    })
}

/// One value alone, several as a list: as the real program answers.
pub(super) fn one_or_list(mut values: Vec<Value>) -> Value {
    if values.len() == 1 {
        values.remove(0)
    } else {
        values.into()
    }
}
