//! Why a command did not succeed.

use crate::exit::Exit;
use ostler_client::ClientError;
use ostler_contracts::ErrorCode;
use std::io;
use std::path::PathBuf;

/// Why a command did not succeed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("no server is known: {} is not there. Start one with `ostler serve`, or name one with --server URL", .0.display())]
    NoServer(PathBuf),
    #[error("{} cannot be used ({reason}); start the server again with `ostler serve`, or name one with --server URL", path.display())]
    ConnectionFile { path: PathBuf, reason: String },
    #[error("there is no {what} `{text}`; `ostler {list}` shows them")]
    NotFound {
        what: &'static str,
        text: String,
        list: &'static str,
    },
    #[error("`{text}` can be more than one {what}: {candidates}; write more of it")]
    Ambiguous {
        what: &'static str,
        text: String,
        candidates: String,
    },
    #[error("{0}")]
    Usage(String),
    #[error("{0}")]
    Failed(String),
    #[error("cannot read {what}: {source}")]
    Read { what: String, source: io::Error },
    #[error("cannot write the output: {0}")]
    Write(io::Error),
    /// Nobody reads the output any more.
    #[error("nobody reads the output any more")]
    ClosedPipe,
}

pub(crate) type Result<T> = std::result::Result<T, CliError>;

impl CliError {
    /// The code to end with.
    pub(crate) fn exit(&self) -> Exit {
        match self {
            Self::Client(error) => match error {
                ClientError::Refused(detail) => Exit::of_error(detail.code),
                ClientError::Url { .. } | ClientError::Token | ClientError::Tenant => Exit::USAGE,
                ClientError::Unreachable { .. }
                | ClientError::TimedOut { .. }
                | ClientError::Broken { .. }
                | ClientError::Foreign { .. } => Exit::UNAVAILABLE,
                ClientError::Setup(_) => Exit::FAILED,
            },
            Self::NoServer(_) | Self::ConnectionFile { .. } => Exit::UNAVAILABLE,
            Self::NotFound { .. } => Exit::NOT_FOUND,
            Self::Ambiguous { .. } | Self::Usage(_) | Self::Read { .. } => Exit::USAGE,
            Self::Failed(_) | Self::Write(_) => Exit::FAILED,
            Self::ClosedPipe => Exit::OK,
        }
    }

    /// For programs: the shape of the server's own errors.
    pub(crate) fn as_json(&self) -> serde_json::Value {
        let detail = match self {
            Self::Client(ClientError::Refused(detail)) => serde_json::json!(detail),
            other => {
                let code = match other.exit() {
                    Exit::USAGE => Some(ErrorCode::InvalidRequest),
                    Exit::NOT_FOUND => Some(ErrorCode::NotFound),
                    Exit::UNAVAILABLE => Some(ErrorCode::Unavailable),
                    _ => None,
                };
                serde_json::json!({ "code": code, "message": other.to_string() })
            }
        };
        serde_json::json!({ "error": detail })
    }

    /// For people.
    pub(crate) fn as_text(&self) -> String {
        let text = format!("error: {self}");
        match self {
            Self::Client(ClientError::Refused(detail)) => match detail.code {
                ErrorCode::Internal => format!("{text} (request {})", detail.request_id),
                ErrorCode::Unauthorized => {
                    format!(
                        "{text}\n  a token is taken from --token, OSTLER_TOKEN or the data directory of the server"
                    )
                }
                _ => text,
            },
            _ => text,
        }
    }
}
