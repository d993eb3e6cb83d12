//! The real keys.

use crate::Upstream;
use http::HeaderValue;
use serde::Deserialize;
use std::fmt;

/// A text that is never shown: not by `Debug`, and there is neither `Display` nor `Serialize`.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself, for the one place where it is needed.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// What the operator has for an upstream.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Credential {
    /// A key of the API, sent in the header that the provider wants it in.
    ApiKey(Secret),
    /// A token of a sign-in or of a proxy in between, sent as `Authorization: Bearer`.
    Bearer(Secret),
}

impl Credential {
    /// What the environment has for `upstream`, by the variables that the providers' own programs read. A token goes
    /// before a key, as in Claude Code.
    pub fn from_env(upstream: Upstream, variable: impl Fn(&str) -> Option<String>) -> Option<Self> {
        let get = |name: &str| {
            let value = variable(name)?.trim().to_owned();
            (!value.is_empty()).then(|| Secret::new(value))
        };
        match upstream {
            Upstream::Anthropic => get("ANTHROPIC_AUTH_TOKEN")
                .or_else(|| get("CLAUDE_CODE_OAUTH_TOKEN"))
                .map(Self::Bearer)
                .or_else(|| get("ANTHROPIC_API_KEY").map(Self::ApiKey)),
            Upstream::OpenAi => get("OPENAI_API_KEY").map(Self::ApiKey),
            Upstream::Gemini => get("GEMINI_API_KEY").map(Self::ApiKey),
        }
    }

    /// The header that carries it. None if it holds what no header may.
    pub(crate) fn header(&self, upstream: Upstream) -> Option<(&'static str, HeaderValue)> {
        let (name, value) = match (self, upstream) {
            (Self::ApiKey(key), Upstream::Anthropic) => ("x-api-key", key.expose().to_owned()),
            (Self::ApiKey(key), Upstream::Gemini) => ("x-goog-api-key", key.expose().to_owned()),
            (Self::ApiKey(key) | Self::Bearer(key), _) => {
                ("authorization", format!("Bearer {}", key.expose()))
            }
        };
        let mut value = HeaderValue::from_str(&value).ok()?;
        value.set_sensitive(true);
        Some((name, value))
    }

    /// Whether Anthropic's API accepts it only together with the beta flag of its sign-in tokens.
    pub(crate) fn is_anthropic_sign_in(&self) -> bool {
        matches!(self, Self::Bearer(token) if token.expose().starts_with("sk-ant-oat"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_shown() {
        let credential = Credential::ApiKey(Secret::new("planted"));
        assert!(!format!("{credential:?}").contains("planted"));
        let (_, header) = credential.header(Upstream::Anthropic).unwrap();
        assert!(!format!("{header:?}").contains("planted"));
    }

    #[test]
    fn each_provider_has_its_header() {
        let key = Credential::ApiKey(Secret::new("k"));
        let bearer = Credential::Bearer(Secret::new("t"));
        let name = |credential: &Credential, upstream| credential.header(upstream).unwrap().0;
        assert_eq!(name(&key, Upstream::Anthropic), "x-api-key");
        assert_eq!(name(&bearer, Upstream::Anthropic), "authorization");
        assert_eq!(name(&key, Upstream::OpenAi), "authorization");
        assert_eq!(name(&key, Upstream::Gemini), "x-goog-api-key");
        assert!(
            Credential::ApiKey(Secret::new("a\nb"))
                .header(Upstream::Anthropic)
                .is_none()
        );
    }

    #[test]
    fn the_environment_is_read_in_order() {
        let env = |names: &'static [&'static str]| {
            Credential::from_env(Upstream::Anthropic, move |name| {
                names.contains(&name).then(|| " v ".to_owned())
            })
        };
        let value = || Secret::new("v");
        assert_eq!(
            env(&["ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN"]),
            Some(Credential::Bearer(value()))
        );
        assert_eq!(env(&["ANTHROPIC_API_KEY"]), Some(Credential::ApiKey(value())));
        assert_eq!(
            Credential::from_env(Upstream::Gemini, |_| Some("  ".to_owned())),
            None
        );
    }
}
