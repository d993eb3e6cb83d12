//! Settings of what sandboxes reach of the outside.

use super::Enabled;
use anyhow::Context;
use ostler_egress::Options;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;

/// The way out of sandboxes whose network is filtered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct EgressSettings {
    /// Name servers; those of this machine when empty.
    pub(crate) name_servers: Vec<SocketAddr>,
    /// Networks that are not public and in which listed domains may be.
    pub(crate) public: Vec<String>,
    /// Whether sandboxes of the process driver have an interface.
    pub(crate) interfaces: Enabled,
    /// Addresses of those interfaces.
    pub(crate) range: String,
}

impl Default for EgressSettings {
    fn default() -> Self {
        Self {
            name_servers: Vec::new(),
            public: Vec::new(),
            interfaces: Enabled::No,
            range: "10.213.0.0/16".to_owned(),
        }
    }
}

impl EgressSettings {
    /// What the filter is made with. An error names the entry.
    pub(crate) fn options(&self) -> anyhow::Result<Options> {
        let public = self.public.iter().map(|entry| {
            entry
                .parse()
                .map_err(anyhow::Error::msg)
                .with_context(|| format!("`egress.public` has the entry `{entry}`, which is no network"))
        });
        Ok(Options {
            name_servers: self.name_servers.clone(),
            public: public.collect::<anyhow::Result<_>>()?,
            ..Options::default()
        })
    }
}
