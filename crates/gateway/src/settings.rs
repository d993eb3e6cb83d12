//! What an operator may set.

use crate::{Credential, Prices, Upstream};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::time::Duration;

/// Where an upstream is and what it is shown.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct UpstreamSettings {
    /// Base URL, `https` unless it is on loopback; the provider's own when absent. May have a path.
    pub base_url: Option<String>,
    /// The real key; calls are refused while there is none.
    pub credential: Option<Credential>,
}

/// Settings of the gateway.
#[derive(Debug, Clone, PartialEq)]
pub struct GatewaySettings {
    /// By upstream; those that are absent have their defaults and no key.
    pub upstreams: BTreeMap<Upstream, UpstreamSettings>,
    /// The largest request body, in bytes: 32 MiB, the limit of Anthropic's API.
    pub max_body: u64,
    /// For a connection to the upstream: 10 s.
    pub connect_timeout: Duration,
    /// From the request to the head of the answer, upload included: 10 min, since models may think before they speak.
    pub first_byte_timeout: Duration,
    /// Between two pieces of an answer: 5 min. Providers send pings while a model is silent.
    pub idle_timeout: Duration,
    /// Prices per model; the cost of a model without one is counted as 0.
    pub prices: Prices,
}

impl Default for GatewaySettings {
    fn default() -> Self {
        Self {
            upstreams: BTreeMap::new(),
            max_body: 32 << 20,
            connect_timeout: Duration::from_secs(10),
            first_byte_timeout: Duration::from_secs(600),
            idle_timeout: Duration::from_secs(300),
            prices: Prices::default(),
        }
    }
}
