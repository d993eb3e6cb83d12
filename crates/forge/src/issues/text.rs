//! Texts for people, and for agents that do not ask for JSON.

use super::{Graph, wire};
use ostler_domain::{DependencyType, Issue, IssueStatus, IssueType};
use std::fmt::Write;

pub(super) const fn icon(status: IssueStatus) -> char {
    match status {
        IssueStatus::Open => '○',
        IssueStatus::InProgress => '◐',
        IssueStatus::Blocked => '●',
        IssueStatus::Closed => '✓',
    }
}

/// `○ iv-3f2 [P2] [bug] Title`
pub(super) fn line(issue: &Issue) -> String {
    let mut line = format!(
        "{} {} [P{}] [{}] {}",
        icon(issue.status),
        issue.id,
        issue.priority,
        issue.issue_type,
        issue.title
    );
    if let Some(assignee) = &issue.assignee {
        let _ = write!(line, " (@{assignee})");
    }
    line
}

/// Everything about one issue.
pub(super) fn whole(graph: &Graph, issue: &Issue) -> String {
    let mut out = format!("{} {} · {}\n", icon(issue.status), issue.id, issue.title);
    let _ = writeln!(
        out,
        "Type: {} · Priority: P{} · Status: {} · Assignee: {}",
        issue.issue_type,
        issue.priority,
        issue.status,
        issue.assignee.as_deref().unwrap_or("-"),
    );
    let _ = writeln!(
        out,
        "Created: {} · Updated: {}",
        wire::time(issue.created_at),
        wire::time(issue.updated_at)
    );
    if let Some(reason) = &issue.close_reason {
        let _ = writeln!(out, "Close reason: {reason}");
    }
    if !issue.labels.is_empty() {
        let _ = writeln!(out, "Labels: {}", issue.labels.join(", "));
    }
    for (heading, text) in [
        ("DESCRIPTION", &issue.description),
        ("DESIGN", &issue.design),
        ("ACCEPTANCE CRITERIA", &issue.acceptance_criteria),
        ("NOTES", &issue.notes),
    ] {
        if !text.is_empty() {
            let _ = writeln!(out, "\n{heading}\n{text}");
        }
    }
    let mut section = |heading: &str, mark: char, others: Vec<&Issue>| {
        if !others.is_empty() {
            let _ = writeln!(out, "\n{heading}");
            for other in others {
                let _ = writeln!(out, "  {mark} {}", line(other));
            }
        }
    };
    let needs = |kind| {
        let ids = issue.dependencies.iter().filter(move |d| d.kind == kind);
        ids.filter_map(|d| graph.get(&d.depends_on)).collect::<Vec<_>>()
    };
    let needed = |kind| {
        let links = graph.dependents(&issue.id).filter(move |(_, k)| *k == kind);
        links.map(|(other, _)| other).collect::<Vec<_>>()
    };
    section("PARENT", '↑', needs(DependencyType::ParentChild));
    section("DEPENDS ON", '→', needs(DependencyType::Blocks));
    section("CHILDREN", '↳', needed(DependencyType::ParentChild));
    section("BLOCKS", '←', needed(DependencyType::Blocks));
    section("DISCOVERED FROM", '◊', needs(DependencyType::DiscoveredFrom));
    section("DISCOVERED", '◊', needed(DependencyType::DiscoveredFrom));
    let mut related = needs(DependencyType::Related);
    related.extend(needed(DependencyType::Related));
    section("RELATED", '↔', related);
    if issue.issue_type == IssueType::Epic {
        let (total, closed) = wire::progress(graph, &issue.id);
        let _ = writeln!(out, "\nProgress: {closed}/{total} children closed");
    }
    if !issue.comments.is_empty() {
        let _ = writeln!(out, "\nCOMMENTS\n{}", comments(issue));
    }
    out
}

pub(super) fn comments(issue: &Issue) -> String {
    let each = issue.comments.iter().map(|comment| {
        let text = comment.text.replace('\n', "\n    ");
        format!(
            "  [{}] {}\n    {text}",
            comment.author,
            wire::time(comment.created_at)
        )
    });
    each.collect::<Vec<_>>().join("\n")
}

/// The ids, with commas.
pub(super) fn ids<'a>(issues: impl IntoIterator<Item = &'a Issue>) -> String {
    let ids: Vec<&str> = issues.into_iter().map(|issue| issue.id.as_str()).collect();
    ids.join(", ")
}
