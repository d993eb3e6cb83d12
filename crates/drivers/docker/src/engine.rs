//! The connection to the engine: every call has a time-out, and errors say what to do.

use crate::address::Address;
use crate::options::DockerOptions;
use crate::ssh::Ssh;
use crate::transport::{self, Port};
use bollard::Docker;
use bollard::errors::Error;
use ostler_domain::{DriverKind, SandboxId};
use ostler_sandbox::DriverError;
use rustls::CertificateError;
use std::path::PathBuf;
use std::time::Duration;

pub(crate) const KIND: DriverKind = DriverKind::Docker;

/// Longest wait for any answer but the creation of a container.
pub(crate) const CALL_LIMIT: Duration = Duration::from_secs(30);
/// Creating and removing may unpack or delete many layers.
pub(crate) const SLOW_LIMIT: Duration = Duration::from_secs(120);

#[derive(Clone)]
pub(crate) struct Engine {
    pub(crate) api: Docker,
    pub(crate) url: String,
    /// Its socket, if it has one on this host.
    pub(crate) socket: Option<PathBuf>,
    /// Its port, if it has one.
    pub(crate) port: Option<Port>,
    /// Whether it does not see this host's directories.
    pub(crate) remote: bool,
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
    /// One of the two ends does not believe the other's certificate: why, and what to do.
    Untrusted(String),
    /// No answer in time.
    TimedOut(Duration),
    /// The engine refused.
    Refused(String),
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine")
            .field("url", &self.url)
            .finish_non_exhaustive()
    }
}

impl Engine {
    pub(crate) async fn connect(options: &DockerOptions) -> Result<Self, DriverError> {
        let unavailable = |message| DriverError::Unavailable {
            driver: KIND,
            message,
        };
        let url = &options.engine;
        let (made, socket, port) = match Address::of(options).map_err(unavailable)? {
            Address::Socket(path) => {
                let made =
                    Docker::connect_with_socket(url, SLOW_LIMIT.as_secs(), bollard::API_DEFAULT_VERSION);
                (made, Some(path), None)
            }
            Address::Port { host, port, tls } => {
                let tls = tls
                    .map(|files| transport::tls(&files).map(Into::into))
                    .transpose()
                    .map_err(unavailable)?;
                let port = Port {
                    host,
                    number: port,
                    tls,
                };
                (port.client(SLOW_LIMIT), None, Some(port))
            }
            Address::Ssh(destination) => (Ssh::new(destination).client(SLOW_LIMIT), None, None),
        };
        let mut engine = Self {
            remote: options.remote.unwrap_or(socket.is_none()),
            api: made.map_err(|e| CallError::from(e).at(url))?,
            url: url.clone(),
            socket,
            port,
        };
        if let Some(port) = &engine.port
            && let Err(error) = port.greet().await
            && let Some(cause) = tls_cause(&error)
        {
            return Err(engine.unavailable(CallError::Untrusted(distrust(cause))));
        }
        engine.api = call(CALL_LIMIT, engine.api.clone().negotiate_version())
            .await
            .map_err(|e| engine.unavailable(e))?;
        Ok(engine)
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
            error @ (CallError::Unreachable(_) | CallError::Untrusted(_)) => self.unavailable(error),
            CallError::Unchanged => failed(action, id, "it is so already"),
            CallError::Conflict(message) | CallError::Refused(message) => failed(action, id, message),
        }
    }

    /// The driver's error for a failed call that is about no sandbox.
    pub(crate) fn unavailable(&self, error: CallError) -> DriverError {
        error.at(&self.url)
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
    fn at(self, url: &str) -> DriverError {
        let message = match self {
            Self::Unreachable(why) if url.starts_with("ssh:") => format!(
                "the engine at {url} cannot be reached ({why}): see that `docker -H {url} version` works for the user of \
                 this server and asks nothing: the machine's key must be in ~/.ssh/known_hosts, this user's accepted \
                 there, and `docker` installed there"
            ),
            Self::Unreachable(why) if url.starts_with("unix:") => format!(
                "the engine at {url} cannot be reached ({why}): start it (`systemctl start docker`), or give this \
                 user access to its socket"
            ),
            Self::Unreachable(why) => format!(
                "the engine at {url} cannot be reached ({why}): see that its host is up, that it listens there \
                 (`dockerd -H tcp://ADDRESS:PORT --tlsverify`) and that no firewall is between"
            ),
            Self::Untrusted(why) => format!("the engine at {url}: {why}"),
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
            other => match tls_cause(&other) {
                Some(cause) => Self::Untrusted(distrust(cause)),
                None => Self::Unreachable(chain(&other)),
            },
        }
    }
}

/// The failure of TLS among an error's causes. Errors of I/O hold theirs as a value, not as a source.
pub(crate) fn tls_cause<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a rustls::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        next = match error
            .downcast_ref::<std::io::Error>()
            .and_then(std::io::Error::get_ref)
        {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    None
}

/// Why one end does not believe the other, and what to do.
pub(crate) fn distrust(error: &rustls::Error) -> String {
    use rustls::Error as Tls;
    match error {
        Tls::InvalidCertificate(CertificateError::Expired | CertificateError::ExpiredContext { .. }) => {
            "its certificate has expired: renew it there, restart dockerd, and see that the clock of this host is right"
                .into()
        }
        Tls::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => "its certificate is for another host: use the name that is in it, or make it anew with this name as a \
              subjectAltName"
            .into(),
        Tls::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature) => {
            "its certificate is not signed by the given CA: give the ca.pem of that engine".into()
        }
        Tls::InvalidCertificate(why) => format!("its certificate is not valid ({why:?}): renew it there"),
        Tls::AlertReceived(why) => format!(
            "it does not accept this server's certificate ({why:?}): give a cert.pem and key.pem, not expired, that are \
             signed by the CA of dockerd's `--tlscacert`"
        ),
        Tls::InvalidMessage(_) => {
            "it does not speak TLS: start dockerd with `--tlsverify`, or give the port on which it does".into()
        }
        other => format!("no TLS connection could be made: {other}"),
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
