//! The gateway between a caller and a small upstream, all on loopback.

#![allow(clippy::unwrap_used, reason = "helpers of tests, too, should fail loudly")]

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Path, Request as Incoming, State};
use axum::response::IntoResponse;
use axum::routing::{any, get, post};
use futures::{Stream, StreamExt};
use http::{HeaderMap, Request, Response, StatusCode};
use ostler_domain::{RunId, TenantId};
use ostler_gateway::{
    Caller, Credential, Gateway, GatewaySettings, Price, Prices, Secret, Upstream, UpstreamSettings,
    UsageRecord,
};
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::{Notify, mpsc};

const REAL_KEY: &str = "sk-ant-planted-real-key";
const RUN_TOKEN: &str = "planted-run-token";
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Default)]
struct Seen {
    headers: Mutex<Vec<HeaderMap>>,
    paths: Mutex<Vec<String>>,
    body: Mutex<Vec<u8>>,
    /// The upstream may go on with its answer.
    go_on: Notify,
    /// The upstream's answer was dropped.
    dropped: Notify,
}

struct OnDrop<S>(S, Arc<Seen>);

impl<S: Stream + Unpin> Stream for OnDrop<S> {
    type Item = S::Item;
    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<S::Item>> {
        self.0.poll_next_unpin(context)
    }
}

impl<S> Drop for OnDrop<S> {
    fn drop(&mut self) {
        self.1.dropped.notify_one();
    }
}

fn start_event() -> Bytes {
    let data = r#"{"type":"message_start","message":{"model":"claude-test-1","usage":{"input_tokens":1000,"output_tokens":1}}}"#;
    Bytes::from(format!("event: message_start\ndata: {data}\n\n"))
}

fn end_events() -> Bytes {
    let data = r#"{"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":50}}"#;
    Bytes::from(format!(
        "event: message_delta\ndata: {data}\n\ndata: {{\"type\":\"message_stop\"}}\n\n"
    ))
}

/// Two events; the second only when the test says so. What the body of the request says decides how.
async fn messages(State(seen): State<Arc<Seen>>, request: Incoming) -> Response<Body> {
    let (head, body) = request.into_parts();
    seen.headers.lock().unwrap().push(head.headers);
    seen.paths.lock().unwrap().push(head.uri.to_string());
    let Ok(body) = axum::body::to_bytes(body, 64 << 20).await else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    *seen.body.lock().unwrap() = body.to_vec();
    match body.as_ref() {
        b"whole" => {
            let text = r#"{"model":"claude-test-1","usage":{"input_tokens":3,"output_tokens":4}}"#;
            ([("content-type", "application/json")], text).into_response()
        }
        b"refuse" => {
            let headers = [
                ("retry-after", "7"),
                ("set-cookie", "a=b"),
                ("content-type", "application/json"),
            ];
            (StatusCode::TOO_MANY_REQUESTS, headers, r#"{"type":"error"}"#).into_response()
        }
        b"redirect" => (StatusCode::FOUND, [("location", "/elsewhere")], "").into_response(),
        b"never" => {
            let _guard = OnDrop(futures::stream::empty::<()>(), Arc::clone(&seen));
            std::future::pending::<Response<Body>>().await
        }
        _ => {
            let broken = body.as_ref() == b"break";
            let later = Arc::clone(&seen);
            let end = futures::stream::once(Box::pin(async move {
                later.go_on.notified().await;
                if broken {
                    Err(io::Error::other("broken"))
                } else {
                    Ok(end_events())
                }
            }));
            event_stream(futures::stream::iter([Ok(start_event())]).chain(end), seen)
        }
    }
}

fn event_stream(
    pieces: impl Stream<Item = io::Result<Bytes>> + Send + Unpin + 'static,
    seen: Arc<Seen>,
) -> Response<Body> {
    let body = Body::from_stream(OnDrop(pieces, seen));
    ([("content-type", "text/event-stream; charset=utf-8")], body).into_response()
}

struct Stage {
    gateway: Arc<Gateway>,
    seen: Arc<Seen>,
    records: mpsc::Receiver<UsageRecord>,
    caller: Caller,
}

async fn serve(app: Router) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, app).await });
    url
}

async fn stage() -> Stage {
    stage_with(|_| {}).await
}

async fn stage_with(change: impl FnOnce(&mut GatewaySettings)) -> Stage {
    let seen = Arc::new(Seen::default());
    let app = Router::new()
        .route("/v1/messages", post(messages))
        .route(
            "/v1/models",
            get(|headers: HeaderMap| async move { headers["x-api-key"].to_str().unwrap().len().to_string() }),
        )
        .route("/elsewhere", any(|| async { "followed" }))
        .with_state(Arc::clone(&seen));
    let upstream = UpstreamSettings {
        base_url: Some(serve(app).await),
        credential: Some(Credential::ApiKey(Secret::new(REAL_KEY))),
    };
    let mut settings = GatewaySettings {
        upstreams: [(Upstream::Anthropic, upstream)].into(),
        prices: Prices(vec![Price {
            model: "claude-test".into(),
            input: 5.0,
            output: 20.0,
            ..Price::default()
        }]),
        ..GatewaySettings::default()
    };
    change(&mut settings);
    let (sender, records) = mpsc::channel(8);
    let caller = Caller {
        run_id: RunId::new(),
        tenant_id: TenantId::new(),
    };
    Stage {
        gateway: Arc::new(Gateway::new(&settings, sender).unwrap()),
        seen,
        records,
        caller,
    }
}

impl Stage {
    async fn ask(&self, body: impl Into<Body>) -> Response<Body> {
        self.send(message(body)).await
    }

    async fn send(&self, request: Request<Body>) -> Response<Body> {
        within(self.gateway.handle(Upstream::Anthropic, self.caller, request)).await
    }

    async fn record(&mut self) -> UsageRecord {
        within(self.records.recv()).await.unwrap()
    }
}

fn message(body: impl Into<Body>) -> Request<Body> {
    Request::post("/v1/messages?beta=true")
        .header("authorization", format!("Bearer {RUN_TOKEN}"))
        .header("x-api-key", RUN_TOKEN)
        .header("anthropic-version", "2023-06-01")
        .header("content-type", "application/json")
        .body(body.into())
        .unwrap()
}

async fn within<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(PATIENCE, future).await.expect("in time")
}

async fn text(response: Response<Body>) -> String {
    let bytes = within(axum::body::to_bytes(response.into_body(), 1 << 20))
        .await
        .unwrap();
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[tokio::test]
async fn answers_are_streamed_as_they_come_and_counted() {
    let mut stage = stage().await;
    let response = stage.ask("stream").await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(
        response.headers()["content-type"],
        "text/event-stream; charset=utf-8"
    );
    let mut pieces = response.into_body().into_data_stream();
    // The upstream has not ended its answer, and will not before it is told to.
    assert_eq!(within(pieces.next()).await.unwrap().unwrap(), start_event());
    stage.seen.go_on.notify_one();
    assert_eq!(within(pieces.next()).await.unwrap().unwrap(), end_events());
    assert!(within(pieces.next()).await.is_none());
    drop(pieces);

    let record = stage.record().await;
    let usage = record.usage.unwrap();
    assert_eq!(
        (record.caller, record.model.as_str(), record.status),
        (stage.caller, "claude-test-1", 200)
    );
    assert_eq!((usage.input_tokens, usage.output_tokens), (1000, 50));
    assert!((usage.cost_usd - 0.006).abs() < 1e-9, "{usage:?}");
    assert!(record.complete && record.first_byte <= record.total);
}

#[tokio::test]
async fn the_real_key_replaces_the_callers_token() {
    let stage = stage().await;
    text(stage.ask("whole").await).await;
    let headers = stage.seen.headers.lock().unwrap()[0].clone();
    assert_eq!(headers["x-api-key"], REAL_KEY);
    assert_eq!(headers["anthropic-version"], "2023-06-01");
    assert!(!format!("{headers:?}").contains(RUN_TOKEN));
    assert_eq!(stage.seen.paths.lock().unwrap()[0], "/v1/messages?beta=true");
    assert_eq!(*stage.seen.body.lock().unwrap(), b"whole");
}

#[tokio::test]
async fn a_whole_answer_is_counted_too() {
    let mut stage = stage().await;
    let response = stage.ask("whole").await;
    assert!(text(response).await.contains("claude-test-1"));
    let record = stage.record().await;
    assert!(record.complete);
    assert_eq!(
        record
            .usage
            .map(|usage| (usage.input_tokens, usage.output_tokens)),
        Some((3, 4))
    );
}

#[tokio::test]
async fn a_caller_that_goes_away_ends_the_call_at_the_upstream() {
    let mut stage = stage().await;
    let mut pieces = stage.ask("stream").await.into_body().into_data_stream();
    within(pieces.next()).await.unwrap().unwrap();
    drop(pieces);
    within(stage.seen.dropped.notified()).await;
    let record = stage.record().await;
    assert!(!record.complete && record.usage.unwrap().input_tokens == 1000);

    // Also before there is any answer.
    let (gateway, caller) = (Arc::clone(&stage.gateway), stage.caller);
    let call = tokio::spawn(async move {
        gateway
            .handle(Upstream::Anthropic, caller, message("never"))
            .await
    });
    while stage.seen.body.lock().unwrap().as_slice() != b"never" {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    call.abort();
    within(stage.seen.dropped.notified()).await;
    assert_eq!(stage.record().await.status, 499);
}

#[tokio::test]
async fn errors_of_the_upstream_pass_unchanged_but_for_cookies() {
    let mut stage = stage().await;
    let response = stage.ask("refuse").await;
    assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(response.headers()["retry-after"], "7");
    assert!(!response.headers().contains_key("set-cookie"));
    assert_eq!(text(response).await, r#"{"type":"error"}"#);
    let record = stage.record().await;
    assert_eq!((record.status, record.usage), (429, None));
}

#[tokio::test]
async fn redirects_are_not_followed() {
    let stage = stage().await;
    let response = stage.ask("redirect").await;
    assert_eq!(response.status(), StatusCode::FOUND);
    assert_ne!(text(response).await, "followed");
}

#[tokio::test]
async fn an_upstream_that_breaks_off_is_seen_by_the_caller() {
    let mut stage = stage().await;
    let mut pieces = stage.ask("break").await.into_body().into_data_stream();
    assert_eq!(within(pieces.next()).await.unwrap().unwrap(), start_event());
    stage.seen.go_on.notify_one();
    assert!(within(pieces.next()).await.unwrap().is_err());
    assert!(within(pieces.next()).await.is_none());
    drop(pieces);
    let record = stage.record().await;
    assert!(!record.complete && record.usage.unwrap().input_tokens == 1000);
}

#[tokio::test]
async fn an_upstream_that_cannot_be_reached_is_502_in_the_providers_form() {
    // A port that was free a moment ago.
    let port = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let mut stage = stage_with(|settings| {
        let upstream = settings.upstreams.get_mut(&Upstream::Anthropic).unwrap();
        upstream.base_url = Some(format!("http://127.0.0.1:{port}"));
    })
    .await;
    let response = stage.ask("x").await;
    assert_eq!(response.status(), StatusCode::BAD_GATEWAY);
    let body: serde_json::Value = serde_json::from_str(&text(response).await).unwrap();
    assert_eq!(
        (&body["type"], &body["error"]["type"]),
        (&"error".into(), &"api_error".into())
    );
    assert_eq!(stage.record().await.status, 502);
}

#[tokio::test]
async fn an_upstream_that_does_not_answer_or_falls_silent_is_given_up() {
    let mut stage = stage_with(|settings| {
        settings.first_byte_timeout = Duration::from_millis(300);
        settings.idle_timeout = Duration::from_millis(300);
    })
    .await;
    let response = stage.ask("never").await;
    assert_eq!(response.status(), StatusCode::GATEWAY_TIMEOUT);
    assert!(text(response).await.contains("timeout_error"));
    within(stage.seen.dropped.notified()).await;
    assert_eq!(stage.record().await.status, 504);

    let mut pieces = stage.ask("stream").await.into_body().into_data_stream();
    assert!(within(pieces.next()).await.unwrap().is_ok());
    assert!(within(pieces.next()).await.unwrap().is_err());
    drop(pieces);
    within(stage.seen.dropped.notified()).await;
    assert!(!stage.record().await.complete);
}

#[tokio::test]
async fn bodies_over_the_limit_are_refused_with_and_without_a_length() {
    let mut stage = stage_with(|settings| settings.max_body = 1000).await;
    let mut told = message(vec![b'x'; 1001]);
    told.headers_mut()
        .insert("content-length", "1001".parse().unwrap());
    let pieces = (0..11).map(|_| Ok::<_, io::Error>(vec![b'x'; 100]));
    let untold = message(Body::from_stream(futures::stream::iter(pieces)));
    for request in [told, untold] {
        let response = stage.send(request).await;
        assert_eq!(response.status(), StatusCode::PAYLOAD_TOO_LARGE);
        assert!(text(response).await.contains("1000 bytes"));
        assert_eq!(stage.record().await.status, 413);
    }
    assert!(stage.seen.body.lock().unwrap().is_empty());
    stage.seen.go_on.notify_one();
    assert_eq!(stage.ask(vec![b'x'; 1000]).await.status(), StatusCode::OK);
}

#[tokio::test]
async fn only_calls_of_models_pass_and_only_with_a_key() {
    let stage = stage().await;
    let models = stage
        .send(Request::get("/v1/models").body(Body::empty()).unwrap())
        .await;
    assert_eq!(text(models).await, REAL_KEY.len().to_string());
    for path in ["/v1/organizations/users", "/v1/files", "/v1/models/%2e%2e"] {
        let response = stage.send(Request::get(path).body(Body::empty()).unwrap()).await;
        assert!(response.status().is_client_error(), "{path}");
        assert!(text(response).await.contains("\"type\":\"error\""));
    }
    let request = Request::post("/v1/responses").body(Body::empty()).unwrap();
    let response = within(stage.gateway.handle(Upstream::OpenAi, stage.caller, request)).await;
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(
        stage.gateway.has_credential(Upstream::Anthropic) && !stage.gateway.has_credential(Upstream::OpenAi)
    );
}

#[tokio::test]
async fn no_record_is_lost_when_nobody_reads_for_a_while() {
    let mut stage = stage().await;
    for _ in 0..20 {
        text(stage.ask("whole").await).await;
    }
    for _ in 0..20 {
        assert!(stage.record().await.complete);
    }
}

/// Through a real server in front, as sandboxes meet it: hyper stops asking a body of known length for its end.
#[tokio::test]
async fn behind_a_real_server() {
    let mut stage = stage().await;
    let (gateway, caller) = (Arc::clone(&stage.gateway), stage.caller);
    let front = Router::new().route(
        "/{*path}",
        any(move |Path(_): Path<String>, request: Incoming| async move {
            gateway.handle(Upstream::Anthropic, caller, request).await
        }),
    );
    let url = serve(front).await;
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let large = "y".repeat(3 << 20);
    for body in ["whole", &large] {
        stage.seen.go_on.notify_one();
        let call = client
            .post(format!("{url}/v1/messages"))
            .bearer_auth(RUN_TOKEN)
            .body(body.to_owned());
        let response = within(call.send()).await.unwrap();
        assert_eq!(response.status(), 200);
        assert!(within(response.text()).await.unwrap().contains("claude-test-1"));
        assert!(stage.record().await.complete);
        assert_eq!(stage.seen.body.lock().unwrap().len(), body.len());
        // The permit is left over when the answer did not wait for it.
        tokio::time::timeout(Duration::from_millis(1), stage.seen.go_on.notified())
            .await
            .ok();
        let headers = stage.seen.headers.lock().unwrap().pop().unwrap();
        assert_eq!(headers["content-length"], body.len().to_string().as_str());
        assert!(!headers.contains_key("transfer-encoding"));
    }
}

#[tokio::test]
async fn a_length_without_a_body_is_not_passed_on() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let stage = stage_with(move |settings| {
        let upstream = settings.upstreams.get_mut(&Upstream::Anthropic).unwrap();
        upstream.base_url = Some(url);
    })
    .await;
    let upstream = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        stream
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
            .await
            .unwrap();
        String::from_utf8(head).unwrap().to_ascii_lowercase()
    });
    let request = Request::get("/v1/models")
        .header("content-length", "5")
        .body(Body::from("12345"))
        .unwrap();
    stage.send(request).await;
    // The upstream would take the next request on this connection, that of another run, for the body.
    let head = within(upstream).await.unwrap();
    assert!(!head.contains("content-length: 5"), "{head}");
}
