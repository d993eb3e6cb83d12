//! Standard output for data, standard error for everything else.

use crate::error::{CliError, Result};
use crate::exit::Exit;
use crate::table::{Colour, Table};
use serde::Serialize;
use std::io::{self, IsTerminal, Write};

/// Where a command writes to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    pub(crate) json: bool,
    pub(crate) colour: Colour,
}

impl Output {
    pub(crate) fn new(json: bool) -> Self {
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
            && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
            && io::stdout().is_terminal();
        Self {
            json,
            colour: if wanted { Colour::On } else { Colour::Off },
        }
    }

    /// Shows one answer: as JSON, or as `text` makes it.
    pub(crate) fn show(self, value: &impl Serialize, text: impl FnOnce() -> String) -> Result<Exit> {
        let text = if self.json {
            let mut text = serde_json::to_string_pretty(value)
                .map_err(io::Error::from)
                .map_err(broken)?;
            text.push('\n');
            text
        } else {
            text()
        };
        self.bytes(text.as_bytes())?;
        Ok(Exit::OK)
    }

    /// Shows a list: as JSON, or as a table with a row of each, or `empty`.
    pub(crate) fn list<T: Serialize, const N: usize>(
        self,
        all: &[T],
        columns: [&'static str; N],
        empty: &str,
        row: impl Fn(&T) -> [String; N],
    ) -> Result<Exit> {
        self.show(&all, || {
            let mut table = Table::new(columns, self.colour);
            for one in all {
                table.row(row(one));
            }
            table.or_empty(empty)
        })
    }

    /// Says that something without an answer of its own is done.
    pub(crate) fn done(self, id: &impl std::fmt::Display, verb: &str) -> Result<Exit> {
        let id = id.to_string();
        self.show(&serde_json::json!({ "id": id, "done": verb }), || {
            format!("{id} {verb}\n")
        })
    }

    /// One JSON value on a line of its own, for streams.
    pub(crate) fn line(self, value: &impl Serialize) -> Result<()> {
        let mut text = serde_json::to_string(value)
            .map_err(io::Error::from)
            .map_err(broken)?;
        text.push('\n');
        self.bytes(text.as_bytes())
    }

    /// Exactly these bytes, at once.
    #[expect(
        clippy::unused_self,
        reason = "the one way to standard output is through here"
    )]
    pub(crate) fn bytes(self, bytes: &[u8]) -> Result<()> {
        let mut out = io::stdout().lock();
        out.write_all(bytes).and_then(|()| out.flush()).map_err(broken)
    }

    /// Exactly these bytes to standard error.
    #[expect(clippy::unused_self, reason = "the pair of `bytes`")]
    pub(crate) fn error_bytes(self, bytes: &[u8]) {
        // Whoever has closed standard error does not want to know.
        let _ = io::stderr().write_all(bytes);
    }

    /// What a person may want to know and a program does not.
    pub(crate) fn note(self, text: &str) {
        self.error_bytes(format!("{text}\n").as_bytes());
    }
}

fn broken(error: io::Error) -> CliError {
    if error.kind() == io::ErrorKind::BrokenPipe {
        CliError::ClosedPipe
    } else {
        CliError::Write(error)
    }
}
