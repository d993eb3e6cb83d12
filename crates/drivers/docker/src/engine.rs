//! The connection to the engine: every call has a time-out, and errors say what to do.

use bollard::Docker;
use bollard::errors::Error;
use ostler_domain::{DriverKind, SandboxId};
use ostler_sandbox::DriverError;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub(crate) const KIND: DriverKind = DriverKind::Docker;

/// Longest wait for any answer but the creation of a container.
pub(crate) const CALL_LIMIT: Duration = Duration::from_secs(30);
/// Creating and removing may unpack or delete many layers.
pub(crate) const SLOW_LIMIT: Duration = Duration::from_secs(120);

#[derive(Debug, Clone)]
pub(crate) struct Engine {
    pub(crate) api: Docker,
    pub(crate) url: String,
    pub(crate) socket: PathBuf,
}

/// What went wrong in a call.
#[derive(Debug)]
pub(crate) enum CallError {
    /// The engine knows no such thing.
    Missing(String),
    /// It is so already.
    Unchanged,
    /// Another call is at it.
    Conflict(String),
    /// The engine cannot be reached.
    Unreachable(String),
    /// No answer in time.
    TimedOut(Duration),
    /// The engine refused.
    Refused(String),
}

impl Engine {
    pub(crate) async fn connect(url: &str) -> Result<Self, DriverError> {
        let Some(path) = url.strip_prefix("unix://") else {
            return Err(DriverError::Unavailable {
                driver: KIND,
                message: format!("`{url}` is not the socket of an engine on this host: give `unix://PATH`"),
            });
        };
        let fail = |e: CallError| e.unavailable(url);
        let api = Docker::connect_with_socket(url, SLOW_LIMIT.as_secs(), bollard::API_DEFAULT_VERSION)
            .map_err(|e| fail(e.into()))?;
        let api = call(CALL_LIMIT, api.negotiate_version()).await.map_err(fail)?;
        Ok(Self {
            api,
            url: url.to_owned(),
            socket: Path::new(path).to_owned(),
        })
    }

    /// The driver's error for a failed call.
    pub(crate) fn error(&self, error: CallError, action: &'static str, id: SandboxId) -> DriverError {
        match error {
            CallError::Missing(_) => DriverError::NotFound { driver: KIND, id },
            CallError::TimedOut(limit) => DriverError::TimedOut {
                driver: KIND,
                action,
                id,
                limit,
            },
            error @ CallError::Unreachable(_) => error.unavailable(&self.url),
            CallError::Unchanged => failed(action, id, "it is so already"),
            CallError::Conflict(message) | CallError::Refused(message) => failed(action, id, message),
        }
    }
}

pub(crate) fn failed(action: &'static str, id: SandboxId, message: impl std::fmt::Display) -> DriverError {
    DriverError::Failed {
        driver: KIND,
        action,
        id,
        message: message.to_string(),
    }
}

/// Waits for an answer, at most `limit`.
pub(crate) async fn call<T>(
    limit: Duration,
    request: impl Future<Output = Result<T, Error>>,
) -> Result<T, CallError> {
    match tokio::time::timeout(limit, request).await {
        Ok(answer) => answer.map_err(CallError::from),
        Err(_) => Err(CallError::TimedOut(limit)),
    }
}

impl CallError {
    pub(crate) fn unavailable(self, url: &str) -> DriverError {
        let message = match self {
            Self::Unreachable(why) => format!(
                "the engine at {url} cannot be reached ({why}): start it (`systemctl start docker`), or give this \
                 user access to its socket"
            ),
            Self::TimedOut(limit) => {
                format!("the engine at {url} did not answer within {limit:?}: restart it")
            }
            Self::Unchanged => format!("the engine at {url} gave an unexpected answer"),
            Self::Missing(why) | Self::Conflict(why) | Self::Refused(why) => {
                format!("the engine at {url}: {why}")
            }
        };
        DriverError::Unavailable {
            driver: KIND,
            message,
        }
    }
}

impl From<Error> for CallError {
    fn from(error: Error) -> Self {
        match error {
            Error::DockerResponseServerError { status_code, message } => match status_code {
                304 => Self::Unchanged,
                404 => Self::Missing(message),
                409 => Self::Conflict(message),
                _ => Self::Refused(message),
            },
            Error::RequestTimeoutError => Self::TimedOut(SLOW_LIMIT),
            error @ (Error::JsonDataError { .. }
            | Error::APIVersionParseError {}
            | Error::DockerStreamError { .. }) => Self::Refused(error.to_string()),
            other => Self::Unreachable(chain(&other)),
        }
    }
}

/// An error with its causes, of which only the innermost says what happened.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}
