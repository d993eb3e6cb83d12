//! Settings of the work on tasks.

use ostler_domain::schedule::{Overcommit, SchedulerRules};
use ostler_domain::{Backoff, Requirements};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// How tasks are worked on: every interval and limit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WorkSettings {
    /// Agent kind of tasks that name none.
    pub agent_kind: String,
    /// What the sandboxes of agents must offer.
    pub agent_requirements: Requirements,
    /// What the sandboxes of checks must offer, besides what the repository's `ostler.toml` says.
    pub check_requirements: Requirements,
    /// What ids in the issue graph begin with, without the hyphen.
    pub issue_prefix: String,
    /// Attempts of a worker before its subtask is blocked.
    pub worker_attempts: u32,
    /// Attempts of a planner before planning has failed.
    pub planner_attempts: u32,
    /// Seconds to wait after the first failed attempt.
    pub backoff_first_seconds: f64,
    /// Growth of that wait from one attempt to the next.
    pub backoff_factor: f64,
    /// Longest wait, seconds.
    pub backoff_max_seconds: f64,
    /// Largest share of a wait that chance may take away.
    pub backoff_jitter: f64,
    /// Seconds after which an agent is ended by force.
    pub agent_timeout_seconds: u64,
    /// Seconds between two rounds over everything in progress, so that a missed hint is caught.
    pub sync_seconds: u64,
    /// Seconds that the worktree of a failed subtask is kept for a look.
    pub worktree_keep_seconds: u64,
    /// Seconds after its last use in which an agent's session is resumed.
    pub session_seconds: u64,
    /// Bring merged work to where the project was cloned from.
    pub push_to_origin: bool,
    /// How often a run may be started when its sandbox or server goes away.
    pub run_attempts: u32,
}

impl Default for WorkSettings {
    fn default() -> Self {
        let backoff = Backoff::default();
        Self {
            agent_kind: "claude".into(),
            agent_requirements: Requirements::default(),
            check_requirements: Requirements::default(),
            issue_prefix: "iv".into(),
            worker_attempts: 10,
            planner_attempts: 10,
            backoff_first_seconds: backoff.first.as_secs_f64(),
            backoff_factor: backoff.factor,
            backoff_max_seconds: backoff.max.as_secs_f64(),
            backoff_jitter: backoff.jitter,
            agent_timeout_seconds: 3600,
            sync_seconds: 30,
            worktree_keep_seconds: 3600,
            session_seconds: 7200,
            push_to_origin: true,
            run_attempts: 5,
        }
    }
}

impl WorkSettings {
    /// Waiting times between attempts. Values that make no sense (negative, not a number) count as zero.
    pub fn backoff(&self) -> Backoff {
        let seconds = |s: f64| Duration::try_from_secs_f64(s).unwrap_or_default();
        Backoff {
            first: seconds(self.backoff_first_seconds),
            factor: self.backoff_factor.max(1.0),
            max: seconds(self.backoff_max_seconds),
            jitter: self.backoff_jitter,
        }
    }
}

/// How sandboxes are looked after: every interval and limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SandboxSettings {
    /// Seconds between two health checks of a sandbox.
    pub health_seconds: u64,
    /// Health checks, and samples of use, at once.
    pub health_checks: usize,
    /// Seconds that a guest has to answer a health check.
    pub health_limit_seconds: u64,
    /// Failed checks in a row after which a sandbox is replaced.
    pub health_failures: u32,
    /// Failures in a row after which nothing is started on a host for a while.
    pub quarantine_failures: u32,
    /// Seconds that a sandbox may take to start, and then its guest to answer.
    pub start_seconds: u64,
    /// Seconds between two samples of what a sandbox uses.
    pub usage_seconds: u64,
    /// Hours that samples are kept.
    pub usage_keep_hours: u64,
    /// Seconds without use after which a held sandbox is frozen; 0 for never.
    pub idle_pause_seconds: u64,
    /// Seconds without use after which a held sandbox is ended; 0 for never.
    pub idle_destroy_seconds: u64,
    /// The last vsock context id that a sandbox may have; the first is 3.
    pub last_cid: u32,
    /// Whether workers may be given the engine of this host, and with it everything here.
    pub allow_engine_socket: bool,
    /// The socket of that engine.
    pub engine_socket: PathBuf,
    /// Whether workers may read the sign-in of the server's user at a model.
    pub allow_host_session: bool,
}

impl Default for SandboxSettings {
    fn default() -> Self {
        Self {
            health_seconds: 10,
            health_checks: 10,
            health_limit_seconds: 5,
            health_failures: 3,
            quarantine_failures: 5,
            start_seconds: 60,
            usage_seconds: 60,
            usage_keep_hours: 24,
            idle_pause_seconds: 0,
            idle_destroy_seconds: 0,
            last_cid: u32::MAX - 1,
            allow_engine_socket: false,
            engine_socket: "/var/run/docker.sock".into(),
            allow_host_session: false,
        }
    }
}

/// In which order runs are taken up, and how full machines are made. The rules are those of [`ostler_domain::schedule`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SchedulerSettings {
    /// Seconds of waiting that lift a run by one priority; 0 for never.
    pub ageing_seconds: u64,
    /// How much of a machine is given to sandboxes, percent of what it has. Sandboxes seldom use the CPUs that they may, so
    /// that these are given away several times by default; memory and disk are not.
    pub overcommit: Overcommit,
    /// Devices of this machine that only so many sandboxes can have at a time, by the names that pools use. One that is not
    /// named is shared by all, as `kvm` is.
    pub devices: BTreeMap<String, u64>,
    /// By name of a tenant: its weight among those that want something; 1 where it is not named.
    pub weights: BTreeMap<String, u32>,
}

impl Default for SchedulerSettings {
    fn default() -> Self {
        let rules = SchedulerRules::default();
        Self {
            ageing_seconds: rules.ageing_seconds,
            overcommit: Overcommit {
                cpus: 400,
                ..rules.overcommit
            },
            devices: BTreeMap::new(),
            weights: BTreeMap::new(),
        }
    }
}

impl SchedulerSettings {
    /// What of it the scheduler is told.
    pub(crate) fn rules(&self) -> SchedulerRules {
        SchedulerRules {
            ageing_seconds: self.ageing_seconds,
            overcommit: self.overcommit,
        }
    }
}
