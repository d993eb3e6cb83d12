//! Scripts: what the model answers, decided from the conversation alone.
//!
//! A script keeps no position. It counts the answers already in the conversation it is shown, so retried requests,
//! several agents at once and a restart of the fake itself all get the answer that fits their conversation.

use super::{Request, Turn};

/// Decides the model's reaction to a request.
pub trait Script: Send + Sync + 'static {
    /// The reaction to one request for a message. Called on the server's thread: must not block.
    fn turn(&self, request: &Request) -> Turn;
}

impl<F: Fn(&Request) -> Turn + Send + Sync + 'static> Script for F {
    fn turn(&self, request: &Request) -> Turn {
        self(request)
    }
}

/// The steps of one conversation: one model answer each. After the last step the model says "Done.".
///
/// Requests that offer no `Bash` tool are side calls of the agent program (a title for the session, a check that the
/// API answers): they get a short text. A prompt that the conversation is not about is answered with HTTP 400 that
/// quotes it, so that a mistake in a test is seen at once.
pub struct Conversation {
    about: String,
    steps: Vec<Turn>,
}

impl Conversation {
    /// The conversation whose current prompt (see [`Request::prompt`]) contains `about`.
    pub fn about(about: impl Into<String>) -> Self {
        Self {
            about: about.into(),
            steps: Vec::new(),
        }
    }

    /// Next: run a command with the `Bash` tool.
    #[must_use]
    pub fn bash(self, command: impl Into<String>) -> Self {
        self.turn(Turn::bash(command))
    }

    /// Next: say this. The agent's turn ends here.
    #[must_use]
    pub fn say(self, text: impl Into<String>) -> Self {
        self.turn(Turn::text(text))
    }

    /// Next: this reaction. An error or a hang is met again on each retry, since it adds no answer.
    #[must_use]
    pub fn turn(mut self, turn: Turn) -> Self {
        self.steps.push(turn);
        self
    }
}

impl Script for Conversation {
    fn turn(&self, request: &Request) -> Turn {
        if is_side_call(request) {
            return Turn::side_answer();
        }
        let prompt = request.prompt();
        if !prompt.contains(&self.about) {
            return Turn::http_error(400, format!("no scripted conversation for the prompt: {prompt}"));
        }
        let step = self.steps.get(request.answers());
        step.cloned().unwrap_or_else(|| Turn::text("Done."))
    }
}

/// Whether the agent program asks for itself: a title for the session, a check that the API answers.
pub(super) fn is_side_call(request: &Request) -> bool {
    !request.offers("Bash")
}

/// As one word of a shell command, whatever is in it.
pub(super) fn shell_quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}
