//! What the scripted model does with one request.

use std::time::Duration;

use serde_json::{Value, json};

/// Token counts reported with an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Input tokens that were neither read from nor written to the prompt cache.
    pub input: u64,
    /// Output tokens.
    pub output: u64,
    /// Input tokens written to the prompt cache.
    pub cache_write: u64,
    /// Input tokens read from the prompt cache.
    pub cache_read: u64,
}

impl Default for Usage {
    fn default() -> Self {
        Self {
            input: 100,
            output: 20,
            cache_write: 0,
            cache_read: 0,
        }
    }
}

/// A call of one of the agent program's tools.
#[derive(Debug, Clone, PartialEq)]
pub struct ToolCall {
    /// The tool's name as the program offered it, for example `Bash`.
    pub name: String,
    /// Its input; must fit the schema the program offered.
    pub input: Value,
}

/// The model's reaction to one request.
#[derive(Debug, Clone, PartialEq)]
pub struct Turn {
    pub(super) delay: Duration,
    pub(super) reaction: Reaction,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Reaction {
    Answer {
        text: Option<String>,
        calls: Vec<ToolCall>,
        usage: Usage,
    },
    HttpError {
        status: u16,
        kind: String,
        message: String,
    },
    Hang,
    Drop,
    DropMidway,
}

impl Turn {
    /// An answer of text only: ends the agent's turn.
    pub fn text(text: impl Into<String>) -> Self {
        Self::of(Reaction::Answer {
            text: Some(text.into()),
            calls: Vec::new(),
            usage: Usage::default(),
        })
    }

    /// An answer that calls one tool.
    pub fn tool(name: impl Into<String>, input: Value) -> Self {
        let calls = vec![ToolCall {
            name: name.into(),
            input,
        }];
        Self::of(Reaction::Answer {
            text: None,
            calls,
            usage: Usage::default(),
        })
    }

    /// An answer that runs a command with the `Bash` tool.
    pub fn bash(command: impl Into<String>) -> Self {
        Self::tool(
            "Bash",
            json!({"command": command.into(), "description": "A scripted step"}),
        )
    }

    /// An HTTP error with the API's own error body. 529 is "overloaded"; the program retries 429 and 5xx.
    pub fn http_error(status: u16, message: impl Into<String>) -> Self {
        let kind = match status {
            400 => "invalid_request_error",
            401 => "authentication_error",
            403 => "permission_error",
            404 => "not_found_error",
            413 => "request_too_large",
            429 => "rate_limit_error",
            529 => "overloaded_error",
            _ => "api_error",
        };
        Self::of(Reaction::HttpError {
            status,
            kind: kind.to_owned(),
            message: message.into(),
        })
    }

    /// Never answers; ends when the client goes away or the server stops.
    pub fn hang() -> Self {
        Self::of(Reaction::Hang)
    }

    /// Closes the connection without a usable answer.
    pub fn drop_connection() -> Self {
        Self::of(Reaction::Drop)
    }

    /// Begins a streamed answer, then closes the connection in the middle of it.
    pub fn drop_midway() -> Self {
        Self::of(Reaction::DropMidway)
    }

    /// Adds text before the tool calls. No effect on anything but an answer.
    #[must_use]
    pub fn with_text(mut self, more: impl Into<String>) -> Self {
        if let Reaction::Answer { text, .. } = &mut self.reaction {
            *text = Some(more.into());
        }
        self
    }

    /// Adds a tool call. No effect on anything but an answer.
    #[must_use]
    pub fn with_tool(mut self, name: impl Into<String>, input: Value) -> Self {
        if let Reaction::Answer { calls, .. } = &mut self.reaction {
            calls.push(ToolCall {
                name: name.into(),
                input,
            });
        }
        self
    }

    /// Sets the reported token counts. No effect on anything but an answer.
    #[must_use]
    pub fn with_usage(mut self, reported: Usage) -> Self {
        if let Reaction::Answer { usage, .. } = &mut self.reaction {
            *usage = reported;
        }
        self
    }

    /// Waits before reacting.
    #[must_use]
    pub fn after(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    /// What side calls get.
    pub(super) fn side_answer() -> Self {
        Self::text(r#"{"title": "A scripted session"}"#)
    }

    fn of(reaction: Reaction) -> Self {
        Self {
            delay: Duration::ZERO,
            reaction,
        }
    }
}
