//! The built-in issue graph, as agents see it: the `bd` command.
//!
//! Pure logic: a [`Graph`] in memory, a command line in ([`Invocation`]), texts and an exit code out ([`Output`]), and
//! the changes for the store ([`Graph::take_changes`]). Commands, flags, JSON fields and the JSONL form are those of
//! Beads, so that an agent trained on the real `bd`, and scripts written for it, work; a command that fails changes
//! nothing.
//!
//! Where this differs from the real program, on purpose:
//! - Files are read by the caller and given in [`Invocation::files`], since the graph lives at the server.
//! - Types and states are those of `ostler-domain`; the import maps the others to the nearest.
//! - Closing an epic with open children is allowed if the graph says so ([`Graph::epics_close_freely`]): for a planner,
//!   closing the epic means that the plan is complete.
//! - What could never become ready is refused: an issue cannot wait for one that it is part of, nor an epic for a part
//!   of itself.

mod arguments;
mod batch;
mod create;
mod edit;
mod graph;
mod ids;
mod interchange;
mod links;
mod list;
mod plan;
mod prime;
mod text;
mod wire;

pub use graph::{Change, Graph};
pub use ids::{IdSource, SystemIds};
pub use interchange::{export_jsonl, import_jsonl};

use arguments::{Command, Line};
use clap::Parser;
use ostler_domain::{TaskId, Timestamp};
use serde_json::Value;
use std::collections::BTreeMap;

/// The version that `bd version` tells: that of the Beads command line which this one follows.
pub const BD_VERSION: &str = "1.0.0";

/// Exit code of a command that failed.
pub const FAILED: i32 = 1;
/// Exit code of a command line that is not understood.
pub const USAGE: i32 = 2;
/// Exit code when an issue does not exist.
pub const NOT_FOUND: i32 = 3;

/// One call of `bd`.
#[derive(Debug, Clone, Default)]
pub struct Invocation {
    /// The words after `bd`.
    pub argv: Vec<String>,
    /// Standard input; read by `-` as a file name, `--stdin`, `batch` and `import`.
    pub stdin: Vec<u8>,
    /// Files named in `argv` that the caller could read, by the name used there.
    pub files: BTreeMap<String, Vec<u8>>,
    /// Who calls; becomes assignee and author.
    pub actor: String,
    /// The task that new issues belong to.
    pub task: Option<TaskId>,
    /// The present.
    pub now: Timestamp,
    /// Whether JSON goes into an envelope (`BD_JSON_ENVELOPE=1`).
    pub json_envelope: bool,
}

/// What a call gave.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Output {
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// Exit code: 0, [`FAILED`], [`USAGE`] or [`NOT_FOUND`].
    pub code: i32,
}

/// Why a command failed.
#[derive(Debug)]
struct Failure {
    code: i32,
    kind: &'static str,
    message: String,
}

impl Failure {
    fn new(message: impl Into<String>) -> Self {
        Self {
            code: FAILED,
            kind: "error",
            message: message.into(),
        }
    }

    fn not_found(id: &str) -> Self {
        Self {
            code: NOT_FOUND,
            kind: "not_found",
            message: format!("issue not found: {id} (`bd list --all` shows all issues)"),
        }
    }
}

type Done<T = Answer> = Result<T, Failure>;

/// What a command that succeeded says, in both forms.
struct Answer {
    text: String,
    json: Value,
    /// Said on standard error beside either.
    warning: String,
    /// Text even with `--json`: the output is a format of its own.
    raw: bool,
}

impl Answer {
    fn new(text: impl Into<String>, json: impl Into<Value>) -> Self {
        Self {
            text: text.into(),
            json: json.into(),
            warning: String::new(),
            raw: false,
        }
    }

    fn raw(text: impl Into<String>) -> Self {
        Self {
            raw: true,
            ..Self::new(text, Value::Null)
        }
    }
}

/// What every command has at hand.
struct Context<'a> {
    call: &'a Invocation,
    actor: &'a str,
    ids: &'a mut dyn IdSource,
}

impl Context<'_> {
    /// The text of a file argument; `-` is standard input.
    fn file(&self, name: &str) -> Done<String> {
        let bytes = if name == "-" {
            &self.call.stdin
        } else {
            self.call.files.get(name).ok_or_else(|| {
                Failure::new(format!(
                    "cannot read the file {name}; give its content on standard input instead: `- < {name}`"
                ))
            })?
        };
        String::from_utf8(bytes.clone()).map_err(|_| Failure::new(format!("{name} is not UTF-8 text")))
    }
}

/// Carries out one `bd` command. Either all of it happens, or nothing and the code is not 0.
pub fn execute(graph: &mut Graph, call: &Invocation, ids: &mut dyn IdSource) -> Output {
    let words = std::iter::once("bd").chain(call.argv.iter().map(String::as_str));
    let line = match Line::try_parse_from(words) {
        Ok(line) => line,
        Err(error) => return usage(&error),
    };
    let mut context = Context {
        actor: line.actor.as_deref().unwrap_or(&call.actor),
        call,
        ids,
    };
    graph.begin();
    let result = run(graph, &mut context, line.command);
    graph.end(result.is_ok());
    match result {
        Ok(answer) => {
            let stdout = match (line.json && !answer.raw, line.quiet) {
                (true, _) => render(answer.json, call.json_envelope),
                (false, true) if !answer.raw => String::new(),
                _ => answer.text,
            };
            Output {
                stdout: ended(stdout),
                stderr: ended(answer.warning),
                code: 0,
            }
        }
        Err(failure) => {
            let stderr = if line.json {
                let mut error = serde_json::Map::new();
                error.insert("error".to_owned(), failure.message.into());
                error.insert("code".to_owned(), failure.kind.into());
                render(Value::Object(error), false)
            } else {
                format!("Error: {}", failure.message)
            };
            Output {
                stdout: String::new(),
                stderr: ended(stderr),
                code: failure.code,
            }
        }
    }
}

fn usage(error: &clap::Error) -> Output {
    let text = error.render().to_string();
    if error.use_stderr() {
        return Output {
            stderr: text,
            code: USAGE,
            ..Output::default()
        };
    }
    Output {
        stdout: text,
        ..Output::default()
    }
}

/// JSON text: an envelope if asked for, otherwise objects carry the version and lists stand alone.
fn render(mut value: Value, envelope: bool) -> String {
    if envelope {
        value = serde_json::json!({ "schema_version": 1, "data": value });
    } else if let Value::Object(object) = &mut value {
        object.insert("schema_version".to_owned(), 1.into());
    }
    format!("{value:#}")
}

fn ended(mut text: String) -> String {
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    text
}

fn run(graph: &mut Graph, context: &mut Context<'_>, command: Command) -> Done {
    match command {
        Command::Create(options) => create::create(graph, context, &options),
        Command::Update(options) => edit::update(graph, context, &options),
        Command::Close(options) => edit::close(graph, context, &options),
        Command::Reopen(options) => edit::reopen(graph, context, &options),
        Command::Delete(options) => edit::delete(graph, &options),
        Command::Label(action) => edit::label(graph, context, action),
        Command::Comments(options) => edit::comments(graph, context, options),
        Command::Comment(options) => edit::comment(graph, context, &options),
        Command::Show(options) => list::show(graph, &options),
        Command::List(options) => list::list(graph, &options),
        Command::Ready(options) => list::ready(graph, context, &options),
        Command::Blocked(options) => list::blocked(graph, &options),
        Command::Stats => Ok(list::stats(graph)),
        Command::Epic(action) => list::epic(graph, context, &action),
        Command::Dep(action) => links::dep(graph, context, action),
        Command::Batch(options) => batch::batch(graph, context, &options),
        Command::Export(options) => interchange::export(graph, &options),
        Command::Import(options) => interchange::import(graph, context, &options),
        Command::Init(_) => Ok(Answer::new(
            format!(
                "The issue graph is ready; ids start with `{}-`. Nothing to do.",
                graph.prefix()
            ),
            serde_json::json!({ "status": "ok", "prefix": graph.prefix() }),
        )),
        Command::Prime | Command::Onboard => Ok(Answer::raw(prime::text(graph))),
        Command::Sync(_) => Ok(Answer::new(
            "Nothing to do: every command is stored at once.",
            serde_json::json!({ "status": "ok" }),
        )),
        Command::Version => Ok(Answer::new(
            format!("bd version {BD_VERSION} (ostler)"),
            serde_json::json!({ "version": BD_VERSION, "build": "ostler" }),
        )),
    }
}
