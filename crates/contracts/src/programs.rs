//! Programs in agents, and their terminals.

use crate::{ExecEnd, Time};
use ostler_domain::DriverKind;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A program that was started in an agent. The agent keeps the output of those that run and of the last ones that ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ExecView {
    /// Id.
    pub exec_id: String,
    /// Program and arguments, cut off after 4 KiB.
    pub command: Vec<String>,
    /// Whether it has a terminal.
    pub terminal: bool,
    /// Whether it runs.
    pub running: bool,
    /// Number of its last piece of output.
    pub last_seq: u64,
    /// When it was started, by the sandbox's clock.
    #[schema(value_type = String, format = DateTime)]
    pub started_at: Time,
    /// How it ended, once it has.
    pub end: Option<ExecEnd>,
}

/// The first event of a stream of output: what is needed to read on after a lost connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ExecStarted {
    /// Id.
    pub exec_id: String,
}

/// Keeps the state of an agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SnapshotAgent {
    /// Name, by which a pool starts from it: lower-case letters, digits and single hyphens.
    pub name: String,
}

/// The kept state of an agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SnapshotView {
    /// The driver that keeps it, and of which a pool must be to start from it.
    #[schema(value_type = String)]
    pub driver: DriverKind,
    /// Name, unique among those of its driver.
    pub name: String,
    /// The pools that start from it.
    pub pools: Vec<String>,
}

/// A text message to a terminal; what is typed is sent as binary messages.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum TerminalOrder {
    /// The window has another size.
    Resize {
        /// Rows.
        rows: u32,
        /// Columns.
        columns: u32,
    },
    /// A signal for what runs in the foreground, by name without `SIG`, such as `INT`.
    Signal(String),
    /// Nothing more will be typed.
    EndOfInput {},
    /// End the program with all of its children, now.
    HangUp {},
}

/// A text message from a terminal; what the program shows comes as binary messages, one for each numbered piece.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum TerminalNews {
    /// The first message.
    Started {
        /// Id, by which the terminal is attached to again.
        exec_id: String,
        /// Number of the piece that the next binary message holds; each one after it is one higher.
        next_seq: u64,
    },
    /// Pieces up to this number were not read in time and are gone; the next binary message is the one after.
    Dropped {
        /// Number.
        up_to: u64,
    },
    /// The program has ended, or what became of it is not known; the last message.
    Exit(ExecEnd),
    /// The terminal is closed here, and why; what runs in it goes on for a minute.
    Closed {
        /// In words.
        reason: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_look_as_documented() {
        for (order, text) in [
            (
                TerminalOrder::Resize { rows: 1, columns: 2 },
                r#"{"resize":{"rows":1,"columns":2}}"#,
            ),
            (TerminalOrder::Signal("INT".into()), r#"{"signal":"INT"}"#),
            (TerminalOrder::EndOfInput {}, r#"{"end_of_input":{}}"#),
            (TerminalOrder::HangUp {}, r#"{"hang_up":{}}"#),
        ] {
            assert_eq!(serde_json::to_string(&order).unwrap(), text);
            assert_eq!(serde_json::from_str::<TerminalOrder>(text).unwrap(), order);
        }
        let exit = TerminalNews::Exit(ExecEnd {
            exit_code: Some(3),
            ..ExecEnd::default()
        });
        assert_eq!(
            serde_json::to_string(&exit).unwrap(),
            r#"{"exit":{"exit_code":3,"signal":null,"timed_out":false,"error":null}}"#
        );
    }
}
