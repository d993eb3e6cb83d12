//! What is wrong with a plan, said to the person who wrote it.

use crate::limits;
use serde::{Deserialize, Serialize};
use std::fmt;

/// One problem of a plan: where it is, what it is, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanError {
    /// Line in the text, from 1.
    pub line: u32,
    /// Column in that line, in characters, from 1.
    pub column: u32,
    /// The field, such as `tests[3].timeout`; empty for the text as a whole.
    pub path: String,
    /// What is wrong.
    pub message: String,
    /// What to do, where something can be said.
    pub suggestion: Option<String>,
}

impl fmt::Display for PlanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}: ", self.line, self.column)?;
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)?;
        if let Some(suggestion) = &self.suggestion {
            write!(f, "; {suggestion}")?;
        }
        Ok(())
    }
}

/// All problems that were found in a plan, in the order of the text, at most [`limits::PROBLEMS`]; never empty.
///
/// Mistakes of form (syntax, unknown fields, wrong types) hide those of meaning (cycles, unknown needs): what could not
/// be read cannot be judged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub struct PlanErrors {
    /// The problems.
    pub errors: Vec<PlanError>,
    /// Whether there may be more than these.
    pub more: bool,
}

impl fmt::Display for PlanErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, error) in self.errors.iter().enumerate() {
            let end = if i == 0 { "" } else { "\n" };
            write!(f, "{end}{error}")?;
        }
        if self.more {
            f.write_str("\nthere may be more problems; these come first")?;
        }
        Ok(())
    }
}

impl PlanErrors {
    /// Orders what was found; the same problem said twice counts once.
    pub(crate) fn new(mut errors: Vec<PlanError>, more: bool) -> Self {
        errors.sort_by_key(|e| (e.line, e.column));
        errors.dedup();
        let more = more || errors.len() >= limits::PROBLEMS;
        errors.truncate(limits::PROBLEMS);
        Self { errors, more }
    }
}

/// `did you mean ...?` with the known name that is nearest, if one is near.
pub(crate) fn did_you_mean<'a>(unknown: &str, known: impl IntoIterator<Item = &'a str>) -> Option<String> {
    // Only short words are compared: what is longer is no typing mistake, and the work grows with the square.
    if unknown.len() > limits::NAME {
        return None;
    }
    known
        .into_iter()
        .filter(|name| name.len() <= 2 * unknown.len() + 2)
        .map(|name| (strsim::levenshtein(unknown, name), name))
        .min()
        .filter(|(far, name)| *far <= name.len().max(unknown.len()) / 2)
        .map(|(_, name)| format!("did you mean `{name}`?"))
}
