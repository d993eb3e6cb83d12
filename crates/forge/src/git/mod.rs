//! The real `git` program, run so that nothing but Ostler decides what it does.
//!
//! A library would spare the processes, but not the formats, protocols and corner cases of years; the program is what
//! users debug with. It is run with an environment made from nothing: no configuration of user or system, no hooks, no
//! prompts, only network protocols that move data. See [`Call`] for the rules of one call.

mod call;
mod credential;
mod process;

pub use call::{Call, Output};
pub use credential::Credential;

use std::ffi::OsString;
use std::time::Duration;

/// A handle on the `git` program; cheap to clone.
#[derive(Debug, Clone)]
pub struct Git {
    program: OsString,
    local_timeout: Duration,
    network_timeout: Duration,
}

impl Default for Git {
    fn default() -> Self {
        Self {
            program: "git".into(),
            local_timeout: Duration::from_secs(120),
            network_timeout: Duration::from_secs(600),
        }
    }
}

impl Git {
    /// The `git` found on the path, with limits of 120 s for local calls and 600 s for those over the network.
    pub fn new() -> Self {
        Self::default()
    }

    /// Another program than the `git` on the path.
    #[must_use]
    pub fn program(mut self, program: impl Into<OsString>) -> Self {
        self.program = program.into();
        self
    }

    /// Other limits for the run time of one call; at a limit the call's whole process group ends.
    #[must_use]
    pub fn timeouts(mut self, local: Duration, network: Duration) -> Self {
        self.local_timeout = local;
        self.network_timeout = network;
        self
    }

    /// Begins a call of `git <subcommand>`.
    pub fn call(&self, subcommand: &'static str) -> Call<'_> {
        Call::new(self, subcommand)
    }
}
