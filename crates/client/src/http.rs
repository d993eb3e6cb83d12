//! One request and its answer.

use crate::ClientError;
use crate::sse::EventStream;
use ostler_contracts::ErrorBody;
use reqwest::header::{ACCEPT, AUTHORIZATION, HeaderMap, HeaderValue};
use reqwest::{Method, RequestBuilder, Response, Url};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt;
use std::time::Duration;

const CONNECT: Duration = Duration::from_secs(5);
/// A little longer than the server takes at most by its default, so that its own answer is seen.
const ANSWER: Duration = Duration::from_secs(75);
/// For what clones, merges or starts sandboxes; the server's own limit comes first unless it has been raised.
const LONG_ANSWER: Duration = Duration::from_secs(15 * 60);
/// Waits before a GET is asked again.
const AGAIN: [Duration; 2] = [Duration::from_millis(100), Duration::from_millis(400)];
/// Most that is read of an answer that is not understood.
const MAX_FOREIGN: usize = 300;

/// How long an answer may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Patience {
    Usual,
    Long,
}

impl Patience {
    pub(crate) const fn limit(self) -> Duration {
        match self {
            Self::Usual => ANSWER,
            Self::Long => LONG_ANSWER,
        }
    }
}

/// A connection to one server; cheap to clone.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    base: Url,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("base", &self.base.as_str())
            .finish_non_exhaustive()
    }
}

impl Client {
    /// A client of the server at `url` (with or without a path that a proxy put before it). Connects only when asked
    /// something. Without a token only a server in development mode answers.
    ///
    /// # Errors
    ///
    /// [`ClientError::Url`] and [`ClientError::Token`] for what cannot be one.
    pub fn new(url: &str, token: Option<&str>) -> Result<Self, ClientError> {
        Self::in_tenant(url, token, None)
    }

    /// The same, acting in another tenant, by id or name: only for administrators of the platform.
    ///
    /// # Errors
    ///
    /// Those of [`Self::new`], and [`ClientError::Tenant`] for what cannot be one.
    pub fn in_tenant(url: &str, token: Option<&str>, tenant: Option<&str>) -> Result<Self, ClientError> {
        let refused = |reason: String| ClientError::Url {
            url: url.to_owned(),
            reason,
        };
        let base = Url::parse(url).map_err(|error| refused(error.to_string()))?;
        if !matches!(base.scheme(), "http" | "https") || base.cannot_be_a_base() {
            return Err(refused("it must begin with http:// or https://".to_owned()));
        }
        if !base.username().is_empty() || base.password().is_some() {
            return Err(refused("credentials do not belong into it".to_owned()));
        }
        let mut headers = HeaderMap::new();
        if let Some(token) = token {
            let mut value =
                HeaderValue::try_from(format!("Bearer {token}")).map_err(|_| ClientError::Token)?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        if let Some(tenant) = tenant {
            let value = HeaderValue::try_from(tenant).map_err(|_| ClientError::Tenant)?;
            headers.insert("ostler-tenant", value);
        }
        let mut builder = reqwest::Client::builder()
            .default_headers(headers)
            .connect_timeout(CONNECT)
            .tcp_nodelay(true)
            // A redirect would turn a POST into a GET, or carry the token elsewhere.
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("ostler/", env!("CARGO_PKG_VERSION")));
        if is_loopback(&base) {
            // A proxy of the environment is for the world outside.
            builder = builder.no_proxy();
        }
        let http = builder
            .build()
            .map_err(|error| ClientError::Setup(error.to_string()))?;
        Ok(Self { http, base })
    }

    /// Where the server is.
    pub fn url(&self) -> &str {
        self.base.as_str().trim_end_matches('/')
    }

    /// The URL of a path of the interface; each segment is escaped.
    pub(crate) fn path(&self, segments: &[&str]) -> Url {
        let mut url = self.base.clone();
        url.set_query(None);
        url.set_fragment(None);
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(["api", "v1"]).extend(segments);
        }
        url
    }

    pub(crate) async fn get<T: DeserializeOwned>(&self, url: Url) -> Result<T, ClientError> {
        let response = self.send_get(&url, &HeaderMap::new(), Patience::Usual).await?;
        self.body(response, Patience::Usual).await
    }

    pub(crate) async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        segments: &[&str],
        body: Option<&(impl Serialize + Sync)>,
        patience: Patience,
    ) -> Result<T, ClientError> {
        let response = self.send(method, segments, body, patience).await?;
        self.body(response, patience).await
    }

    /// A call whose answer has no body.
    pub(crate) async fn act(
        &self,
        method: Method,
        segments: &[&str],
        patience: Patience,
    ) -> Result<(), ClientError> {
        self.send(method, segments, None::<&()>, patience).await.map(drop)
    }

    /// A call with a body whose answer has none.
    pub(crate) async fn tell(
        &self,
        method: Method,
        segments: &[&str],
        body: &(impl Serialize + Sync),
        patience: Patience,
    ) -> Result<(), ClientError> {
        self.send(method, segments, Some(body), patience).await.map(drop)
    }

    /// Sends a text as the body. It may be large, and what is made of it, too.
    pub(crate) async fn post_text<T: DeserializeOwned>(
        &self,
        url: Url,
        text: String,
        content_type: &str,
    ) -> Result<T, ClientError> {
        let patience = Patience::Long;
        let request = self
            .http
            .post(url)
            .timeout(patience.limit())
            .header(reqwest::header::CONTENT_TYPE, content_type)
            .body(text);
        let response = self.answered(request, patience.limit()).await?;
        self.body(response, patience).await
    }

    /// Sends a stream, which may take as long as it likes.
    pub(crate) async fn put_stream<T: DeserializeOwned>(
        &self,
        url: Url,
        content: impl futures::Stream<Item = std::io::Result<bytes::Bytes>> + Send + 'static,
    ) -> Result<T, ClientError> {
        let body = reqwest::Body::wrap_stream(content);
        let response = self.answered(self.http.put(url).body(body), ANSWER).await?;
        self.body(response, Patience::Usual).await
    }

    async fn send(
        &self,
        method: Method,
        segments: &[&str],
        body: Option<&(impl Serialize + Sync)>,
        patience: Patience,
    ) -> Result<Response, ClientError> {
        let mut request = self
            .http
            .request(method, self.path(segments))
            .timeout(patience.limit());
        if let Some(body) = body {
            request = request.json(body);
        }
        self.answered(request, patience.limit()).await
    }

    /// Asks, and asks again as long as no connection comes about: a GET changes nothing.
    async fn send_get(
        &self,
        url: &Url,
        headers: &HeaderMap,
        patience: Patience,
    ) -> Result<Response, ClientError> {
        let mut waits = AGAIN.into_iter();
        loop {
            let request = self
                .http
                .get(url.clone())
                .headers(headers.clone())
                .timeout(patience.limit());
            match (self.answered(request, patience.limit()).await, waits.next()) {
                (Err(ClientError::Unreachable { .. } | ClientError::Broken { .. }), Some(wait)) => {
                    tokio::time::sleep(wait).await;
                }
                (done, _) => return done,
            }
        }
    }

    /// Opens a stream whose beginning must come in time; it then lasts as long as it likes.
    pub(crate) async fn stream(
        &self,
        method: Method,
        url: &Url,
        headers: HeaderMap,
        body: Option<&(impl Serialize + Sync)>,
    ) -> Result<Response, ClientError> {
        let mut request = self.http.request(method, url.clone()).headers(headers);
        if let Some(body) = body {
            request = request.json(body);
        }
        match tokio::time::timeout(ANSWER, self.answered(request, ANSWER)).await {
            Ok(done) => done,
            Err(_) => Err(ClientError::TimedOut {
                url: self.url().to_owned(),
                seconds: ANSWER.as_secs(),
            }),
        }
    }

    /// Opens a stream of server-sent events.
    pub(crate) async fn events(
        &self,
        method: Method,
        url: &Url,
        last: Option<&str>,
        body: Option<&(impl Serialize + Sync)>,
    ) -> Result<EventStream, ClientError> {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static("text/event-stream"));
        if let Some(last) = last.and_then(|last| HeaderValue::from_str(last).ok()) {
            headers.insert("last-event-id", last);
        }
        let response = self.stream(method, url, headers, body).await?;
        Ok(EventStream::new(response, self.url().to_owned()))
    }

    async fn answered(&self, request: RequestBuilder, limit: Duration) -> Result<Response, ClientError> {
        let response = request
            .send()
            .await
            .map_err(|error| ClientError::transport(&error, self.url(), limit))?;
        let status = response.status();
        if status.is_success() || status == reqwest::StatusCode::SWITCHING_PROTOCOLS {
            return Ok(response);
        }
        let text = response
            .text()
            .await
            .map_err(|error| ClientError::transport(&error, self.url(), limit))?;
        match serde_json::from_str::<ErrorBody>(&text) {
            Ok(body) => Err(ClientError::Refused(Box::new(body.error))),
            Err(_) => Err(self.foreign(format!("status {status}: {}", beginning(&text)))),
        }
    }

    async fn body<T: DeserializeOwned>(
        &self,
        response: Response,
        patience: Patience,
    ) -> Result<T, ClientError> {
        let bytes = response
            .bytes()
            .await
            .map_err(|error| ClientError::transport(&error, self.url(), patience.limit()))?;
        serde_json::from_slice(&bytes).map_err(|error| self.foreign(error.to_string()))
    }

    pub(crate) fn foreign(&self, reason: String) -> ClientError {
        ClientError::Foreign {
            url: self.url().to_owned(),
            reason,
        }
    }
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || bare.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback())
}

fn beginning(text: &str) -> String {
    let line: String = text
        .chars()
        .take(MAX_FOREIGN)
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    line.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_escaped_and_keep_what_a_proxy_put_before() {
        let client = Client::new("https://host/ostler/", None).unwrap();
        assert_eq!(
            client.path(&["pools", "a b/../c"]).as_str(),
            "https://host/ostler/api/v1/pools/a%20b%2F..%2Fc"
        );
        assert_eq!(client.url(), "https://host/ostler");
    }

    #[test]
    fn what_cannot_be_a_server_is_refused() {
        for url in [
            "",
            "127.0.0.1:7070",
            "ftp://host",
            "http://me:secret@host",
            "mailto:x",
        ] {
            assert!(
                matches!(Client::new(url, None), Err(ClientError::Url { .. })),
                "{url}"
            );
        }
        let error = Client::new("http://127.0.0.1:1", Some("a\nb")).unwrap_err();
        assert!(matches!(error, ClientError::Token), "{error}");
    }

    #[test]
    fn loopback_is_recognised() {
        for (url, wanted) in [
            ("http://127.0.0.1:1", true),
            ("http://localhost", true),
            ("http://[::1]:7070", true),
            ("http://10.0.0.1", false),
            ("http://localhost.example", false),
        ] {
            assert_eq!(is_loopback(&Url::parse(url).unwrap()), wanted, "{url}");
        }
    }

    #[tokio::test]
    async fn a_server_that_is_not_there_is_named_with_what_to_do() {
        let client = Client::new("http://127.0.0.1:1", None).unwrap();
        let error = client.health().await.unwrap_err();
        let text = error.to_string();
        assert!(
            error.is_transient() && text.contains("http://127.0.0.1:1"),
            "{text}"
        );
        assert!(text.contains("ostler serve"), "{text}");
    }
}
