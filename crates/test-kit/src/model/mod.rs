//! A scripted model: the Anthropic Messages API on loopback, so that real agent programs can be tested end to end.
//!
//! The server runs on a thread of its own, so a test may block while an agent program talks to it, and may use any
//! runtime or none. All requests are recorded for assertions.

mod request;
mod script;
mod story;
mod turn;
mod wire;

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::State,
    http::{HeaderMap, Method, Response, StatusCode, Uri},
};
use futures::stream;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

pub use request::Request;
pub use script::{Conversation, Script};
pub use story::{Assignment, Planned, Step, Story};
pub use turn::Turn;

use turn::Reaction;
use wire::Answer;

/// A conversation with its files is some hundred kilobytes; more than this is refused with 413.
const MAX_BODY: usize = 64 << 20;

/// A running scripted model. Dropping it closes all connections and ends its thread.
pub struct FakeModel {
    address: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    script: Box<dyn Script>,
    requests: Mutex<Vec<Request>>,
    stop: CancellationToken,
}

impl FakeModel {
    /// Starts on a free port of 127.0.0.1.
    pub fn start(script: impl Script) -> io::Result<Self> {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let listener = {
            let _inside = runtime.enter();
            tokio::net::TcpListener::from_std(listener)?
        };
        let shared = Arc::new(Shared {
            script: Box::new(script),
            requests: Mutex::default(),
            stop: CancellationToken::new(),
        });
        let app = Router::new()
            .fallback(handle)
            .layer(axum::extract::DefaultBodyLimit::max(MAX_BODY))
            .with_state(Arc::clone(&shared));
        let stop = shared.stop.clone();
        let thread = std::thread::Builder::new()
            .name("fake-model".to_owned())
            .spawn(move || {
                // Leaving this block drops the runtime, and with it every open connection.
                runtime.block_on(async {
                    tokio::select! {
                        () = stop.cancelled() => {}
                        _ = axum::serve(listener, app) => {}
                    }
                });
            })?;
        Ok(Self {
            address,
            shared,
            thread: Some(thread),
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The API's base URL, without a slash at the end: the value for `ANTHROPIC_BASE_URL`.
    pub fn base_url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Every request received so far, in order, including side calls.
    pub fn requests(&self) -> Vec<Request> {
        self.shared.recorded().clone()
    }

    /// The requests for messages that offered the `Bash` tool: the agent's work without its side calls.
    pub fn turns(&self) -> Vec<Request> {
        let mut requests = self.requests();
        requests.retain(|request| request.is_message() && request.offers("Bash"));
        requests
    }
}

impl Drop for FakeModel {
    fn drop(&mut self) {
        self.shared.stop.cancel();
        if let Some(thread) = self.thread.take() {
            // The thread only fails by a panic of the script, which was already printed.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn recorded(&self) -> MutexGuard<'_, Vec<Request>> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn record(&self, method: &Method, uri: &Uri, headers: &HeaderMap, body: &Bytes) -> Request {
        let headers = headers.iter().map(|(name, value)| {
            (
                name.as_str().to_owned(),
                String::from_utf8_lossy(value.as_bytes()).into_owned(),
            )
        });
        let mut recorded = self.recorded();
        let request = Request {
            number: recorded.len() + 1,
            method: method.to_string(),
            path: uri.to_string(),
            headers: headers.collect(),
            body: serde_json::from_slice(body).unwrap_or(Value::Null),
        };
        recorded.push(request.clone());
        request
    }
}

async fn handle(
    State(shared): State<Arc<Shared>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response<Body> {
    let request = shared.record(&method, &uri, &headers, &body);
    if request.is_message() {
        let turn = shared.script.turn(&request);
        return react(&request, &turn.0).await;
    }
    match (method, uri.path()) {
        (Method::POST, "/v1/messages/count_tokens") => {
            // The usual estimate of four bytes a token.
            json_response(StatusCode::OK, &json!({"input_tokens": body.len() / 4}))
        }
        (Method::GET, "/v1/models") => json_response(
            StatusCode::OK,
            &json!({"data": [], "has_more": false, "first_id": null, "last_id": null}),
        ),
        (Method::HEAD, _) => Response::new(Body::empty()),
        _ => json_response(
            StatusCode::NOT_FOUND,
            &wire::error_body("not_found_error", &format!("no such path: {uri}")),
        ),
    }
}

async fn react(request: &Request, reaction: &Reaction) -> Response<Body> {
    match reaction {
        Reaction::Answer { text, call } => {
            let answer = Answer {
                model: request.model(),
                text: text.as_deref(),
                call: call.as_ref(),
            };
            if request.stream() {
                event_stream(answer.events())
            } else {
                json_response(StatusCode::OK, &answer.whole())
            }
        }
        Reaction::HttpError {
            status,
            kind,
            message,
        } => {
            let status = StatusCode::from_u16(*status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            json_response(status, &wire::error_body(kind, message))
        }
        Reaction::Hang => futures::future::pending().await,
    }
}

fn json_response(status: StatusCode, body: &Value) -> Response<Body> {
    let mut response = Response::new(Body::from(body.to_string()));
    *response.status_mut() = status;
    response.headers_mut().insert(
        "content-type",
        axum::http::HeaderValue::from_static("application/json"),
    );
    response
}

fn event_stream(events: Vec<String>) -> Response<Body> {
    let parts = events.into_iter().map(io::Result::Ok);
    let mut response = Response::new(Body::from_stream(stream::iter(parts)));
    let kind = axum::http::HeaderValue::from_static("text/event-stream; charset=utf-8");
    response.headers_mut().insert("content-type", kind);
    response
}
