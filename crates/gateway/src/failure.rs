//! Failures in the form in which each provider reports its own, so that agent programs understand them.

use crate::Upstream;
use axum::body::Body;
use http::{HeaderValue, Response, StatusCode, header};
use serde_json::json;

/// Why a call got no answer from the upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Failure {
    /// A call that is not let through.
    NotAllowed(String),
    /// A path that is none.
    BadPath,
    /// A body over the limit.
    TooLarge(u64),
    /// No key is set.
    NoCredential(Upstream),
    /// The upstream cannot be reached or broke off.
    Unreachable(Upstream),
    /// The upstream took too long.
    TimedOut(Upstream),
}

impl Failure {
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::NotAllowed(_) => StatusCode::NOT_FOUND,
            Self::BadPath => StatusCode::BAD_REQUEST,
            Self::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::NoCredential(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Unreachable(_) => StatusCode::BAD_GATEWAY,
            Self::TimedOut(_) => StatusCode::GATEWAY_TIMEOUT,
        }
    }

    fn message(&self) -> String {
        match self {
            Self::NotAllowed(call) => {
                format!("Ostler's gateway does not let {call} through; agents may only ask models")
            }
            Self::BadPath => "Ostler's gateway cannot make a URL of this path".to_owned(),
            Self::TooLarge(limit) => {
                format!("the request is larger than the gateway's limit of {limit} bytes")
            }
            Self::NoCredential(upstream) => format!(
                "Ostler's gateway has no usable key for {upstream}; the operator must set one in the settings or the server's environment"
            ),
            Self::Unreachable(upstream) => {
                format!("Ostler's gateway cannot reach {upstream}; the server's log says why")
            }
            Self::TimedOut(upstream) => format!("{upstream} did not answer Ostler's gateway in time"),
        }
    }

    /// The response for a caller that believes to speak to `upstream`.
    pub(crate) fn response(&self, upstream: Upstream) -> Response<Body> {
        let (status, message) = (self.status(), self.message());
        let body = match upstream {
            Upstream::Anthropic => {
                let kind = match self {
                    Self::NotAllowed(_) => "not_found_error",
                    Self::BadPath => "invalid_request_error",
                    Self::TooLarge(_) => "request_too_large",
                    Self::TimedOut(_) => "timeout_error",
                    Self::NoCredential(_) | Self::Unreachable(_) => "api_error",
                };
                json!({"type": "error", "error": {"type": kind, "message": message}})
            }
            Upstream::OpenAi => {
                let kind = if status.is_client_error() {
                    "invalid_request_error"
                } else {
                    "server_error"
                };
                json!({"error": {"message": message, "type": kind, "param": null, "code": null}})
            }
            Upstream::Gemini => {
                let name = match self {
                    Self::NotAllowed(_) => "NOT_FOUND",
                    Self::BadPath | Self::TooLarge(_) => "INVALID_ARGUMENT",
                    Self::TimedOut(_) => "DEADLINE_EXCEEDED",
                    Self::NoCredential(_) | Self::Unreachable(_) => "UNAVAILABLE",
                };
                json!({"error": {"code": status.as_u16(), "message": message, "status": name}})
            }
        };
        let mut response = Response::new(Body::from(body.to_string()));
        *response.status_mut() = status;
        response
            .headers_mut()
            .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        response
    }
}
