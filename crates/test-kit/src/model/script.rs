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

type Step = Box<dyn Fn(&Request) -> Turn + Send + Sync>;
type Matcher = Box<dyn Fn(&Request) -> bool + Send + Sync>;

/// The steps of one conversation: one model answer each. After the last step the model says "Done.".
pub struct Conversation {
    applies: Matcher,
    steps: Vec<Step>,
}

impl Conversation {
    /// The conversation whose current prompt (see [`Request::prompt`]) contains `needle`.
    pub fn about(needle: impl Into<String>) -> Self {
        let needle = needle.into();
        Self::when(move |request| request.prompt().contains(&needle))
    }

    /// The conversations for which `applies` holds.
    pub fn when(applies: impl Fn(&Request) -> bool + Send + Sync + 'static) -> Self {
        Self {
            applies: Box::new(applies),
            steps: Vec::new(),
        }
    }

    /// Next: run a command with the `Bash` tool.
    #[must_use]
    pub fn bash(self, command: impl Into<String>) -> Self {
        self.turn(Turn::bash(command))
    }

    /// Next: run a command computed from the conversation so far, for example from [`Request::last_result`].
    #[must_use]
    pub fn bash_with(self, command: impl Fn(&Request) -> String + Send + Sync + 'static) -> Self {
        self.turn_with(move |request| Turn::bash(command(request)))
    }

    /// Next: say this. The agent's turn ends here.
    #[must_use]
    pub fn say(self, text: impl Into<String>) -> Self {
        self.turn(Turn::text(text))
    }

    /// Next: this reaction. An error or a hang is met again on each retry, since it adds no answer.
    #[must_use]
    pub fn turn(self, turn: Turn) -> Self {
        self.turn_with(move |_| turn.clone())
    }

    /// Next: a reaction computed from the conversation so far.
    #[must_use]
    pub fn turn_with(mut self, step: impl Fn(&Request) -> Turn + Send + Sync + 'static) -> Self {
        self.steps.push(Box::new(step));
        self
    }
}

/// Several conversations; the first that applies decides.
///
/// Requests that offer no `Bash` tool are side calls of the agent program (a title for the session, a check that the
/// API answers): they get a short text and no conversation sees them. A prompt no conversation applies to is answered
/// with HTTP 400 that quotes it, so that a mistake in a test is seen at once.
#[derive(Default)]
pub struct Conversations(Vec<Conversation>);

impl Conversations {
    /// No conversations yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds one, after those added before.
    #[must_use]
    pub fn with(mut self, conversation: Conversation) -> Self {
        self.0.push(conversation);
        self
    }
}

impl Script for Conversations {
    fn turn(&self, request: &Request) -> Turn {
        answer(&self.0, request)
    }
}

impl Script for Conversation {
    fn turn(&self, request: &Request) -> Turn {
        answer(std::slice::from_ref(self), request)
    }
}

fn answer(conversations: &[Conversation], request: &Request) -> Turn {
    if is_side_call(request) {
        return Turn::side_answer();
    }
    let Some(conversation) = conversations
        .iter()
        .find(|conversation| (conversation.applies)(request))
    else {
        return Turn::http_error(
            400,
            format!("no scripted conversation for the prompt: {}", request.prompt()),
        );
    };
    conversation
        .steps
        .get(request.answers())
        .map_or_else(|| Turn::text("Done."), |step| step(request))
}

/// Whether the agent program asks for itself: a title for the session, a check that the API answers.
pub(super) fn is_side_call(request: &Request) -> bool {
    !request.offers("Bash")
}

/// As one word of a shell command, whatever is in it.
pub(super) fn shell_quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}
