//! What can go wrong with a machine.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Why something could not be done with a machine. The sandbox is named by whoever reports it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// A file or directory.
    #[error("{}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A system call without a file.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// QEMU refused a command.
    #[error("QEMU does not do `{command}`: {message}")]
    Refused {
        /// The command.
        command: String,
        /// What QEMU said.
        message: String,
    },
    /// It took too long.
    #[error("{what} took longer than {limit:?}")]
    TimedOut {
        /// What was waited for.
        what: &'static str,
        /// How long.
        limit: Duration,
    },
    /// Anything else, in words.
    #[error("{0}")]
    Other(String),
}

/// Adds the file that an error is about.
pub(crate) trait At<T> {
    fn at(self, path: &Path) -> Result<T, Error>;
}

impl<T> At<T> for io::Result<T> {
    fn at(self, path: &Path) -> Result<T, Error> {
        self.map_err(|source| Error::File {
            path: path.to_owned(),
            source,
        })
    }
}

/// Adds what was tried where there is no file.
pub(crate) trait Doing<T> {
    fn doing(self, what: &'static str) -> Result<T, Error>;
}

impl<T, E: Into<io::Error>> Doing<T> for Result<T, E> {
    fn doing(self, what: &'static str) -> Result<T, Error> {
        self.map_err(|source| Error::System {
            what,
            source: source.into(),
        })
    }
}
