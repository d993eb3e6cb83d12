//! The proxy itself.

use crate::failure::Failure;
use crate::meter::Meter;
use crate::stream::{Recording, answer, limited};
use crate::target::Target;
use crate::{Caller, Credential, GatewaySettings, Prices, Upstream, UsageRecord, headers};
use axum::body::Body;
use http::{Request, Response, header};
use std::collections::BTreeMap;
use std::error::Error as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::mpsc::Sender;

/// The settings cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GatewayError {
    /// A base URL is none, or would show the key to others.
    #[error("`{url}` cannot be the base URL of a model API: {reason}")]
    BaseUrl {
        /// The URL, without user and password.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The HTTP client cannot be made.
    #[error("the HTTP client of the gateway cannot be made: {0}; look at the system's certificates")]
    Client(#[source] reqwest::Error),
    /// A key holds what no header may, such as a line's end.
    #[error("the key for {0} is not one line of plain text; set it again")]
    Credential(Upstream),
}

/// Passes requests of sandboxes on to model APIs. Cheap to share behind an `Arc`.
pub struct Gateway {
    upstreams: BTreeMap<Upstream, Connection>,
    max_body: u64,
    first_byte_timeout: Duration,
    idle_timeout: Duration,
    prices: Arc<Prices>,
    records: Sender<UsageRecord>,
}

struct Connection {
    client: reqwest::Client,
    target: Target,
    credential: Option<Credential>,
}

impl Gateway {
    /// Checks the settings. One record per call goes to `records`; a full channel holds no caller up, its records wait
    /// up to 30 s.
    pub fn new(settings: &GatewaySettings, records: Sender<UsageRecord>) -> Result<Self, GatewayError> {
        let mut upstreams = BTreeMap::new();
        for upstream in Upstream::ALL {
            let own = settings.upstreams.get(&upstream).cloned().unwrap_or_default();
            let target = Target::new(own.base_url.as_deref().unwrap_or(upstream.default_base_url()))?;
            if own
                .credential
                .as_ref()
                .is_some_and(|credential| credential.header(upstream).is_none())
            {
                return Err(GatewayError::Credential(upstream));
            }
            // A redirect would carry the key to wherever the answer says.
            let mut client = reqwest::Client::builder()
                .connect_timeout(settings.connect_timeout)
                .redirect(reqwest::redirect::Policy::none());
            if target.is_loopback() {
                client = client.no_proxy();
            }
            let client = client.build().map_err(GatewayError::Client)?;
            upstreams.insert(
                upstream,
                Connection {
                    client,
                    target,
                    credential: own.credential,
                },
            );
        }
        Ok(Self {
            upstreams,
            max_body: settings.max_body,
            first_byte_timeout: settings.first_byte_timeout,
            idle_timeout: settings.idle_timeout,
            prices: Arc::new(settings.prices.clone()),
            records,
        })
    }

    /// Whether there is a key for `upstream`. Without one, agents that need it should not start.
    pub fn has_credential(&self, upstream: Upstream) -> bool {
        self.upstreams
            .get(&upstream)
            .is_some_and(|connection| connection.credential.is_some())
    }

    /// Passes one request on. Its path is that of the provider's API, such as `/v1/messages`; whether the caller's token
    /// is good was checked before.
    ///
    /// Failures are answers, too, in the provider's form: 404 for calls that are not let through, 413 for bodies over
    /// the limit, 503 without a key, 502 and 504 for an upstream that cannot be reached or is too slow. Dropping the
    /// future or the answer's body ends the call at the upstream.
    pub async fn handle(&self, upstream: Upstream, caller: Caller, request: Request<Body>) -> Response<Body> {
        let mut recording = Recording::new(caller, upstream, Arc::clone(&self.prices), self.records.clone());
        match self.send(upstream, request).await {
            Ok((response, metered)) => self.pass_back(response, metered, recording),
            Err(failure) => {
                recording.failed(failure.status());
                failure.response(upstream)
            }
        }
    }

    async fn send(
        &self,
        upstream: Upstream,
        request: Request<Body>,
    ) -> Result<(reqwest::Response, bool), Failure> {
        let (head, body) = request.into_parts();
        let path = head.uri.path();
        if !upstream.allows(&head.method, path) {
            return Err(Failure::NotAllowed(format!("{} {path}", head.method)));
        }
        let connection = self
            .upstreams
            .get(&upstream)
            .ok_or(Failure::NoCredential(upstream))?;
        let credential = connection
            .credential
            .as_ref()
            .ok_or(Failure::NoCredential(upstream))?;
        let url = connection.target.url(&head.uri).ok_or(Failure::BadPath)?;
        let mut headers = headers::to_upstream(&head.headers, upstream, credential)
            .ok_or(Failure::NoCredential(upstream))?;
        let length = head
            .headers
            .get(header::CONTENT_LENGTH)
            .and_then(|value| value.to_str().ok()?.parse().ok());
        if length.is_some_and(|length: u64| length > self.max_body) {
            return Err(Failure::TooLarge(self.max_body));
        }
        let metered = upstream.is_metered(path);

        let exceeded = Arc::new(AtomicBool::new(false));
        // A body that is empty by its kind must not become a chunked one. Its length goes, too: the upstream would take
        // the next request on the connection, which may be that of another run, for the body.
        let has_body = head.method != http::Method::GET;
        if !has_body {
            headers.remove(header::CONTENT_LENGTH);
        }
        let mut call = connection.client.request(head.method, url).headers(headers);
        if has_body {
            let body = limited(body, self.max_body, Arc::clone(&exceeded));
            call = call.body(reqwest::Body::wrap_stream(body));
        }
        match tokio::time::timeout(self.first_byte_timeout, call.send()).await {
            Ok(Ok(response)) => Ok((response, metered)),
            Ok(Err(_)) if exceeded.load(Ordering::Relaxed) => Err(Failure::TooLarge(self.max_body)),
            Ok(Err(error)) => {
                tracing::warn!(%upstream, error = %causes(&error), "a call to the model API failed");
                Err(if error.is_timeout() {
                    Failure::TimedOut(upstream)
                } else {
                    Failure::Unreachable(upstream)
                })
            }
            Err(_) => {
                tracing::warn!(%upstream, timeout = ?self.first_byte_timeout, "the model API did not answer in time");
                Err(Failure::TimedOut(upstream))
            }
        }
    }

    fn pass_back(&self, from: reqwest::Response, metered: bool, mut recording: Recording) -> Response<Body> {
        let (status, headers) = (from.status(), headers::to_caller(from.headers()));
        if matches!(status.as_u16(), 401 | 403) {
            tracing::warn!(%status, "the model API refused the gateway's key");
        }
        let content_type = headers
            .get(header::CONTENT_TYPE)
            .and_then(|value| value.to_str().ok());
        let meter = if metered {
            Meter::new(content_type.unwrap_or_default())
        } else {
            Meter::default()
        };
        recording.answered(status, meter);
        let mut response = Response::new(answer(from, self.idle_timeout, recording));
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        response
    }
}

impl std::fmt::Debug for Gateway {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gateway")
            .field("upstreams", &self.upstreams.keys())
            .finish_non_exhaustive()
    }
}

/// An error of the HTTP client with what caused it, which its own text leaves out.
pub(crate) fn causes(error: &reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text.push_str(": ");
        text.push_str(&next.to_string());
        cause = next.source();
    }
    text
}
