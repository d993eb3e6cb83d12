//! `bd batch`: several changes, all or none. One per line, in a grammar of its own.

use super::arguments::Batch;
use super::{Answer, Context, Done, Failure, Graph, create, edit, ids, links};
use serde_json::{Value, json};

/// Most lines of one batch.
const MAX_LINES: usize = 5000;

const GRAMMAR: &str = "close ID [REASON…], update ID KEY=VALUE… (status, priority, title, assignee), create TYPE PRIORITY TITLE…, \
                       dep add ID BLOCKER [TYPE], dep remove ID BLOCKER";

pub(super) fn batch(graph: &mut Graph, context: &mut Context<'_>, options: &Batch) -> Done {
    let input = context.file(&options.file)?;
    let mut operations = Vec::new();
    for (i, line) in input.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let words =
            words(line).ok_or_else(|| Failure::new(format!("line {}: a quote is not closed", i + 1)))?;
        operations.push((i + 1, line, words));
    }
    if operations.len() > MAX_LINES {
        return Err(Failure::new(format!("a batch has at most {MAX_LINES} lines")));
    }
    let count = operations.len();
    let mut results = Vec::new();
    let mut lines = Vec::new();
    for (number, line, words) in operations {
        let target = one(graph, context, &words).map_err(|failure| Failure {
            message: format!("line {number} ({line}): {}", failure.message),
            ..failure
        })?;
        let operation = words.first().cloned().unwrap_or_default();
        lines.push(format!("  line {number}: {operation} {target}"));
        results.push(json!({ "line": number, "op": operation, "target": target }));
    }
    if options.dry_run {
        graph.end(false);
        let json = json!({ "dry_run": true, "operations": count });
        return Ok(Answer::new(
            format!("{count} operations would succeed (nothing was changed)"),
            json,
        ));
    }
    let text = format!("batch: {count} operations\n{}", lines.join("\n"));
    Ok(Answer::new(
        text.trim_end(),
        json!({ "operations": count, "status": "ok", "results": Value::from(results) }),
    ))
}

/// Carries out one line; gives the id that it was about.
fn one(graph: &mut Graph, context: &mut Context<'_>, words: &[String]) -> Done<String> {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["close", id, reason @ ..] => {
            let id = graph.find(id)?;
            let reason = reason.join(" ");
            edit::close_one(
                graph,
                context,
                &id,
                Some(reason.as_str()).filter(|r| !r.is_empty()),
                false,
            )?;
            Ok(id)
        }
        ["update", id, changes @ ..] if !changes.is_empty() => {
            let id = graph.find(id)?;
            let issue = graph.edit(&id)?;
            for change in changes {
                match change.split_once('=') {
                    Some(("status", text)) => create::set_status(issue, create::status(text)?, context),
                    Some(("priority", text)) => issue.priority = create::priority(text)?,
                    Some(("title", text)) => issue.title = create::title(text)?,
                    Some(("assignee", "")) => issue.assignee = None,
                    Some(("assignee", text)) => issue.assignee = Some(create::word("an assignee", text)?),
                    _ => {
                        return Err(Failure::new(format!(
                            "`{change}` is not understood; possible: {GRAMMAR}"
                        )));
                    }
                }
            }
            issue.updated_at = context.call.now;
            Ok(id)
        }
        ["create", kind, priority, title @ ..] if !title.is_empty() => {
            create::room(graph)?;
            let id = ids::new_id(graph, context.ids);
            let mut issue = create::blank(graph, context, id.clone(), &create::title(&title.join(" "))?);
            issue.issue_type = create::issue_type(kind)?;
            issue.priority = create::priority(priority)?;
            graph.insert(issue);
            Ok(id)
        }
        ["dep", "add", issue, blocker, rest @ ..] if rest.len() < 2 => {
            links::add(
                graph,
                context,
                issue,
                blocker,
                rest.first().copied().unwrap_or("blocks"),
            )?;
            graph.find(issue)
        }
        ["dep", "remove", issue, blocker] => {
            links::remove(graph, context, issue, blocker)?;
            graph.find(issue)
        }
        _ => Err(Failure::new(format!(
            "this is not understood; possible: {GRAMMAR}"
        ))),
    }
}

/// Splits at white space; double quotes keep words together, `\"` and `\\` stand for themselves.
fn words(line: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quoted = false;
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match c {
            '"' => {
                quoted = !quoted;
                word.get_or_insert_default();
            }
            '\\' if quoted => word.get_or_insert_default().extend(chars.next()),
            c if c.is_whitespace() && !quoted => words.extend(word.take()),
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    (!quoted).then_some(words)
}

#[cfg(test)]
mod tests {
    use super::words;

    #[test]
    fn quotes() {
        assert_eq!(
            words(r#"a  "b c" d="e \" f" """#).unwrap(),
            ["a", "b c", "d=e \" f", ""]
        );
        assert_eq!(words(r#"a "b"#), None);
    }
}
