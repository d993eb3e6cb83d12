//! `${matrix.axis}` in texts.

use crate::error::did_you_mean;
use crate::limits;
use std::collections::{BTreeMap, BTreeSet};

const START: &str = "${matrix.";

/// Something wrong with a value, whose place the caller knows.
#[derive(Debug)]
pub(crate) struct Wrong {
    pub(crate) message: String,
    pub(crate) suggestion: Option<String>,
}

impl Wrong {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            suggestion: None,
        }
    }
}

/// What can be put in for one combination.
pub(crate) struct Scope<'m> {
    /// Values of this combination.
    pub(crate) values: &'m BTreeMap<String, String>,
    /// All axes of the matrix; one without a value here is empty, as for combinations that `include` did not touch.
    pub(crate) axes: &'m BTreeSet<String>,
}

impl Scope<'_> {
    /// `text` with values in place of axes. Other `${…}` stay, they are for the shell; `$${matrix.…}` stands for itself.
    pub(crate) fn text(&self, text: &str) -> Result<String, Wrong> {
        let mut out = String::new();
        let mut rest = text;
        while let Some(at) = rest.find(START) {
            if rest[..at].ends_with('$') {
                out.push_str(&rest[..at]);
                out.push_str(&START[1..]);
                rest = &rest[at + START.len()..];
                continue;
            }
            out.push_str(&rest[..at]);
            let after = &rest[at + START.len()..];
            let Some(end) = after.find('}') else {
                return Err(Wrong::new(format!("`{START}` has no closing brace")));
            };
            let axis = &after[..end];
            match self.values.get(axis) {
                Some(value) => out.push_str(value),
                None if self.axes.contains(axis) => {}
                None => return Err(self.unknown(axis)),
            }
            rest = &after[end + 1..];
            if out.len() > limits::FIELD {
                break;
            }
        }
        out.push_str(rest);
        if out.len() > limits::FIELD {
            return Err(Wrong::new(format!(
                "this text is longer than {} bytes; put it into a file of the workspace",
                limits::FIELD
            )));
        }
        Ok(out)
    }

    fn unknown(&self, axis: &str) -> Wrong {
        let axis: String = axis.chars().take(60).collect();
        let known = || {
            if self.axes.is_empty() {
                return "this test has no matrix".to_owned();
            }
            let axes: Vec<&str> = self.axes.iter().map(String::as_str).collect();
            format!("known are {}", axes.join(", "))
        };
        Wrong {
            message: format!("the matrix has no axis `{axis}`"),
            suggestion: did_you_mean(&axis, self.axes.iter().map(String::as_str)).or_else(|| Some(known())),
        }
    }
}
