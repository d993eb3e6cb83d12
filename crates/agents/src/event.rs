//! What agents do, in one vocabulary for all kinds.

use ostler_domain::Usage;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Bytes of text that one event keeps; what is longer is cut and says so. The log has the whole.
pub const MAX_EVENT_TEXT: usize = 256 << 10;

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// The agent.
    Assistant,
    /// The one who asked, or the agent program in that role.
    User,
}

/// One thing that an agent did or met.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
#[non_exhaustive]
pub enum AgentEvent {
    /// The agent program is up.
    SessionStarted {
        /// Its own id for the conversation.
        session: Option<String>,
        /// The model it means to use.
        model: Option<String>,
    },
    /// Something was said.
    Message {
        /// By whom.
        role: Role,
        /// What.
        text: String,
    },
    /// The agent thought aloud.
    Thinking {
        /// What.
        text: String,
    },
    /// The agent uses a tool.
    ToolCall {
        /// Joins the call to its result.
        id: String,
        /// The tool.
        name: String,
        /// Its arguments; a cut text when they are larger than [`MAX_EVENT_TEXT`].
        input: Value,
    },
    /// A tool answered.
    ToolResult {
        /// The call.
        id: String,
        /// Whether it failed.
        is_error: bool,
        /// What it said.
        text: String,
    },
    /// The agent program did not let the agent use a tool.
    PermissionDenied {
        /// The tool.
        tool: String,
        /// Why.
        message: String,
    },
    /// The model's API failed and is asked again.
    Retry {
        /// Number of the retry, from 1.
        attempt: u64,
        /// How many there will be at most, if that is known.
        max_attempts: Option<u64>,
        /// Pause before it, in milliseconds.
        delay_ms: u64,
        /// HTTP status, if there was an answer.
        status: Option<u16>,
        /// What failed.
        reason: String,
    },
    /// What was spent since the last such event.
    Usage {
        /// Tokens and money.
        #[serde(flatten)]
        usage: Usage,
    },
    /// The agent's last word: nothing that matters follows.
    Result {
        /// Whether the agent program calls it a failure.
        is_error: bool,
        /// What it said.
        text: String,
    },
    /// A line that is not what this kind prints.
    Unparsed {
        /// The line.
        line: String,
    },
    /// A line that was longer than [`crate::MAX_LINE`] and was not looked at.
    Skipped {
        /// Its length.
        bytes: u64,
    },
}

/// `text`, cut to [`MAX_EVENT_TEXT`] at a character's border.
pub(crate) fn clip(text: &str) -> String {
    if text.len() <= MAX_EVENT_TEXT {
        return text.to_owned();
    }
    let end = text.floor_char_boundary(MAX_EVENT_TEXT);
    format!("{}\n[{} bytes left out]", &text[..end], text.len() - end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_text_says_how_much_is_missing_and_stays_valid() {
        let text = "é".repeat(MAX_EVENT_TEXT);
        let cut = clip(&text);
        assert!(
            cut.len() < MAX_EVENT_TEXT + 40 && cut.ends_with(&format!("[{MAX_EVENT_TEXT} bytes left out]"))
        );
        assert_eq!(clip("short"), "short");
    }

    #[test]
    fn events_survive_their_json_form() {
        let usage = Usage {
            input_tokens: 3,
            cost_usd: 0.5,
            ..Usage::default()
        };
        let event = AgentEvent::Usage { usage };
        let json = serde_json::to_value(&event).unwrap();
        assert_eq!(json["type"], "usage");
        assert_eq!(json["input_tokens"], 3);
        assert_eq!(serde_json::from_value::<AgentEvent>(json).unwrap(), event);
    }
}
