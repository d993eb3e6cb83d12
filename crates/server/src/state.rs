//! What handlers share.

use crate::origin::Origin;
use crate::rate::RateLimit;
use ostler_agents::Kinds;
use ostler_control::{Control, LogStore};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// Limits of the HTTP face.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ServerSettings {
    /// Bytes of a request body, for calls that carry no text of people.
    pub body_limit: usize,
    /// Bytes of a request body with a description or a command.
    pub text_body_limit: usize,
    /// Bytes of a file that is copied into an agent.
    pub upload_limit: u64,
    /// Seconds that a request may take; streams are exempt.
    pub request_timeout_seconds: u64,
    /// Requests of one token per second, over time; 0 for no limit.
    pub rate_per_second: u32,
    /// Requests of one token at once.
    pub rate_burst: u32,
    /// Origins of web pages, besides the server's own, that may use the interface.
    pub cors_origins: Vec<Origin>,
}

impl Default for ServerSettings {
    fn default() -> Self {
        Self {
            body_limit: 10 * 1024,
            text_body_limit: 1024 * 1024,
            upload_limit: 1 << 30,
            request_timeout_seconds: 60,
            rate_per_second: 1000,
            rate_burst: 2000,
            cors_origins: Vec::new(),
        }
    }
}

/// What handlers share; cheap to clone.
#[derive(Clone)]
pub struct ServerState {
    pub(crate) control: Control,
    pub(crate) logs: LogStore,
    pub(crate) kinds: Kinds,
    pub(crate) default_kind: String,
    pub(crate) settings: ServerSettings,
    pub(crate) development: bool,
    pub(crate) started: Instant,
    pub(crate) rate: Arc<RateLimit>,
    accepting: Arc<AtomicBool>,
}

impl ServerState {
    /// `development` signs everybody in as administrator: only for loopback, which the caller makes sure of.
    pub fn new(
        control: Control,
        logs: LogStore,
        kinds: Kinds,
        default_kind: String,
        settings: ServerSettings,
        development: bool,
    ) -> Self {
        let rate = Arc::new(RateLimit::new(settings.rate_per_second, settings.rate_burst));
        Self {
            control,
            rate,
            logs,
            kinds,
            default_kind,
            settings,
            development,
            started: Instant::now(),
            accepting: Arc::new(AtomicBool::new(true)),
        }
    }

    /// From now on health says that no new runs are started.
    pub fn stop_accepting(&self) {
        self.accepting.store(false, Ordering::Relaxed);
    }

    pub(crate) fn accepting(&self) -> bool {
        self.accepting.load(Ordering::Relaxed)
    }
}
