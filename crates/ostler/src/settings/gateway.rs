//! Settings of the model APIs.

use ostler_gateway::{Credential, GatewaySettings, Secret, Upstream, UpstreamSettings};
use serde::{Deserialize, Serialize};

/// The model APIs that agents reach through the server. A key that is not set here is taken from the variable that the
/// provider's own programs read, such as `ANTHROPIC_API_KEY`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct GatewayConfig {
    /// Anthropic.
    pub(crate) anthropic: UpstreamConfig,
    /// OpenAI.
    pub(crate) openai: UpstreamConfig,
    /// Google Gemini.
    pub(crate) gemini: UpstreamConfig,
}

/// One of them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct UpstreamConfig {
    /// Base URL, `https` unless it is on loopback; the provider's own when absent.
    pub(crate) base_url: Option<String>,
    /// Key of the API.
    pub(crate) api_key: Option<String>,
    /// Token of a sign-in, or of a proxy in between; goes before a key.
    pub(crate) auth_token: Option<String>,
}

impl GatewayConfig {
    /// As the gateway wants it, with what the environment has.
    pub(crate) fn resolve(&self, variable: impl Fn(&str) -> Option<String> + Copy) -> GatewaySettings {
        let upstreams = Upstream::ALL.map(|upstream| {
            let own = match upstream {
                Upstream::Anthropic => &self.anthropic,
                Upstream::OpenAi => &self.openai,
                Upstream::Gemini => &self.gemini,
            };
            let token = own
                .auth_token
                .clone()
                .map(|token| Credential::Bearer(Secret::new(token)));
            let key = own
                .api_key
                .clone()
                .map(|key| Credential::ApiKey(Secret::new(key)));
            let settings = UpstreamSettings {
                base_url: own.base_url.clone(),
                credential: token.or(key).or_else(|| Credential::from_env(upstream, variable)),
            };
            (upstream, settings)
        });
        GatewaySettings {
            upstreams: upstreams.into(),
            ..GatewaySettings::default()
        }
    }

    pub(super) fn redact(&mut self) {
        for own in [&mut self.anthropic, &mut self.openai, &mut self.gemini] {
            for secret in [&mut own.api_key, &mut own.auth_token] {
                *secret = secret.take().map(|_| "***".to_owned());
            }
        }
    }
}
