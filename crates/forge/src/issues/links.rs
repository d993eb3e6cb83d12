//! `bd dep`.

use super::arguments::Dep;
use super::{Answer, Context, Done, Failure, Graph, create, text, wire};
use ostler_domain::{DependencyType, Issue};
use serde_json::{Value, json};

/// Most lines of a tree; a wide graph has exponentially many paths.
const MAX_NODES: usize = 1000;

pub(super) fn dep(graph: &mut Graph, context: &Context<'_>, action: Dep) -> Done {
    match action {
        Dep::Add {
            issue,
            blocker,
            blocked_by,
            depends_on,
            kind,
        } => {
            let other = blocker.or(blocked_by).or(depends_on).unwrap_or_default();
            add(graph, context, &issue, &other, &kind)
        }
        Dep::Remove { issue, blocker } => remove(graph, context, &issue, &blocker),
        Dep::List { issue, direction } => list(graph, &issue, &direction),
        Dep::Tree {
            issue,
            reverse,
            max_depth,
        } => tree(graph, &issue, reverse, max_depth),
        Dep::Cycles => {
            let cycles: Vec<Vec<String>> = graph.cycle().into_iter().collect();
            let text = match cycles.first() {
                None => "✓ No dependency cycles".to_owned(),
                Some(cycle) => format!("Dependency cycle: {}", cycle.join(" → ")),
            };
            Ok(Answer::new(text, json!(cycles)))
        }
    }
}

pub(super) fn add(graph: &mut Graph, context: &Context<'_>, issue: &str, other: &str, kind: &str) -> Done {
    let (from, to) = (graph.find(issue)?, graph.find(other)?);
    let kind = create::dependency_type(kind)?;
    let new = graph.link(&from, &to, kind)?;
    if new {
        graph.edit(&from)?.updated_at = context.call.now;
    }
    let verb = if new {
        "✓ Added dependency:"
    } else {
        "✓ There already:"
    };
    Ok(Answer::new(
        format!("{verb} {from} depends on {to} ({kind})"),
        json!({ "status": "added", "issue_id": from, "depends_on_id": to, "type": kind.as_str() }),
    ))
}

pub(super) fn remove(graph: &mut Graph, context: &Context<'_>, issue: &str, other: &str) -> Done {
    let (from, to) = (graph.find(issue)?, graph.find(other)?);
    if !graph.unlink(&from, &to)? {
        return Err(Failure::new(format!(
            "{from} does not depend on {to}; `bd show {from}` lists its dependencies"
        )));
    }
    graph.edit(&from)?.updated_at = context.call.now;
    Ok(Answer::new(
        format!("✓ Removed dependency: {from} no longer depends on {to}"),
        json!({ "status": "removed", "issue_id": from, "depends_on_id": to }),
    ))
}

/// What is next to `id`, downwards (what it depends on) or upwards.
fn neighbours<'a>(graph: &'a Graph, id: &'a str, up: bool) -> Vec<(&'a Issue, DependencyType)> {
    if up {
        return graph.dependents(id).collect();
    }
    let links = graph.get(id).into_iter().flat_map(|issue| &issue.dependencies);
    links
        .filter_map(|d| Some((graph.get(&d.depends_on)?, d.kind)))
        .collect()
}

fn list(graph: &Graph, issue: &str, direction: &str) -> Done {
    let id = graph.find(issue)?;
    let up = match direction {
        "down" => false,
        "up" => true,
        _ => {
            return Err(Failure::new(format!(
                "direction `{direction}` is neither down nor up"
            )));
        }
    };
    let found = neighbours(graph, &id, up);
    let lines: Vec<String> = found
        .iter()
        .map(|(other, kind)| format!("{} via {kind}", text::line(other)))
        .collect();
    let values: Vec<Value> = found
        .iter()
        .map(|(other, kind)| {
            let mut value = wire::record(other);
            value["dependency_type"] = kind.as_str().into();
            value
        })
        .collect();
    let text = if lines.is_empty() {
        format!("{id} has none")
    } else {
        lines.join("\n")
    };
    Ok(Answer::new(text, values))
}

fn tree(graph: &Graph, issue: &str, up: bool, max_depth: usize) -> Done {
    let root = graph.find(issue)?;
    let mut lines = Vec::new();
    let mut values = Vec::new();
    let mut seen = std::collections::BTreeSet::new();
    // Depth first with an explicit stack: issue, its depth, whom it hangs from, and by what.
    let mut stack = vec![(graph.issue(&root)?, 0, String::new(), None)];
    while let Some((issue, depth, parent, kind)) = stack.pop() {
        if lines.len() >= MAX_NODES {
            lines.push(format!("… more than {MAX_NODES} lines"));
            break;
        }
        let first = seen.insert(issue.id.clone());
        let below = if first {
            neighbours(graph, &issue.id, up)
        } else {
            Vec::new()
        };
        let truncated = depth >= max_depth && !below.is_empty();
        let indent = "  ".repeat(depth);
        let link = kind
            .map(|k: DependencyType| format!(" ({k})"))
            .unwrap_or_default();
        let note = if first { "" } else { " (shown above)" };
        lines.push(format!("{indent}{}{link}{note}", text::line(issue)));
        let mut value = wire::record(issue);
        value["depth"] = depth.into();
        value["parent_id"] = parent.into();
        value["truncated"] = truncated.into();
        if let Some(kind) = kind {
            value["edge_from_parent"] = kind.as_str().into();
        }
        values.push(value);
        if !truncated {
            let next = below.into_iter().rev();
            stack.extend(next.map(|(other, kind)| (other, depth + 1, issue.id.clone(), Some(kind))));
        }
    }
    Ok(Answer::new(lines.join("\n"), values))
}
