//! What every driver must do, as test cases. A driver's tests implement [`Subject`] and call
//! [`driver_conformance!`](crate::driver_conformance), which makes one test of each case.
//!
//! A case about something that a driver does not claim checks that it is refused instead. Cases panic on a violation.

mod apart;
mod failures;
mod guest;
mod isolation;
mod leftovers;
mod lifecycle;
mod limits;
mod programs;

pub use apart::isolated_programs_cannot_reach_each_other;
pub use failures::*;
pub use guest::{Guest, Outcome};
pub use isolation::*;
pub use leftovers::{eventually, leftovers_on_host};
pub use lifecycle::*;
pub use limits::*;
pub use programs::*;

use crate::{Driver, SandboxSpec};
use async_trait::async_trait;
use ostler_domain::{SandboxId, SandboxTemplate};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// Longest wait for anything that must happen.
pub const LIMIT: Duration = Duration::from_secs(60);

/// A driver under test.
#[async_trait]
pub trait Subject: Send + Sync {
    /// A driver over this subject's state; called again, it is what a restarted server would make.
    async fn open(&self) -> Arc<dyn Driver>;

    /// A template that starts quickly and has a POSIX shell with the usual small programs.
    fn template(&self) -> SandboxTemplate;

    /// Whether programs are real; simulated ones have no processes and no shell.
    fn real(&self) -> bool {
        true
    }

    /// Memory in which a sandbox starts but a greedy program does not fit, MiB.
    fn small_memory_mb(&self) -> u64 {
        64
    }

    /// How many sandboxes this host can start at the same time within [`LIMIT`].
    fn many(&self) -> usize {
        10
    }

    /// A program that prints the numbers from 1 to `count`, one a line, over at least `count` × 10 ms.
    fn counter(&self, count: u32) -> Vec<String> {
        let script = format!("i=0; while [ $i -lt {count} ]; do i=$((i+1)); echo $i; sleep 0.01; done");
        ["sh", "-c", &script].map(str::to_owned).to_vec()
    }

    /// Kills the first process of a sandbox from outside.
    async fn kill_first_process(&self, id: SandboxId);

    /// A driver and a template that it accepts but whose start fails.
    async fn failing(&self) -> (Arc<dyn Driver>, SandboxTemplate);

    /// Everything that is left of a sandbox, in words, beyond what can be seen of it in /proc and the cgroups.
    async fn leftovers(&self, id: SandboxId) -> Vec<String>;
}

/// What to start, with a vsock context id where the driver needs one.
pub fn spec(driver: &dyn Driver, id: SandboxId, template: SandboxTemplate) -> SandboxSpec {
    // Tests run in processes of their own on one host, where a context id names one machine.
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let cid = || (std::process::id() << 8 | NEXT.fetch_add(1, Ordering::Relaxed) & 0xff) + 3;
    SandboxSpec {
        vsock_cid: driver.capabilities().vsock.then(cid),
        ..SandboxSpec::new(id, template)
    }
}

/// A started sandbox with its guest; a test that ends early removes it on the next run of the clean-up, not by itself.
pub(crate) struct Started {
    pub(crate) driver: Arc<dyn Driver>,
    pub(crate) id: SandboxId,
    pub(crate) guest: Guest,
}

impl Started {
    pub(crate) async fn new(subject: &dyn Subject) -> Self {
        Self::with(subject, subject.template()).await
    }

    pub(crate) async fn with(subject: &dyn Subject, template: SandboxTemplate) -> Self {
        let driver = subject.open().await;
        Self::on(driver, template).await
    }

    pub(crate) async fn on(driver: Arc<dyn Driver>, template: SandboxTemplate) -> Self {
        let id = SandboxId::new();
        if let Err(e) = driver.start(&spec(driver.as_ref(), id, template)).await {
            panic!("start: {e}");
        }
        let guest = Guest::ready(driver.as_ref(), id).await;
        Self { driver, id, guest }
    }

    /// Removes it and checks that nothing is left.
    pub(crate) async fn remove(self, subject: &dyn Subject) {
        if let Err(e) = self.driver.remove(self.id, Duration::from_millis(500)).await {
            panic!("remove: {e}");
        }
        nothing_left(subject, self.driver.as_ref(), self.id).await;
    }
}

/// Waits until nothing of the sandbox is left anywhere.
pub(crate) async fn nothing_left(subject: &dyn Subject, driver: &dyn Driver, id: SandboxId) {
    let listed = driver.list().await.unwrap_or_else(|e| panic!("list: {e}"));
    assert!(!listed.contains(&id), "{id} is still listed");
    let status = driver.status(id).await.unwrap_or_else(|e| panic!("status: {e}"));
    assert_eq!(status, crate::DriverStatus::Gone);
    let mut left = Vec::new();
    // The kernel forgets mounts and processes a moment after their end.
    let clean = eventually(async || {
        left = leftovers_on_host(id);
        left.extend(subject.leftovers(id).await);
        left.is_empty()
    });
    assert!(clean.await, "left of {id}: {left:#?}");
}

/// Makes one test of each case. The expression makes the [`Subject`] and may await.
#[macro_export]
macro_rules! driver_conformance {
    ($subject:expr) => {
        $crate::driver_conformance! { @each $subject;
            programs_run_and_tell_how_they_ended
            environment_and_directory_are_as_asked
            the_environment_of_the_server_stays_outside
            a_restarted_server_goes_on_without_a_gap
            removing_is_idempotent
            nothing_is_left_of_what_ran_in_it
            the_same_id_is_not_started_twice
            many_start_and_end_at_the_same_time
            a_crash_is_announced
            a_crash_after_a_restart_is_announced
            a_failed_start_leaves_nothing
            a_start_given_up_midway_can_be_removed
            what_cannot_be_enforced_is_refused
            sandboxes_do_not_see_each_other
            without_a_network_there_is_no_route
            the_root_of_the_host_is_out_of_reach
            memory_is_limited
            cpu_time_is_limited
            pausing_stops_everything
        }
    };
    (@each $subject:expr; $($case:ident)*) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $case() {
            $crate::conformance::$case(&$subject).await;
        }
    )*};
}
