//! What programs in a sandbox reach through their guest: the issue graph, by `bd` and `orchestrator`, the model API, and
//! what its network policy allows of the outside.
//!
//! Each connection to one of the guest's listeners is announced, and carried here as a byte stream on which HTTP is
//! spoken. Who calls is known from the sandbox that the connection comes from. The gateway's listener is a TCP port, to
//! which neighbours in the same network namespace could connect, so there the run's own token is asked for, too.

use super::AgentServices;
use crate::guest::Guest;
use crate::{Control, ControlError, ToolCall};
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, Request, StatusCode};
use hyper_util::rt::TokioIo;
use ostler_agents::ModelApi;
use ostler_domain::{Run, RunId, RunStatus};
use ostler_gateway::{Caller, Upstream};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use std::convert::Infallible;
use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;
use subtle::ConstantTimeEq;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// Largest call of a tool, in bytes; the program in the sandbox reads at most 10 MiB of input.
const MAX_CALL: usize = 16 << 20;
/// Calls of tools of one run that are carried out at once.
pub(super) const MAX_CALLS: usize = 4;
/// Connections of one run that are served at once; the others wait at the guest. The guest takes some 200 calls at once,
/// of which others than these must stay possible.
const MAX_CONNECTIONS: usize = 100;
/// Pause after the guest could not be asked for connections.
const PAUSE: Duration = Duration::from_millis(200);
/// The header with which a tool names its call, so that it can be repeated.
const REQUEST_ID: &str = "x-ostler-request-id";

/// What a run's token is: nobody who does not know the server's key can make one, and it is the same after a restart.
/// A hash of key and id is enough for that: both have a fixed length, so that nothing can be appended.
pub(super) fn run_token(key: &[u8; 32], run: RunId) -> String {
    let mut hash = Sha256::new();
    hash.update(key);
    hash.update(run.to_string());
    hash.update(key);
    hash.finalize()
        .iter()
        .fold("ostler-run-".to_owned(), |mut text, byte| {
            // Writing into a string cannot fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
}

/// The services of one run.
pub(super) struct Services {
    pub(super) control: Control,
    pub(super) guest: Guest,
    pub(super) run: Run,
    pub(super) agents: Option<AgentServices>,
    pub(super) api: Option<ModelApi>,
    /// The way to the outside, where the network is filtered.
    pub(super) way_out: Option<ostler_egress::Session>,
    /// Calls of tools that may be read and carried out at once; each can be large.
    pub(super) tools: Semaphore,
}

/// What a tool in the sandbox sends.
#[derive(Debug, Deserialize)]
struct ToolRequest {
    argv: Vec<String>,
    #[serde(default)]
    stdin: String,
    #[serde(default)]
    json_envelope: bool,
}

impl Services {
    /// Serves until it is dropped; a guest that does not answer is asked again.
    pub(super) async fn serve(self) {
        let this = Arc::new(self);
        let mut connections = JoinSet::new();
        loop {
            if let Ok(mut incoming) = this.guest.accept().await {
                loop {
                    tokio::select! {
                        next = incoming.message(), if connections.len() < MAX_CONNECTIONS => match next {
                            Ok(Some(next)) => {
                                let this = Arc::clone(&this);
                                connections.spawn(async move { this.connection(next.connection_id, next.listener).await });
                            }
                            Ok(None) | Err(_) => break,
                        },
                        Some(_) = connections.join_next() => {}
                    }
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn connection(self: Arc<Self>, id: u64, listener: String) {
        let stream = match self.guest.tunnel(id).await {
            Ok(stream) => stream,
            Err(error) => {
                tracing::debug!(%error, "a connection out of a sandbox could not be taken");
                return;
            }
        };
        if listener == "egress" {
            if let Some(way_out) = &self.way_out {
                way_out.serve(stream).await;
            }
            return;
        }
        let service = hyper::service::service_fn(move |request: Request<hyper::body::Incoming>| {
            let this = Arc::clone(&self);
            let gateway = listener == "gateway";
            async move {
                let request = request.map(Body::new);
                let response = if gateway {
                    this.model(request).await
                } else {
                    this.tool(request).await
                };
                Ok::<_, Infallible>(response)
            }
        });
        if let Err(error) = hyper::server::conn::http1::Builder::new()
            .half_close(true)
            .serve_connection(TokioIo::new(stream), service)
            .await
        {
            tracing::debug!(%error, "a connection out of a sandbox ended early");
        }
    }

    /// A request to the model API.
    async fn model(&self, request: Request<Body>) -> Response {
        let Some(agents) = &self.agents else {
            return text(StatusCode::NOT_FOUND, "this server has no gateway");
        };
        let upstream = match self.api {
            Some(ModelApi::Anthropic) => Upstream::Anthropic,
            Some(ModelApi::OpenAi) => Upstream::OpenAi,
            Some(ModelApi::Gemini) => Upstream::Gemini,
            None => return text(StatusCode::NOT_FOUND, "this run has no model API"),
        };
        let token = run_token(&agents.token_key, self.run.submitted.id);
        if !bool::from(shown_token(request.headers()).as_bytes().ct_eq(token.as_bytes())) {
            return text(StatusCode::UNAUTHORIZED, "this is not the token of the run");
        }
        let caller = Caller {
            run_id: self.run.submitted.id,
            tenant_id: self.run.submitted.tenant_id,
        };
        agents.gateway.handle(upstream, caller, request).await
    }

    /// A call of `bd` or `orchestrator`, which are two names of the same commands.
    async fn tool(&self, request: Request<Body>) -> Response {
        if !matches!(request.uri().path(), "/v1/tools/bd" | "/v1/tools/orchestrator") {
            return text(StatusCode::NOT_FOUND, "there is no such tool");
        }
        let request_id = request
            .headers()
            .get(REQUEST_ID)
            .and_then(|value| value.to_str().ok())
            .filter(|id| id.len() <= 128)
            .map(str::to_owned);
        let Ok(_turn) = self.tools.acquire().await else {
            return text(StatusCode::SERVICE_UNAVAILABLE, "the run is ending");
        };
        let body = match axum::body::to_bytes(request.into_body(), MAX_CALL).await {
            Ok(body) => body,
            Err(error) => return text(StatusCode::PAYLOAD_TOO_LARGE, &error.to_string()),
        };
        let call: ToolRequest = match serde_json::from_slice(&body) {
            Ok(call) => call,
            Err(error) => return text(StatusCode::BAD_REQUEST, &error.to_string()),
        };
        let call = ToolCall {
            argv: call.argv,
            stdin: call.stdin.into_bytes(),
            json_envelope: call.json_envelope,
            request_id,
        };
        let answered = async {
            self.still_running().await?;
            self.control.bd(&self.run, &call).await
        };
        match answered.await {
            Ok(reply) => axum::Json(serde_json::json!({
                "stdout": reply.stdout, "stderr": reply.stderr, "code": reply.code,
            }))
            .into_response(),
            // Asked again by the tool: a database that is away for a moment is no answer.
            Err(error @ (ControlError::Store(_) | ControlError::Unavailable(_))) => {
                text(StatusCode::SERVICE_UNAVAILABLE, &error.to_string())
            }
            Err(error) => text(StatusCode::UNPROCESSABLE_ENTITY, &error.to_string()),
        }
    }

    /// A lost attempt whose sandbox still runs must change nothing.
    async fn still_running(&self) -> crate::Result<()> {
        let run = self.control.store().run(self.run.submitted.id).await?;
        let same = run.is_some_and(|run| run.status == RunStatus::Running && run.attempt == self.run.attempt);
        if same {
            return Ok(());
        }
        Err(ControlError::Unprocessable(
            "this run has ended, or goes on elsewhere".into(),
        ))
    }
}

/// The token that a request shows, in the place that the programs of its provider use.
fn shown_token(headers: &HeaderMap) -> &str {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    header("authorization")
        .and_then(|value| value.strip_prefix("Bearer "))
        .or_else(|| header("x-api-key"))
        .or_else(|| header("x-goog-api-key"))
        .unwrap_or_default()
}

fn text(status: StatusCode, message: &str) -> Response {
    (status, message.to_owned()).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_depend_on_key_and_run() {
        let run = RunId::new();
        let token = run_token(&[1; 32], run);
        assert_eq!(token, run_token(&[1; 32], run));
        assert_ne!(token, run_token(&[2; 32], run));
        assert_ne!(token, run_token(&[1; 32], RunId::new()));
        assert!(token.len() > 64 && !token.contains(&run.to_string()));
    }
}
