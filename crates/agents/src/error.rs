//! What can go wrong before an agent runs.

/// An agent cannot be asked, and why.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AgentError {
    /// No agent kind has that name.
    #[error("there is no agent kind `{name}`; known: {}", known.join(", "))]
    UnknownKind {
        /// The name that was given.
        name: String,
        /// The names that would have been understood.
        known: Vec<String>,
    },
    /// The kind needs a setting that is absent.
    #[error("the agent kind `{kind}` is not set up: {todo}")]
    NotConfigured {
        /// The kind.
        kind: String,
        /// What to do.
        todo: String,
    },
    /// A value would be read by the agent program as something else than what it is.
    #[error("{what} `{value}` cannot be given to the agent program: {reason}")]
    BadArgument {
        /// What the value is.
        what: &'static str,
        /// The value.
        value: String,
        /// Why it is refused.
        reason: &'static str,
    },
    /// A template has a mistake, or names something that is not there.
    #[error("the prompt template `{name}` is wrong: {}", chain(source))]
    Template {
        /// The template's file name.
        name: String,
        /// What is wrong, with the line.
        source: minijinja::Error,
    },
}

fn chain(error: &minijinja::Error) -> String {
    use std::error::Error as _;
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(next) = source {
        text.push_str(": ");
        text.push_str(&next.to_string());
        source = next.source();
    }
    text
}
