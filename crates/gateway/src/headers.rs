//! Which headers pass, in each direction.

use crate::{Credential, Upstream};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};

/// Request headers that pass. `accept-encoding` is not among them: a compressed answer could not be counted.
const REQUEST: [&str; 9] = [
    "accept",
    "content-length",
    "content-type",
    "idempotency-key",
    "openai-beta",
    "user-agent",
    "x-app",
    "x-goog-api-client",
    "x-request-id",
];

/// Beginnings of request headers that pass.
const REQUEST_PREFIXES: [&str; 3] = ["anthropic-", "x-stainless-", "x-claude-"];

/// Response headers that do not pass: those of the connection, and those that would tie the sandbox to the account.
const NOT_IN_RESPONSE: [&str; 9] = [
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-connection",
    "set-cookie",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "www-authenticate",
];

/// The beta flag without which Anthropic's API refuses the tokens of a sign-in.
const SIGN_IN_BETA: &str = "oauth-2025-04-20";

/// The headers for the upstream: those of the caller that may pass, and the real credential. None if the credential
/// cannot be a header.
pub(crate) fn to_upstream(
    from: &HeaderMap,
    upstream: Upstream,
    credential: &Credential,
) -> Option<HeaderMap> {
    let passes = |name: &HeaderName| {
        let name = name.as_str();
        REQUEST.contains(&name) || REQUEST_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
    };
    let mut to = HeaderMap::new();
    for (name, value) in from.iter().filter(|(name, _)| passes(name)) {
        to.append(name, value.clone());
    }
    to.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    if upstream == Upstream::Anthropic && credential.is_anthropic_sign_in() {
        to.append("anthropic-beta", HeaderValue::from_static(SIGN_IN_BETA));
    }
    let (name, value) = credential.header(upstream)?;
    to.insert(name, value);
    Some(to)
}

/// The headers of the upstream's answer that the caller gets.
pub(crate) fn to_caller(from: &HeaderMap) -> HeaderMap {
    let mut to = from.clone();
    for name in NOT_IN_RESPONSE {
        to.remove(name);
    }
    to
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Secret;

    fn headers(names: &[&'static str]) -> HeaderMap {
        names
            .iter()
            .map(|name| (HeaderName::from_static(name), HeaderValue::from_static("caller")))
            .collect()
    }

    #[test]
    fn the_callers_credentials_stay_here() {
        let from = headers(&[
            "authorization",
            "x-api-key",
            "x-goog-api-key",
            "cookie",
            "host",
            "proxy-authorization",
            "accept-encoding",
            "anthropic-version",
            "content-type",
        ]);
        for upstream in Upstream::ALL {
            let to = to_upstream(&from, upstream, &Credential::ApiKey(Secret::new("real"))).unwrap();
            let from_caller: Vec<&str> = to
                .iter()
                .filter(|(_, value)| *value == "caller")
                .map(|(name, _)| name.as_str())
                .collect();
            assert_eq!(from_caller.len(), 2, "{from_caller:?}");
            assert_eq!(to["accept-encoding"], "identity");
        }
    }

    #[test]
    fn a_sign_in_token_brings_its_flag_beside_those_of_the_caller() {
        let token = Credential::Bearer(Secret::new("sk-ant-oat01-x"));
        let to = to_upstream(&headers(&["anthropic-beta"]), Upstream::Anthropic, &token).unwrap();
        let flags: Vec<&HeaderValue> = to.get_all("anthropic-beta").iter().collect();
        assert_eq!(flags, ["caller", SIGN_IN_BETA]);
        assert_eq!(to["authorization"], "Bearer sk-ant-oat01-x");
        let other = Credential::Bearer(Secret::new("proxy-token"));
        assert!(
            !to_upstream(&HeaderMap::new(), Upstream::Anthropic, &other)
                .unwrap()
                .contains_key("anthropic-beta")
        );
    }

    #[test]
    fn cookies_of_the_upstream_stay_here() {
        let to = to_caller(&headers(&[
            "set-cookie",
            "connection",
            "retry-after",
            "content-type",
        ]));
        assert_eq!(to.len(), 2);
    }
}
