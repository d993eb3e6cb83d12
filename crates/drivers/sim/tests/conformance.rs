//! The driver conformance suite on simulated sandboxes.

use async_trait::async_trait;
use ostler_domain::{DriverKind, SandboxId, SandboxTemplate};
use ostler_driver_sim::{Often, Program, SimControl, SimDriver};
use ostler_sandbox::conformance::Subject;
use ostler_sandbox::{Driver, ExitInfo};
use std::sync::Arc;
use std::time::Duration;

struct Sim(SimControl);

impl Sim {
    fn new() -> Self {
        let control = SimControl::new();
        let count = |mut invocation: ostler_driver_sim::Invocation| async move {
            let count: u32 = invocation.argv[1].parse().unwrap_or(0);
            for n in 1..=count {
                invocation.stdout(format!("{n}\n")).await;
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            0
        };
        control.program("count", Program::new(count));
        Self(control)
    }
}

#[async_trait]
impl Subject for Sim {
    async fn open(&self) -> Arc<dyn Driver> {
        Arc::new(SimDriver::new(self.0.clone()))
    }

    fn template(&self) -> SandboxTemplate {
        SandboxTemplate::new(DriverKind::Sim)
    }

    fn real(&self) -> bool {
        false
    }

    fn counter(&self, count: u32) -> Vec<String> {
        vec!["count".into(), count.to_string()]
    }

    async fn kill_first_process(&self, id: SandboxId) {
        let exit = ExitInfo {
            signal: Some(9),
            ..ExitInfo::default()
        };
        assert!(self.0.crash(id, exit));
    }

    async fn failing(&self) -> (Arc<dyn Driver>, SandboxTemplate) {
        self.0.fail_starts(Often::Times(1));
        (self.open().await, self.template())
    }

    async fn leftovers(&self, id: SandboxId) -> Vec<String> {
        self.0
            .ids()
            .into_iter()
            .filter(|i| *i == id)
            .map(|i| i.to_string())
            .collect()
    }
}

ostler_sandbox::driver_conformance!(Sim::new());
