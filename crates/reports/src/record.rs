//! A case as one JSON object: a line of JSON lines, and what the YAML blocks of our TAP carry.

use crate::model::{Case, Outcome, Property, Reason, Rerun};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::time::Duration;

/// One line. The names are stable: fields are added, never renamed; absent ones are left out.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Record<'a> {
    #[serde(default, skip_serializing_if = "str::is_empty")]
    pub(crate) suite: Cow<'a, str>,
    #[serde(default, rename = "class", skip_serializing_if = "Option::is_none")]
    pub(crate) class: Option<Cow<'a, str>>,
    pub(crate) name: Cow<'a, str>,
    #[serde(flatten)]
    pub(crate) tried: Try<'a>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) properties: Vec<(Cow<'a, str>, Cow<'a, str>)>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) reruns: Vec<Try<'a>>,
}

/// One try of a case.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Try<'a> {
    outcome: Word,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    message: Option<Cow<'a, str>>,
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    kind: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    details: Option<Cow<'a, str>>,
    /// Seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    time: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    stdout: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    stderr: Option<Cow<'a, str>>,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Word {
    Passed,
    Failed,
    Skipped,
    Error,
}

fn borrowed(text: Option<&String>) -> Option<Cow<'_, str>> {
    text.map(|text| Cow::Borrowed(text.as_str()))
}

fn try_of<'a>(
    outcome: &'a Outcome,
    duration: Option<Duration>,
    stdout: Option<&'a String>,
    stderr: Option<&'a String>,
) -> Try<'a> {
    let reason = outcome.reason();
    Try {
        outcome: match outcome {
            Outcome::Passed => Word::Passed,
            Outcome::Failed(_) => Word::Failed,
            Outcome::Skipped(_) => Word::Skipped,
            Outcome::Error(_) => Word::Error,
        },
        message: borrowed(reason.and_then(|reason| reason.message.as_ref())),
        kind: borrowed(reason.and_then(|reason| reason.kind.as_ref())),
        details: borrowed(reason.and_then(|reason| reason.details.as_ref())),
        time: duration.map(|duration| duration.as_secs_f64()),
        stdout: borrowed(stdout),
        stderr: borrowed(stderr),
    }
}

impl<'a> Record<'a> {
    pub(crate) fn of(suite: &'a str, case: &'a Case) -> Self {
        Record {
            suite: Cow::Borrowed(suite),
            class: borrowed(case.class.as_ref()),
            name: Cow::Borrowed(&case.name),
            tried: try_of(
                &case.outcome,
                case.duration,
                case.stdout.as_ref(),
                case.stderr.as_ref(),
            ),
            properties: pairs(&case.properties),
            reruns: reruns(&case.reruns),
        }
    }
}

pub(crate) fn pairs(properties: &[Property]) -> Vec<(Cow<'_, str>, Cow<'_, str>)> {
    properties
        .iter()
        .map(|p| (Cow::Borrowed(p.name.as_str()), Cow::Borrowed(p.value.as_str())))
        .collect()
}

pub(crate) fn reruns(reruns: &[Rerun]) -> Vec<Try<'_>> {
    reruns
        .iter()
        .map(|r| try_of(&r.outcome, r.duration, r.stdout.as_ref(), r.stderr.as_ref()))
        .collect()
}

impl Try<'_> {
    /// `text` cuts what is too long.
    pub(crate) fn into_rerun(self, mut text: impl FnMut(&str) -> String) -> Rerun {
        let mut own = |value: Option<Cow<'_, str>>| value.map(|value| text(&value));
        let reason = Reason {
            message: own(self.message),
            kind: own(self.kind),
            details: own(self.details),
        };
        Rerun {
            outcome: match self.outcome {
                Word::Passed => Outcome::Passed,
                Word::Failed => Outcome::Failed(reason),
                Word::Skipped => Outcome::Skipped(reason),
                Word::Error => Outcome::Error(reason),
            },
            duration: self.time.and_then(|time| Duration::try_from_secs_f64(time).ok()),
            stdout: own(self.stdout),
            stderr: own(self.stderr),
        }
    }
}
