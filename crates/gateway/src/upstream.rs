//! The providers, and the calls of theirs that may be made.

use http::Method;
use serde::{Deserialize, Serialize};
use std::fmt;

/// A model API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Upstream {
    /// Anthropic.
    Anthropic,
    /// OpenAI.
    OpenAi,
    /// Google Gemini.
    Gemini,
}

impl Upstream {
    /// Every one.
    pub const ALL: [Self; 3] = [Self::Anthropic, Self::OpenAi, Self::Gemini];

    /// Its name in paths and settings.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Anthropic => "anthropic",
            Self::OpenAi => "openai",
            Self::Gemini => "gemini",
        }
    }

    /// Where it is unless settings say otherwise.
    pub const fn default_base_url(self) -> &'static str {
        match self {
            Self::Anthropic => "https://api.anthropic.com",
            Self::OpenAi => "https://api.openai.com",
            Self::Gemini => "https://generativelanguage.googleapis.com",
        }
    }

    /// Whether an agent may make this call. A key is often good for more than asking a model: for files, batches that
    /// no budget sees, or the administration of an account.
    pub(crate) fn allows(self, method: &Method, path: &str) -> bool {
        let models = |base: &str| {
            let rest = path.strip_prefix(base);
            method == Method::GET && rest.is_some_and(|rest| rest.is_empty() || is_one_segment(rest))
        };
        match self {
            Self::Anthropic => {
                models("/v1/models")
                    || (method == Method::POST
                        && matches!(path, "/v1/messages" | "/v1/messages/count_tokens"))
            }
            Self::OpenAi => {
                models("/v1/models")
                    || (method == Method::POST && matches!(path, "/v1/responses" | "/v1/chat/completions"))
            }
            Self::Gemini => {
                let versions = ["/v1beta/models", "/v1/models"];
                let action = path.rsplit_once(':');
                versions.iter().any(|base| models(base))
                    || (method == Method::POST
                        && action.is_some_and(|(model, action)| {
                            matches!(
                                action,
                                "generateContent" | "streamGenerateContent" | "countTokens"
                            ) && versions
                                .iter()
                                .any(|base| model.strip_prefix(base).is_some_and(is_one_segment))
                        }))
            }
        }
    }

    /// Whether the answer to this call says what was used.
    pub(crate) fn is_metered(self, path: &str) -> bool {
        self == Self::Anthropic && path == "/v1/messages"
    }
}

fn is_one_segment(rest: &str) -> bool {
    rest.strip_prefix('/')
        .is_some_and(|name| !name.is_empty() && !name.contains('/'))
}

impl fmt::Display for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_calls_of_models_pass() {
        for (upstream, method, path) in [
            (Upstream::Anthropic, Method::POST, "/v1/messages"),
            (Upstream::Anthropic, Method::POST, "/v1/messages/count_tokens"),
            (Upstream::Anthropic, Method::GET, "/v1/models/claude"),
            (Upstream::OpenAi, Method::POST, "/v1/responses"),
            (
                Upstream::Gemini,
                Method::POST,
                "/v1beta/models/gemini-pro:streamGenerateContent",
            ),
        ] {
            assert!(upstream.allows(&method, path), "{method} {path}");
        }
        for (upstream, method, path) in [
            (Upstream::Anthropic, Method::GET, "/v1/messages"),
            (Upstream::Anthropic, Method::POST, "/v1/messages/batches"),
            (Upstream::Anthropic, Method::GET, "/v1/organizations/users"),
            (Upstream::Anthropic, Method::GET, "/v1/models/../files"),
            (Upstream::OpenAi, Method::POST, "/v1/files"),
            (
                Upstream::Gemini,
                Method::POST,
                "/v1beta/models/a/b:generateContent",
            ),
            (
                Upstream::Gemini,
                Method::POST,
                "/v1beta/cachedContents:generateContent",
            ),
        ] {
            assert!(!upstream.allows(&method, path), "{method} {path}");
        }
    }
}
