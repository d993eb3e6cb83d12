//! JSONL as Beads writes and reads it: one issue per line.

use super::arguments::{Export, Import};
use super::{Answer, Context, Done, Failure, Graph, create, wire};
use ostler_domain::{DependencyType, Issue, IssueComment, IssueStatus, IssueType, Timestamp};
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// The fields of a line that this graph keeps; all others are left out.
#[derive(Deserialize)]
struct Record {
    id: String,
    title: String,
    #[serde(default)]
    description: String,
    #[serde(default)]
    design: String,
    #[serde(default)]
    acceptance_criteria: String,
    #[serde(default)]
    notes: String,
    #[serde(default)]
    status: String,
    priority: Option<u8>,
    #[serde(default)]
    issue_type: String,
    #[serde(default)]
    assignee: String,
    created_at: Option<String>,
    updated_at: Option<String>,
    closed_at: Option<String>,
    #[serde(default)]
    close_reason: String,
    #[serde(default)]
    labels: Vec<String>,
    #[serde(default)]
    dependencies: Vec<Link>,
    #[serde(default)]
    comments: Vec<Remark>,
}

#[derive(Deserialize)]
struct Link {
    depends_on_id: String,
    #[serde(default, rename = "type")]
    kind: String,
}

#[derive(Deserialize)]
struct Remark {
    author: String,
    text: String,
    created_at: Option<String>,
}

/// All issues, one per line, in order of id.
pub fn export_jsonl(graph: &Graph) -> String {
    let mut out = String::new();
    for issue in graph.issues() {
        out.push_str(&wire::record(issue).to_string());
        out.push('\n');
    }
    out
}

/// Reads issues into a graph: new ids are added, known ones are replaced by their line. All or nothing.
///
/// # Errors
/// The first thing that is wrong, with its line.
pub fn import_jsonl(graph: &mut Graph, text: &str, now: Timestamp) -> Result<usize, String> {
    let call = super::Invocation {
        now,
        ..super::Invocation::default()
    };
    let mut ids = super::SystemIds;
    let context = Context {
        actor: "import",
        call: &call,
        ids: &mut ids,
    };
    graph.begin();
    let result = read(graph, &context, text, false);
    graph.end(result.is_ok());
    match result {
        Ok(summary) => Ok(summary.ids.len()),
        Err(failure) => Err(failure.message),
    }
}

pub(super) fn export(graph: &Graph, options: &Export) -> Done {
    match options.output.as_deref() {
        None | Some("-" | "/dev/stdout") => Ok(Answer::raw(export_jsonl(graph))),
        Some(file) => Err(Failure::new(format!(
            "the issues are kept elsewhere and cannot write {file}; use: bd export > {file}"
        ))),
    }
}

pub(super) fn import(graph: &mut Graph, context: &Context<'_>, options: &Import) -> Done {
    let file = options.input.as_deref().unwrap_or(&options.file);
    let text = context.file(file)?;
    let summary = read(graph, context, &text, options.dedup)?;
    if options.dry_run {
        graph.end(false);
    }
    let verb = if options.dry_run {
        "Would import"
    } else {
        "✓ Imported"
    };
    Ok(Answer {
        warning: summary.warnings.join("\n"),
        ..Answer::new(
            format!(
                "{verb} {} issues ({} left out)",
                summary.ids.len(),
                summary.skipped
            ),
            json!({
                "source": if file == "-" { "stdin" } else { file },
                "created": summary.created,
                "updated": summary.ids.len() - summary.created,
                "skipped": 0,
                "dedup_skipped": summary.skipped,
                "memories": 0,
                "ids": summary.ids,
                "dry_run": options.dry_run,
            }),
        )
    })
}

#[derive(Default)]
struct Summary {
    ids: Vec<String>,
    created: usize,
    skipped: usize,
    warnings: Vec<String>,
}

fn read(graph: &mut Graph, context: &Context<'_>, text: &str, dedup: bool) -> Done<Summary> {
    let mut summary = Summary::default();
    let open = |i: &&Issue| i.status != IssueStatus::Closed;
    let titles: BTreeSet<String> = graph
        .issues()
        .filter(open)
        .map(|i| i.title.to_lowercase())
        .collect();
    let mut links = Vec::new();
    for (i, line) in text
        .lines()
        .enumerate()
        .filter(|(_, line)| !line.trim().is_empty())
    {
        let at = |failure: Failure| Failure {
            message: format!("line {}: {}", i + 1, failure.message),
            ..failure
        };
        let value: Value =
            serde_json::from_str(line).map_err(|e| at(Failure::new(format!("not JSON: {e}"))))?;
        // Exports may hold records of other kinds, such as memories; issues have no such mark, or this one.
        if value.get("_type").is_some_and(|kind| kind != "issue") {
            continue;
        }
        let record: Record =
            serde_json::from_value(value).map_err(|e| at(Failure::new(format!("not an issue: {e}"))))?;
        if dedup && !graph.contains(&record.id) && titles.contains(&record.title.to_lowercase()) {
            summary.skipped += 1;
            continue;
        }
        let issue = convert(graph, context, &record).map_err(at)?;
        if !graph.contains(&issue.id) {
            create::room(graph)?;
            summary.created += 1;
        }
        summary.ids.push(issue.id.clone());
        graph.insert(issue);
        links.extend(
            record
                .dependencies
                .into_iter()
                .map(|link| (record.id.clone(), link)),
        );
    }
    // When all issues are there, since a line may depend on one below it.
    for (from, link) in links {
        let kind = match link.kind.as_str() {
            "" | "conditional-blocks" | "waits-for" => DependencyType::Blocks,
            other => other.parse().unwrap_or(DependencyType::Related),
        };
        if graph.contains(&link.depends_on_id) {
            graph.connect(&from, &link.depends_on_id, kind)?;
        } else {
            summary.warnings.push(format!(
                "{from} depends on {}, which does not exist; left out",
                link.depends_on_id
            ));
        }
    }
    graph.verify()?;
    Ok(summary)
}

fn convert(graph: &Graph, context: &Context<'_>, record: &Record) -> Done<Issue> {
    let now = context.call.now;
    let at = |text: &Option<String>| match text {
        None => Ok(None),
        Some(text) => wire::parse_time(text)
            .map(Some)
            .ok_or_else(|| Failure::new(format!("`{text}` is not a time such as 2026-04-20T12:00:00Z"))),
    };
    let id = create::word("an id", &record.id)?;
    if id.starts_with('-') || id.contains(char::is_whitespace) || id != record.id {
        return Err(Failure::new(format!("`{}` cannot be an id", record.id)));
    }
    let mut issue = match graph.get(&id) {
        Some(known) => Issue {
            dependencies: Vec::new(),
            ..known.clone()
        },
        None => create::blank(graph, context, id, ""),
    };
    issue.title = create::title(&record.title)?;
    issue.description = create::long_text("the description", &record.description)?;
    issue.design = create::long_text("the design", &record.design)?;
    issue.acceptance_criteria = create::long_text("the acceptance criteria", &record.acceptance_criteria)?;
    issue.notes = create::long_text("the notes", &record.notes)?;
    issue.issue_type = match record.issue_type.as_str() {
        "epic" | "milestone" | "molecule" => IssueType::Epic,
        "feature" | "story" => IssueType::Feature,
        other => other.parse().unwrap_or(IssueType::Task),
    };
    issue.status = match record.status.as_str() {
        "" | "open" => IssueStatus::Open,
        "in_progress" | "hooked" => IssueStatus::InProgress,
        "blocked" | "deferred" | "pinned" => IssueStatus::Blocked,
        "closed" | "tombstone" => IssueStatus::Closed,
        other => return Err(Failure::new(format!("status `{other}` is not known"))),
    };
    issue.priority = create::priority(&record.priority.unwrap_or(2).to_string())?;
    issue.assignee = Some(record.assignee.clone()).filter(|a| !a.is_empty());
    issue.labels = create::labels(&record.labels)?;
    issue.close_reason = Some(record.close_reason.clone()).filter(|r| !r.is_empty());
    issue.created_at = at(&record.created_at)?.unwrap_or(now);
    issue.updated_at = at(&record.updated_at)?.unwrap_or(issue.created_at);
    issue.closed_at = at(&record.closed_at)?;
    if issue.status == IssueStatus::Closed {
        issue.closed_at.get_or_insert(issue.updated_at);
    }
    issue.comments = Vec::new();
    for remark in &record.comments {
        issue.comments.push(IssueComment {
            author: remark.author.clone(),
            text: create::long_text("a comment", &remark.text)?,
            created_at: at(&remark.created_at)?.unwrap_or(now),
        });
    }
    Ok(issue)
}
