//! What can go wrong between a caller and the server.

use ostler_contracts::{ErrorCode, ErrorDetail};
use std::error::Error as _;

/// Why a call did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The URL cannot be that of a server.
    #[error("`{url}` cannot be the URL of a server ({reason}); it looks like http://127.0.0.1:7070")]
    Url {
        /// What was given.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The token cannot be sent.
    #[error(
        "the token holds characters that no token has; give it exactly as `ostler token create` showed it"
    )]
    Token,
    /// The tenant cannot be sent.
    #[error("no tenant has such a name; `ostler tenant list` shows those that there are")]
    Tenant,
    /// The HTTP client could not be set up; the certificates of the system may be unreadable.
    #[error("HTTP cannot be used on this machine: {0}")]
    Setup(String),
    /// No connection came about, so nothing has happened.
    #[error(
        "no server answers at {url} ({reason}); start one with `ostler serve`, or name another with --server"
    )]
    Unreachable {
        /// Where the server was looked for.
        url: String,
        /// What the system said.
        reason: String,
    },
    /// The server did not answer in time. What was asked may or may not have been done.
    #[error(
        "the server at {url} did not answer within {seconds} s; look whether the request took effect before repeating it"
    )]
    TimedOut {
        /// Where the server is.
        url: String,
        /// How long was waited.
        seconds: u64,
    },
    /// The connection broke. What was asked may or may not have been done.
    #[error(
        "the connection to {url} broke ({reason}); look whether the request took effect before repeating it"
    )]
    Broken {
        /// Where the server is.
        url: String,
        /// What the system said.
        reason: String,
    },
    /// The server answered with an error.
    #[error("{}", .0.message)]
    Refused(Box<ErrorDetail>),
    /// What answered is no Ostler server, or one of another generation.
    #[error("what answers at {url} is not understood ({reason}); is it an Ostler server of this version?")]
    Foreign {
        /// Where the answer came from.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
}

impl ClientError {
    /// The server's own code, when the server answered.
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Refused(detail) => Some(detail.code),
            _ => None,
        }
    }

    /// Whether the same may well succeed a moment later: while a server restarts, for instance.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::TimedOut { .. } | Self::Broken { .. } => true,
            Self::Refused(detail) => matches!(detail.code, ErrorCode::Unavailable | ErrorCode::RateLimited),
            Self::Url { .. } | Self::Token | Self::Tenant | Self::Setup(_) | Self::Foreign { .. } => false,
        }
    }

    pub(crate) fn transport(error: &reqwest::Error, url: &str, limit: std::time::Duration) -> Self {
        let (url, reason) = (url.to_owned(), innermost(error));
        if error.is_connect() {
            Self::Unreachable { url, reason }
        } else if error.is_timeout() {
            Self::TimedOut {
                url,
                seconds: limit.as_secs(),
            }
        } else {
            Self::Broken { url, reason }
        }
    }
}

/// What the system said, without the layers that only say that something failed.
fn innermost(error: &reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text = inner.to_string();
        source = inner.source();
    }
    text
}
