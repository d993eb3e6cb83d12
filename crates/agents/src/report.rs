//! How a run of an agent ended.

use crate::ResultBlockError;
use ostler_domain::Usage;
use serde_json::Value;

/// How the agent program went away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AgentExit {
    /// It exited with this code.
    Code(i32),
    /// This signal ended it.
    Signal(i32),
    /// It stayed after its last word (see [`crate::OutputParser::ended`]) and was killed for that: no failure.
    Lingered,
}

/// What is known of one run of an agent after its end.
#[derive(Debug, Clone, PartialEq)]
pub struct AgentReport {
    /// Whether both its last word and its exit say success.
    pub success: bool,
    /// What went wrong, in a sentence for people; present exactly when it was no success.
    pub error: Option<String>,
    /// What this run used, without earlier runs of the session.
    pub usage: Usage,
    /// The session, to resume it; none if there is nothing to resume.
    pub session: Option<String>,
    /// The session that was to be resumed does not exist (any more): ask again without it.
    pub session_lost: bool,
    /// What the agent said last; empty if it said nothing.
    pub final_text: String,
    /// The first result block (W14).
    pub result_block: Result<Option<Value>, ResultBlockError>,
    /// Whether the program said its last word. A kind without such an event never does.
    pub saw_result_event: bool,
}

impl AgentExit {
    /// What is wrong with it, if something is.
    pub(crate) fn fault(self) -> Option<String> {
        match self {
            Self::Code(0) | Self::Lingered => None,
            Self::Code(code) => Some(format!("exited with code {code}")),
            Self::Signal(signal) => Some(format!("was ended by signal {signal}")),
        }
    }
}
