//! What an agent kind is.

use crate::{AgentError, OutputParser};
use ostler_domain::{CommandSpec, Usage};
use std::collections::BTreeMap;
use std::fmt;

/// The API by which an agent program reaches its model; it decides which upstream of the gateway it is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ModelApi {
    /// Anthropic's Messages API.
    Anthropic,
    /// OpenAI's Responses API.
    OpenAi,
    /// Google's Gemini API.
    Gemini,
}

/// Where an agent finds its model API, and what it shows there.
#[derive(Clone, Copy)]
pub struct ApiAccess<'a> {
    /// Base URL, without a slash at the end.
    pub base_url: &'a str,
    /// The run's own token, worth nothing anywhere but at the gateway.
    pub token: &'a str,
}

impl fmt::Debug for ApiAccess<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiAccess")
            .field("base_url", &self.base_url)
            .finish_non_exhaustive()
    }
}

/// One call of an agent.
#[derive(Debug, Clone, Copy)]
pub struct AgentInvocation<'a> {
    /// What it is asked; of any length.
    pub prompt: &'a str,
    /// The conversation to go on with, by the agent program's own id.
    pub resume: Option<&'a str>,
    /// The model, in the agent program's own words; its default when absent.
    pub model: Option<&'a str>,
    /// The model API; the program's own sign-in when absent.
    pub api: Option<ApiAccess<'a>>,
    /// Absolute path of the workspace in the sandbox.
    pub workspace: &'a str,
    /// What the program and its children may know of their run, such as `OSTLER_TASK_ID`. Never a secret.
    pub env: &'a BTreeMap<String, String>,
}

/// A kind of agent program: how it is called and how its output is read.
pub trait AgentKind: Send + Sync {
    /// Its name in settings, requests and the database, such as `claude`.
    fn name(&self) -> &'static str;

    /// Its name for people.
    fn title(&self) -> &'static str;

    /// The program that must be in the sandbox; none as long as none is set.
    fn program(&self) -> Option<&str>;

    /// How a person gets the program, a command where there is one.
    fn install_hint(&self) -> &'static str;

    /// The file in a repository from which it reads standing instructions; none if it reads none.
    fn instruction_file(&self) -> Option<&'static str>;

    /// The API of its model; none if Ostler does not know one.
    fn model_api(&self) -> Option<ModelApi>;

    /// Paths relative to the home directory that must be carried to another sandbox, at any workspace path, so that a
    /// conversation can be resumed there. Empty if the kind cannot resume.
    fn session_paths(&self) -> &'static [&'static str];

    /// The program to start.
    fn command(&self, invocation: &AgentInvocation<'_>) -> Result<CommandSpec, AgentError>;

    /// A parser for what one run of it prints on standard output.
    ///
    /// `previous` is the sum of the usage of all earlier runs of the session that is resumed, zero for a new session:
    /// some programs report totals of the session, and the parser gives the part of this run.
    fn parser(&self, previous: Usage) -> Box<dyn OutputParser>;
}

/// Whether `text` can be a session id. Ids come out of sandboxes and go into argument lists, so nothing that could be
/// read as an option or a path is one.
pub fn is_session_id(text: &str) -> bool {
    (1..=128).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
        && text.as_bytes()[0].is_ascii_alphanumeric()
}

/// Refuses what cannot be one argument of its own.
pub(crate) fn check_argument(what: &'static str, value: &str) -> Result<(), AgentError> {
    let reason = if value.is_empty() {
        "it is empty"
    } else if value.starts_with('-') {
        "it begins like an option"
    } else if value.chars().any(char::is_control) {
        "it holds control characters"
    } else if value.len() > 256 {
        "it is longer than 256 bytes"
    } else {
        return Ok(());
    };
    Err(AgentError::BadArgument {
        what,
        value: value.chars().take(256).collect(),
        reason,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn session_ids_cannot_be_options_or_paths() {
        for good in ["11111111-2222-4333-8444-555555555555", "ses_0a", "a.b"] {
            assert!(is_session_id(good), "{good}");
        }
        for bad in [
            "",
            "-r",
            "--resume",
            "../x",
            "a/b",
            "a b",
            "a\n",
            ".hidden",
            &"x".repeat(129),
        ] {
            assert!(!is_session_id(bad), "{bad}");
        }
    }

    #[test]
    fn the_token_is_not_shown() {
        let api = ApiAccess {
            base_url: "http://gateway",
            token: "planted-secret",
        };
        assert!(!format!("{api:?}").contains("planted"));
    }
}
