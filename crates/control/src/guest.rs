//! A connection to the guest of one sandbox.
//!
//! Every wait has a limit: a guest that went away must not hold a run for ever.

use hyper_util::rt::TokioIo;
use ostler_domain::SandboxId;
use ostler_guest_protocol::v1::guest_client::GuestClient;
use ostler_guest_protocol::v1::{
    AttachRequest, ExecEvent, HealthRequest, KillRequest, ListExecsRequest, ReleaseRequest, StartRequest,
};
use ostler_sandbox::Driver;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tonic::transport::{Channel, Endpoint};
use tonic::{Status, Streaming};

/// For calls that a healthy guest answers at once.
const CALL: Duration = Duration::from_secs(10);
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(50);

/// Why the guest did not do what it was asked.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum GuestError {
    #[error("the sandbox does not answer: {0}")]
    Unreachable(String),
    #[error("the sandbox refused: {0}")]
    Refused(String),
}

impl From<Status> for GuestError {
    fn from(status: Status) -> Self {
        match status.code() {
            tonic::Code::NotFound
            | tonic::Code::InvalidArgument
            | tonic::Code::FailedPrecondition
            | tonic::Code::ResourceExhausted => Self::Refused(status.message().to_owned()),
            _ => Self::Unreachable(status.message().to_owned()),
        }
    }
}

/// A connection that is opened again by itself; cheap to clone.
#[derive(Clone)]
pub(crate) struct Guest(GuestClient<Channel>);

impl Guest {
    /// Connects at the first call.
    pub(crate) fn new(driver: Arc<dyn Driver>, id: SandboxId) -> Self {
        let connector = tower::service_fn(move |_| {
            let driver = Arc::clone(&driver);
            async move {
                driver
                    .connect(id)
                    .await
                    .map(TokioIo::new)
                    .map_err(io::Error::other)
            }
        });
        Self(GuestClient::new(
            Endpoint::from_static("http://guest").connect_with_connector_lazy(connector),
        ))
    }

    /// Waits until the guest answers.
    pub(crate) async fn ready(&self, limit: Duration) -> Result<(), GuestError> {
        let end = Instant::now() + limit;
        let mut pause = FIRST_PAUSE;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            match within(left.min(CALL), self.0.clone().health(HealthRequest {})).await {
                Ok(_) => return Ok(()),
                Err(error) if left.is_zero() => return Err(error),
                Err(_) => tokio::time::sleep(pause.min(left)).await,
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    pub(crate) async fn start(&self, request: StartRequest) -> Result<(), GuestError> {
        within(CALL, self.0.clone().start(request)).await.map(drop)
    }

    pub(crate) async fn attach(
        &self,
        exec_id: &str,
        from_seq: u64,
    ) -> Result<Streaming<ExecEvent>, GuestError> {
        let request = AttachRequest {
            exec_id: exec_id.to_owned(),
            from_seq,
        };
        within(CALL, self.0.clone().attach(request)).await
    }

    /// Ends the whole tree of a program: TERM, after the grace period KILL.
    pub(crate) async fn kill(&self, exec_id: &str, grace: Duration) -> Result<(), GuestError> {
        let request = KillRequest {
            exec_id: exec_id.to_owned(),
            signal: 0,
            grace_ms: grace.as_millis() as u64,
        };
        within(CALL + grace, self.0.clone().kill(request)).await.map(drop)
    }

    pub(crate) async fn release(&self, exec_id: &str) -> Result<(), GuestError> {
        within(
            CALL,
            self.0.clone().release(ReleaseRequest {
                exec_id: exec_id.to_owned(),
            }),
        )
        .await
        .map(drop)
    }

    /// Whether the guest knows this program.
    pub(crate) async fn knows(&self, exec_id: &str) -> Result<bool, GuestError> {
        let reply = within(CALL, self.0.clone().list_execs(ListExecsRequest {})).await?;
        Ok(reply.execs.iter().any(|exec| exec.exec_id == exec_id))
    }

    pub(crate) async fn healthy(&self) -> bool {
        within(CALL, self.0.clone().health(HealthRequest {}))
            .await
            .is_ok()
    }
}

async fn within<T>(
    limit: Duration,
    call: impl Future<Output = Result<tonic::Response<T>, Status>>,
) -> Result<T, GuestError> {
    match tokio::time::timeout(limit, call).await {
        Ok(reply) => Ok(reply?.into_inner()),
        Err(_) => Err(GuestError::Unreachable(format!("no answer within {limit:?}"))),
    }
}
