//! `bd create --graph`: a whole plan at once. Its nodes refer to one another by keys of the plan's own.

use super::{Answer, Context, Done, Failure, Graph, create, ids};
use ostler_domain::DependencyType;
use serde::Deserialize;
use std::collections::BTreeMap;

/// Most nodes of a plan.
const MAX_NODES: usize = 500;

#[derive(Deserialize)]
struct Plan {
    nodes: Vec<Node>,
    #[serde(default)]
    edges: Vec<Edge>,
}

#[derive(Deserialize)]
struct Node {
    key: String,
    title: String,
    #[serde(rename = "type")]
    issue_type: Option<String>,
    #[serde(default)]
    description: String,
    #[serde(default)]
    design: String,
    #[serde(default, alias = "acceptance")]
    acceptance_criteria: String,
    assignee: Option<String>,
    priority: Option<u8>,
    #[serde(default)]
    labels: Vec<String>,
    parent_key: Option<String>,
    parent_id: Option<String>,
}

#[derive(Deserialize)]
struct Edge {
    from_key: Option<String>,
    from_id: Option<String>,
    to_key: Option<String>,
    to_id: Option<String>,
    #[serde(rename = "type")]
    kind: Option<String>,
}

pub(super) fn create(graph: &mut Graph, context: &mut Context<'_>, text: &str, dry_run: bool) -> Done {
    let plan: Plan = serde_json::from_str(text).map_err(|error| {
        Failure::new(format!(
            "the plan is not understood: {error}; it looks like {{\"nodes\":[{{\"key\":\"a\",\"title\":\"…\",\"type\":\"task\",\
             \"parent_key\":\"e\"}}],\"edges\":[{{\"from_key\":\"a\",\"to_key\":\"b\",\"type\":\"blocks\"}}]}}, \
             where `from` waits for `to`"
        ))
    })?;
    if plan.nodes.is_empty() || plan.nodes.len() > MAX_NODES {
        return Err(Failure::new(format!("a plan has 1 to {MAX_NODES} nodes")));
    }
    let mut made = Vec::new();
    let mut by_key = BTreeMap::new();
    let mut waiting: Vec<&Node> = plan.nodes.iter().collect();
    // Parents first, whatever the order of the nodes, since a child's id is made from its parent's.
    while !waiting.is_empty() {
        let (now, later): (Vec<&Node>, Vec<&Node>) = waiting.into_iter().partition(|node| {
            node.parent_key
                .as_ref()
                .is_none_or(|key| by_key.contains_key(key))
        });
        if let (true, Some(node)) = (now.is_empty(), later.first()) {
            return Err(Failure::new(format!(
                "node `{}`: its parent_key `{}` is no node of the plan, or is below it",
                node.key,
                node.parent_key.as_deref().unwrap_or_default()
            )));
        }
        for node in now {
            let id = insert(graph, context, node, &by_key)?;
            if by_key.insert(node.key.clone(), id.clone()).is_some() {
                return Err(Failure::new(format!("two nodes have the key `{}`", node.key)));
            }
            made.push((node.key.clone(), id));
        }
        waiting = later;
    }
    for (i, edge) in plan.edges.iter().enumerate() {
        let end = |key: &Option<String>, id: &Option<String>, name: &str| match (key, id) {
            (Some(key), _) => by_key.get(key).cloned().ok_or_else(|| {
                Failure::new(format!(
                    "edge {}: {name}_key `{key}` is no node of the plan",
                    i + 1
                ))
            }),
            (None, Some(id)) => graph.find(id),
            (None, None) => Err(Failure::new(format!(
                "edge {} has neither {name}_key nor {name}_id",
                i + 1
            ))),
        };
        let (from, to) = (
            end(&edge.from_key, &edge.from_id, "from")?,
            end(&edge.to_key, &edge.to_id, "to")?,
        );
        let kind = match &edge.kind {
            Some(kind) => create::dependency_type(kind)?,
            None => DependencyType::Blocks,
        };
        graph.link(&from, &to, kind)?;
        graph.edit(&from)?.updated_at = context.call.now;
    }
    let answer: Answer = create::created(&made, dry_run);
    if dry_run {
        graph.end(false);
    }
    Ok(answer)
}

fn insert(
    graph: &mut Graph,
    context: &mut Context<'_>,
    node: &Node,
    by_key: &BTreeMap<String, String>,
) -> Done<String> {
    create::room(graph)?;
    let parent = match (&node.parent_key, &node.parent_id) {
        (Some(key), _) => by_key.get(key).cloned(),
        (None, Some(id)) => Some(graph.find(id)?),
        (None, None) => None,
    };
    let id = match &parent {
        Some(parent) => ids::child_id(graph, parent),
        None => ids::new_id(graph, context.ids),
    };
    let title = create::title(&node.title)?;
    let mut issue = create::blank(graph, context, id.clone(), &title);
    if let Some(text) = &node.issue_type {
        issue.issue_type = create::issue_type(text)?;
    }
    if let Some(number) = node.priority {
        issue.priority = create::priority(&number.to_string())?;
    }
    issue.description = create::long_text("the description", &node.description)?;
    issue.design = create::long_text("the design", &node.design)?;
    issue.acceptance_criteria = create::long_text("the acceptance criteria", &node.acceptance_criteria)?;
    issue.labels = create::labels(&node.labels)?;
    issue.assignee = node
        .assignee
        .as_deref()
        .map(|a| create::word("an assignee", a))
        .transpose()?;
    graph.insert(issue);
    if let Some(parent) = parent {
        graph.link(&id, &parent, DependencyType::ParentChild)?;
    }
    Ok(id)
}
