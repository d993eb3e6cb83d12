//! What the scripted model does with one request.

use serde_json::{Value, json};

/// A call of one of the agent program's tools.
#[derive(Debug, Clone)]
pub(super) struct ToolCall {
    /// The tool's name as the program offered it, for example `Bash`.
    pub(super) name: String,
    /// Its input; must fit the schema the program offered.
    pub(super) input: Value,
}

/// The model's reaction to one request.
#[derive(Debug, Clone)]
pub struct Turn(pub(super) Reaction);

#[derive(Debug, Clone)]
pub(super) enum Reaction {
    Answer {
        text: Option<String>,
        call: Option<ToolCall>,
    },
    HttpError {
        status: u16,
        kind: &'static str,
        message: String,
    },
    Hang,
}

impl Turn {
    /// An answer of text only: ends the agent's turn.
    pub fn text(text: impl Into<String>) -> Self {
        Self(Reaction::Answer {
            text: Some(text.into()),
            call: None,
        })
    }

    /// An answer that calls one tool.
    pub fn tool(name: impl Into<String>, input: Value) -> Self {
        let call = ToolCall {
            name: name.into(),
            input,
        };
        Self(Reaction::Answer {
            text: None,
            call: Some(call),
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
        Self(Reaction::HttpError {
            status,
            kind,
            message: message.into(),
        })
    }

    /// Never answers; ends when the client goes away or the server stops.
    pub fn hang() -> Self {
        Self(Reaction::Hang)
    }

    /// Adds text before the tool call. No effect on anything but an answer.
    #[must_use]
    pub fn with_text(mut self, more: impl Into<String>) -> Self {
        if let Reaction::Answer { text, .. } = &mut self.0 {
            *text = Some(more.into());
        }
        self
    }

    /// What side calls get.
    pub(super) fn side_answer() -> Self {
        Self::text(r#"{"title": "A scripted session"}"#)
    }
}
