//! What can go wrong between this driver and Firecracker.

use std::io;
use std::path::Path;
use std::time::Duration;

/// Why a step failed; becomes the message of a `DriverError`.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// A file, a process or a socket.
    #[error("{what}: {error}")]
    Io { what: String, error: io::Error },
    /// Firecracker answered with an error.
    #[error("Firecracker refused {method} {path} with status {status}: {fault}")]
    Refused {
        method: &'static str,
        path: String,
        status: u16,
        /// Its `fault_message`.
        fault: String,
    },
    /// Firecracker did not answer in time.
    #[error("Firecracker did not answer {method} {path} within {limit:?}")]
    Silent {
        method: &'static str,
        path: String,
        limit: Duration,
    },
    /// The conversation broke.
    #[error("Firecracker cannot be asked for {method} {path}: {why}")]
    Broken {
        method: &'static str,
        path: String,
        why: String,
    },
    /// The process ended while it was needed.
    #[error("Firecracker ended at once{}", said(console))]
    Ended { console: String },
    /// Anything else, in a sentence.
    #[error("{0}")]
    Other(String),
}

fn said(console: &str) -> String {
    if console.is_empty() {
        " and said nothing".to_owned()
    } else {
        format!(": {console}")
    }
}

/// Names the file of an I/O error.
pub(crate) trait At<T> {
    fn at(self, path: &Path) -> Result<T, Error>;
    fn doing(self, what: &str) -> Result<T, Error>;
}

impl<T> At<T> for io::Result<T> {
    fn at(self, path: &Path) -> Result<T, Error> {
        self.doing(&path.display().to_string())
    }

    fn doing(self, what: &str) -> Result<T, Error> {
        self.map_err(|error| Error::Io {
            what: what.to_owned(),
            error,
        })
    }
}
