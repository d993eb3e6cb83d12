//! Web pages that may use the interface.

use crate::error::ApiError;
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, HOST, ORIGIN, RETRY_AFTER};
use axum::http::request::Parts;
use axum::http::uri::Authority;
use axum::http::{HeaderName, HeaderValue, Method, Uri};
use ostler_contracts::ErrorCode;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use std::time::Duration;
use tower_http::cors::CorsLayer;

/// The origin of a web page as browsers send it, like `https://ostler.example.org` or `http://localhost:5173`. There is no
/// form that means all of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Origin(HeaderValue);

impl TryFrom<String> for Origin {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let plain = |uri: &Uri| {
            matches!(uri.scheme_str(), Some("http" | "https"))
                && uri.authority().is_some_and(|a| !a.as_str().contains('@'))
                && uri.path() == "/"
                && !text.ends_with('/')
                && !text.contains('?')
                && text == text.to_ascii_lowercase()
        };
        let known = text.parse::<Uri>().ok().filter(plain);
        match (known, HeaderValue::from_str(&text)) {
            (Some(_), Ok(value)) => Ok(Self(value)),
            _ => Err(format!(
                "`{text}` is not an origin: give scheme, host and port in lower case, like http://localhost:5173, \
                 without anything after it"
            )),
        }
    }
}

impl From<Origin> for String {
    fn from(origin: Origin) -> Self {
        // It was made from a text.
        String::from_utf8_lossy(origin.0.as_bytes()).into_owned()
    }
}

/// Tells browsers which pages may use the interface. Tokens are sent in a header, never by the browser itself, so that
/// no cookies are allowed.
pub(crate) fn cors(origins: &[Origin]) -> CorsLayer {
    let request_id = HeaderName::from_static("x-request-id");
    if origins.is_empty() {
        return CorsLayer::new();
    }
    CorsLayer::new()
        .allow_origin(origins.iter().map(|o| o.0.clone()).collect::<Vec<_>>())
        .allow_methods([
            Method::GET,
            Method::POST,
            Method::PUT,
            Method::PATCH,
            Method::DELETE,
        ])
        .allow_headers([
            AUTHORIZATION,
            CONTENT_TYPE,
            HeaderName::from_static("last-event-id"),
            HeaderName::from_static(crate::auth::TENANT),
            request_id.clone(),
        ])
        .expose_headers([request_id, RETRY_AFTER])
        .max_age(Duration::from_secs(600))
}

/// In development mode no token protects the server from web pages that its user looks at: neither from one that calls
/// it across origins, nor from one that got its own name to point at this machine. So the name by which it is called
/// must be one of this machine, and the calling page its own or one of the settings.
pub(crate) fn check_development(parts: &Parts, allowed: &[Origin]) -> Result<(), ApiError> {
    let refused = |message: String| Err(ApiError::new(ErrorCode::Forbidden, message));
    let named = parts.headers.get(HOST).map(|value| value.to_str().unwrap_or("?"));
    let host = named.or_else(|| parts.uri.authority().map(Authority::as_str));
    if let Some(host) = host
        && !is_local(host)
    {
        return refused(format!(
            "development mode answers only under the names localhost and 127.0.0.1, not under {}; use tokens instead",
            host.escape_debug()
        ));
    }
    let Some(origin) = parts.headers.get(ORIGIN) else {
        return Ok(());
    };
    let own = host.is_some_and(|host| origin.as_bytes() == format!("http://{host}").as_bytes());
    if own || allowed.iter().any(|o| o.0 == origin) {
        return Ok(());
    }
    refused(
        "development mode answers no page of another origin; name the origin in the setting `server.cors_origins`, or \
         use tokens"
            .to_owned(),
    )
}

fn is_local(host: &str) -> bool {
    let Ok(authority) = host.parse::<Authority>() else {
        return false;
    };
    let name = authority.host();
    let address = name.trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost") || address.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_exact_origins_can_be_set() {
        for right in [
            "https://ostler.example.org",
            "http://localhost:5173",
            "http://[::1]:80",
        ] {
            Origin::try_from(right.to_owned()).unwrap();
        }
        for wrong in [
            "*",
            "localhost",
            "https://a/",
            "https://a/b",
            "https://u@a",
            "https://A",
            "ftp://a",
            "https://a?b",
            "null",
        ] {
            Origin::try_from(wrong.to_owned()).unwrap_err();
        }
    }

    #[test]
    fn names_of_this_machine() {
        for local in [
            "localhost",
            "localhost:1",
            "127.0.0.1:7070",
            "127.8.0.1",
            "[::1]:80",
        ] {
            assert!(is_local(local), "{local}");
        }
        for other in [
            "localhost.example.org",
            "127.0.0.1.example.org",
            "10.0.0.1",
            "",
            "a b",
        ] {
            assert!(!is_local(other), "{other}");
        }
    }
}
