//! Errors.

use ostler_domain::SandboxId;
use std::time::Duration;

/// Why something about the network of sandboxes did not work.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// This host cannot have it.
    #[error("this host cannot filter the network of sandboxes: {0}")]
    Cannot(String),
    /// A program failed.
    #[error("{action}: {message}")]
    Failed {
        /// What was tried.
        action: String,
        /// What the program or the kernel said.
        message: String,
    },
    /// A program did not end.
    #[error("{action}: no end within {limit:?}")]
    TimedOut {
        /// What was tried.
        action: String,
        /// How long was waited.
        limit: Duration,
    },
    /// All addresses are in use.
    #[error(
        "all {0} networks for sandboxes are in use: choose a larger range of addresses or run fewer sandboxes"
    )]
    Exhausted(u32),
    /// The sandbox has a network already.
    #[error("the sandbox {0} has a network already")]
    Held(SandboxId),
    /// The traffic is being served already.
    #[error("the proxy and name server of this host network are already being served")]
    Served,
}

impl NetworkError {
    pub(crate) fn io(action: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let action = action.into();
        move |e| Self::Failed {
            action,
            message: e.to_string(),
        }
    }
}
