//! What the formats have in common: a tree of values, each with the place where it stands in the text.
//!
//! A tree and not a serde format per language: only so can all problems be told in one pass, also those that show
//! later (a cycle, an unknown need), each with its line.

mod json;
mod read;
mod toml;
mod yaml;

use crate::{Format, PlanError, PlanErrors, limits};
pub(crate) use read::{Problems, SCALAR, TEMPLATE, read};
pub(crate) use yaml::plain;

/// A place in a text. Offsets become lines only for errors: counting columns for each value of one long line would take
/// time that grows with the square of the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// Byte offset.
    Offset(usize),
    /// Line and column, from 1.
    LineColumn(u32, u32),
}

/// A value and its place.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) place: Place,
    pub(crate) value: Value,
}

#[derive(Debug, Clone)]
pub(crate) enum Value {
    Null,
    Bool(bool),
    /// A number as it was written: `6.10` as a matrix value is a version, and must not become 6.1.
    Number(String),
    Text(String),
    List(Vec<Node>),
    /// In the order of the text.
    Table(Vec<Entry>),
}

/// A key with its value.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) place: Place,
    pub(crate) node: Node,
}

/// One step from a table or list to a value in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    Key(String),
    Index(usize),
}

impl From<&str> for Step {
    fn from(key: &str) -> Self {
        Self::Key(key.to_owned())
    }
}

impl From<usize> for Step {
    fn from(index: usize) -> Self {
        Self::Index(index)
    }
}

/// A problem whose place is not yet a line.
#[derive(Debug, Clone)]
pub(crate) struct Problem {
    pub(crate) place: Place,
    pub(crate) path: String,
    pub(crate) message: String,
    pub(crate) suggestion: Option<String>,
}

impl Problem {
    /// A problem of the text itself.
    fn of_text(place: Place, message: impl Into<String>) -> Self {
        Self {
            place,
            path: String::new(),
            message: message.into(),
            suggestion: None,
        }
    }
}

/// A text with its tree.
pub(crate) struct Source<'t> {
    text: &'t str,
    pub(crate) root: Node,
}

impl<'t> Source<'t> {
    pub(crate) fn parse(text: &'t str, format: Format) -> Result<Self, PlanErrors> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let parsed = if text.len() > limits::TEXT {
            Err(vec![Problem::of_text(
                Place::Offset(0),
                format!(
                    "the plan is {} bytes long, more than {}; split it",
                    text.len(),
                    limits::TEXT
                ),
            )])
        } else {
            match format {
                Format::Toml => toml::parse(text),
                Format::Yaml => yaml::parse(text),
                Format::Json => json::parse(text),
            }
        };
        match parsed {
            Ok(root) => Ok(Self { text, root }),
            Err(problems) => Err(errors(text, (problems, false))),
        }
    }

    /// Gives problems their lines.
    pub(crate) fn errors(&self, problems: Problems) -> PlanErrors {
        errors(self.text, problems)
    }
}

fn errors(text: &str, (problems, more): Problems) -> PlanErrors {
    let found = problems
        .into_iter()
        .take(limits::PROBLEMS)
        .map(|problem| {
            let (line, column) = match problem.place {
                Place::LineColumn(line, column) => (line, column),
                Place::Offset(offset) => line_column(text, offset),
            };
            PlanError {
                line,
                column,
                path: problem.path,
                message: problem.message,
                suggestion: problem.suggestion,
            }
        })
        .collect();
    PlanErrors::new(found, more)
}

fn line_column(text: &str, offset: usize) -> (u32, u32) {
    let before = &text.as_bytes()[..offset.min(text.len())];
    let start = before.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
    let line = before.split(|b| *b == b'\n').count();
    // Continuation bytes of UTF-8 are no characters of their own.
    let column = before[start..].iter().filter(|b| **b & 0xc0 != 0x80).count() + 1;
    (line as u32, column as u32)
}

impl Node {
    /// How many values there are in it, itself included.
    fn size(&self) -> usize {
        match &self.value {
            Value::List(items) => 1 + items.iter().map(Self::size).sum::<usize>(),
            Value::Table(entries) => 1 + entries.iter().map(|entry| entry.node.size()).sum::<usize>(),
            _ => 1,
        }
    }

    /// The entry with this key, if this is a table that has it.
    pub(crate) fn entry(&self, key: &str) -> Option<&Entry> {
        match &self.value {
            Value::Table(entries) => entries.iter().find(|e| e.key == key),
            _ => None,
        }
    }

    /// Whether something stands at the end of `path`.
    pub(crate) fn has(&self, path: &[Step]) -> bool {
        self.walk(path).1 == path.len()
    }

    /// The place of what `path` leads to, or of the last on the way that is there.
    pub(crate) fn place_of(&self, path: &[Step]) -> Place {
        self.walk(path).0
    }

    fn walk(&self, path: &[Step]) -> (Place, usize) {
        let mut node = self;
        let mut place = self.place;
        for (done, step) in path.iter().enumerate() {
            let next = match (step, &node.value) {
                (Step::Key(key), Value::Table(_)) => node.entry(key).map(|e| (e.place, &e.node)),
                (Step::Index(i), Value::List(items)) => items.get(*i).map(|n| (n.place, n)),
                _ => None,
            };
            let Some((at, below)) = next else {
                return (place, done);
            };
            (place, node) = (at, below);
        }
        (place, path.len())
    }
}

/// A path as people write it: `tests[3].env.HOME`.
pub(crate) fn path_text(path: &[Step]) -> String {
    let mut text = String::new();
    for step in path {
        match step {
            Step::Index(index) => {
                text.push('[');
                text.push_str(&index.to_string());
                text.push(']');
            }
            Step::Key(key) => {
                if !text.is_empty() {
                    text.push('.');
                }
                let plain = !key.is_empty() && key.chars().all(|c| c.is_alphanumeric() || "_-<".contains(c));
                if plain && key.len() <= limits::NAME {
                    text.push_str(key);
                } else {
                    let short: String = key.chars().take(60).collect();
                    text.push('"');
                    text.extend(short.escape_debug());
                    text.push('"');
                }
            }
        }
    }
    text
}
