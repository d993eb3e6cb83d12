//! `bd show`, `list`, `ready`, `blocked`, `epic` and `stats`.

use super::arguments::{Blocked, Epic, Filter, List, Ready, Show};
use super::{Answer, Context, Done, Graph, create, edit, text, wire};
use ostler_domain::{Issue, IssueStatus, IssueType};
use serde_json::{Value, json};

/// Rows that are shown without `--limit`.
const DEFAULT_LIMIT: usize = 50;

/// Most urgent first, then oldest, then by id: the same graph always gives the same order.
pub(super) fn in_order<'a>(issues: impl Iterator<Item = &'a Issue>) -> Vec<&'a Issue> {
    let mut issues: Vec<&Issue> = issues.collect();
    issues.sort_by(|a, b| (a.priority, a.created_at, &a.id).cmp(&(b.priority, b.created_at, &b.id)));
    issues
}

/// The checked form of [`Filter`].
struct Wanted<'a> {
    filter: &'a Filter,
    statuses: Vec<IssueStatus>,
    types: Vec<IssueType>,
    without: Vec<IssueType>,
    priority: Option<u8>,
    parent: Option<String>,
    title: String,
}

impl<'a> Wanted<'a> {
    fn new(graph: &Graph, filter: &'a Filter) -> Done<Self> {
        let types = |words: &[String]| {
            words
                .iter()
                .map(|w| create::issue_type(w))
                .collect::<Done<Vec<_>>>()
        };
        let every = filter.status.iter().any(|s| s == "all");
        Ok(Self {
            statuses: if every {
                IssueStatus::ALL.to_vec()
            } else {
                filter
                    .status
                    .iter()
                    .map(|s| create::status(s))
                    .collect::<Done<_>>()?
            },
            types: types(&filter.issue_type)?,
            without: types(&filter.exclude_type)?,
            priority: filter.priority.as_deref().map(create::priority).transpose()?,
            parent: filter.parent.as_deref().map(|p| graph.find(p)).transpose()?,
            title: filter.title.as_deref().unwrap_or_default().to_lowercase(),
            filter,
        })
    }

    fn fits(&self, graph: &Graph, issue: &Issue) -> bool {
        (self.types.is_empty() || self.types.contains(&issue.issue_type))
            && !self.without.contains(&issue.issue_type)
            && self
                .filter
                .assignee
                .as_ref()
                .is_none_or(|a| issue.assignee.as_ref() == Some(a))
            && !(self.filter.no_assignee && issue.assignee.is_some())
            && self.filter.label.iter().all(|label| issue.labels.contains(label))
            && self.priority.is_none_or(|p| issue.priority == p)
            && self
                .parent
                .as_ref()
                .is_none_or(|p| graph.is_part_of(&issue.id, p))
            && issue.title.to_lowercase().contains(&self.title)
    }

    fn cut<T>(&self, found: &mut Vec<T>) -> String {
        let limit = match self.filter.limit.unwrap_or(DEFAULT_LIMIT) {
            0 => usize::MAX,
            limit => limit,
        };
        let total = found.len();
        if total <= limit {
            return String::new();
        }
        found.truncate(limit);
        format!("Showing {limit} of {total} issues; use --limit 0 for all of them")
    }
}

fn rows(graph: &Graph, found: &[&Issue], empty: &str, heading: &str) -> Answer {
    let json: Vec<Value> = found.iter().map(|issue| wire::listed(graph, issue)).collect();
    if found.is_empty() {
        return Answer::new(empty, json);
    }
    let mut lines = vec![heading.to_owned()];
    lines.retain(|line| !line.is_empty());
    lines.extend(found.iter().map(|issue| text::line(issue)));
    Answer::new(lines.join("\n"), json)
}

pub(super) fn show(graph: &Graph, options: &Show) -> Done {
    let ids = options
        .ids
        .iter()
        .map(|id| graph.find(id))
        .collect::<Done<Vec<_>>>()?;
    let issues = ids.iter().map(|id| graph.issue(id)).collect::<Done<Vec<_>>>()?;
    let texts: Vec<String> = issues
        .iter()
        .map(|issue| {
            if options.short {
                text::line(issue)
            } else {
                text::whole(graph, issue)
            }
        })
        .collect();
    let separator = if options.short {
        "\n"
    } else {
        "\n────────\n\n"
    };
    let values = issues.iter().map(|issue| wire::detailed(graph, issue)).collect();
    Ok(Answer::new(texts.join(separator), wire::one_or_list(values)))
}

pub(super) fn list(graph: &Graph, options: &List) -> Done {
    let wanted = Wanted::new(graph, &options.filter)?;
    let state = |issue: &Issue| match wanted.statuses.as_slice() {
        [] => options.all || issue.status != IssueStatus::Closed,
        some => some.contains(&issue.status),
    };
    let mut found = in_order(graph.issues().filter(|i| state(i) && wanted.fits(graph, i)));
    let warning = wanted.cut(&mut found);
    Ok(Answer {
        warning,
        ..rows(graph, &found, "No issues found", "")
    })
}

pub(super) fn ready(graph: &mut Graph, context: &Context<'_>, options: &Ready) -> Done {
    let wanted = Wanted::new(graph, &options.filter)?;
    let fits = |issue: &&Issue| {
        graph.is_ready(&issue.id)
            && wanted.fits(graph, issue)
            && (wanted.statuses.is_empty() || wanted.statuses.contains(&issue.status))
    };
    let mut found = in_order(graph.issues().filter(fits));
    if options.claim {
        // What is assigned to somebody else is ready, but not for the caller.
        found.retain(|issue| issue.assignee.as_deref().is_none_or(|a| a == context.actor));
        let Some(id) = found.first().map(|issue| issue.id.clone()) else {
            return Ok(Answer::new("No ready work to claim", json!([])));
        };
        edit::claim(graph, context, &id)?;
        let issue = graph.issue(&id)?;
        let text = format!("✓ Claimed issue: {}", text::line(issue));
        return Ok(Answer::new(text, vec![wire::listed(graph, issue)]));
    }
    let warning = wanted.cut(&mut found);
    let heading = format!("Ready work ({} issues that wait for nothing):", found.len());
    let open = graph.issues().any(|issue| issue.status != IssueStatus::Closed);
    let empty = if open {
        "No ready work: everything open waits for something, is in progress, or is an epic"
    } else {
        "No open issues"
    };
    Ok(Answer {
        warning,
        ..rows(graph, &found, empty, &heading)
    })
}

pub(super) fn blocked(graph: &Graph, options: &Blocked) -> Done {
    let parent = options.parent.as_deref().map(|p| graph.find(p)).transpose()?;
    let below = |issue: &&Issue| parent.as_ref().is_none_or(|p| graph.is_part_of(&issue.id, p));
    let open = graph.issues().filter(|issue| issue.status != IssueStatus::Closed);
    let mut lines = Vec::new();
    let mut values = Vec::new();
    for issue in in_order(open.filter(below)) {
        let blockers = graph.blockers(&issue.id);
        if blockers.is_empty() && issue.status != IssueStatus::Blocked {
            continue;
        }
        lines.push(text::line(issue));
        lines.push(if blockers.is_empty() {
            "  set to blocked by hand".to_owned()
        } else {
            format!("  waits for {}", text::ids(blockers.iter().copied()))
        });
        let mut value = wire::listed(graph, issue);
        value["blocked_by_count"] = blockers.len().into();
        value["blocked_by"] = blockers.iter().map(|b| b.id.as_str()).collect();
        values.push(value);
    }
    if lines.is_empty() {
        lines.push("No blocked issues".to_owned());
    }
    Ok(Answer::new(lines.join("\n"), values))
}

pub(super) fn epic(graph: &mut Graph, context: &Context<'_>, action: &Epic) -> Done {
    let (eligible_only, close) = match action {
        Epic::Status { eligible_only } => (*eligible_only, false),
        Epic::CloseEligible { dry_run } => (true, !*dry_run),
    };
    let open = |i: &&Issue| i.issue_type == IssueType::Epic && i.status != IssueStatus::Closed;
    let mut lines = Vec::new();
    let mut values = Vec::new();
    let mut eligible_ids = Vec::new();
    for issue in in_order(graph.issues().filter(open)) {
        let (total, closed) = wire::progress(graph, &issue.id);
        let eligible = total > 0 && closed == total;
        if eligible_only && !eligible {
            continue;
        }
        if eligible {
            eligible_ids.push(issue.id.clone());
        }
        let percent = (closed * 100).checked_div(total).unwrap_or(0);
        lines.push(format!(
            "{}\n   {closed}/{total} children closed ({percent}%)",
            text::line(issue)
        ));
        values.push(json!({
            "epic": wire::record(issue),
            "total_children": total,
            "closed_children": closed,
            "eligible_for_close": eligible,
        }));
    }
    if !close {
        if lines.is_empty() {
            lines.push("No open epics found".to_owned());
        }
        return Ok(Answer::new(lines.join("\n"), values));
    }
    for id in &eligible_ids {
        edit::close_one(graph, context, id, Some("All children closed"), false)?;
    }
    let text = format!(
        "✓ Closed {} epic(s) {}",
        eligible_ids.len(),
        eligible_ids.join(", ")
    );
    Ok(Answer::new(
        text,
        json!({ "closed": eligible_ids, "count": eligible_ids.len() }),
    ))
}

pub(super) fn stats(graph: &Graph) -> Answer {
    let count = |status| graph.issues().filter(|issue| issue.status == status).count();
    let waiting = |issue: &&Issue| {
        issue.status != IssueStatus::Closed
            && (issue.status == IssueStatus::Blocked || !graph.blockers(&issue.id).is_empty())
    };
    let (open, in_progress, closed) = (
        count(IssueStatus::Open),
        count(IssueStatus::InProgress),
        count(IssueStatus::Closed),
    );
    let blocked = graph.issues().filter(waiting).count();
    let ready = graph.issues().filter(|issue| graph.is_ready(&issue.id)).count();
    let eligible = graph
        .issues()
        .filter(|i| i.issue_type == IssueType::Epic && i.status != IssueStatus::Closed)
        .filter(|i| matches!(wire::progress(graph, &i.id), (total, done) if total > 0 && total == done))
        .count();
    let text = format!(
        "Total: {}\nOpen: {open}\nIn progress: {in_progress}\nClosed: {closed}\nBlocked: {blocked}\nReady: {ready}",
        graph.len()
    );
    Answer::new(
        text,
        json!({ "summary": {
            "total_issues": graph.len(),
            "open_issues": open,
            "in_progress_issues": in_progress,
            "closed_issues": closed,
            "blocked_issues": blocked,
            "ready_issues": ready,
            "epics_eligible_for_closure": eligible,
        }}),
    )
}
