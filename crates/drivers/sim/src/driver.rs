//! The driver over a simulated world.

use crate::control::{SimControl, Simulated, lock};
use async_trait::async_trait;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use ostler_domain::{DriverKind, Isolation, NetworkPolicy, SandboxId};
use ostler_guest_protocol::v1::guest_server::GuestServer;
use ostler_sandbox::{
    ByteStream, Capabilities, Driver, DriverError, DriverEvent, DriverStatus, Finding, MachineSize,
    SandboxSpec, Usage,
};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::broadcast;

const KIND: DriverKind = DriverKind::Sim;
/// Bytes that a connection holds in each direction.
const STREAM: usize = 64 * 1024;

/// Sandboxes in memory.
pub struct SimDriver {
    control: SimControl,
    capabilities: Capabilities,
}

impl SimDriver {
    /// A driver of the sandboxes in this world, also of those that are there already. It claims what a good back end can
    /// do; limits and isolation are simulated by there being no real programs.
    pub fn new(control: SimControl) -> Self {
        Self {
            control,
            capabilities: Capabilities {
                isolation: Isolation::Namespace,
                networks: vec![NetworkPolicy::None, NetworkPolicy::Open],
                images: false,
                cpu_limit: true,
                memory_limit: true,
                disk_limit: false,
                mounts: false,
                pause: true,
                snapshot: false,
                machines: false,
                vsock: false,
                devices: std::collections::BTreeSet::new(),
                users: false,
                console: false,
                arch: std::env::consts::ARCH.to_owned(),
                kernels: Vec::new(),
            },
        }
    }

    fn failed(action: &'static str, id: SandboxId, message: &str) -> DriverError {
        DriverError::Failed {
            driver: KIND,
            action,
            id,
            message: message.to_owned(),
        }
    }

    fn running(&self, id: SandboxId) -> Result<Arc<Simulated>, DriverError> {
        self.control
            .find(id)
            .filter(|s| lock(&s.exit).is_none())
            .ok_or(DriverError::NotFound { driver: KIND, id })
    }
}

#[async_trait]
impl Driver for SimDriver {
    fn kind(&self) -> DriverKind {
        KIND
    }

    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn machine(&self) -> Option<MachineSize> {
        self.control.machine()
    }

    async fn probe(&self) -> Vec<Finding> {
        vec![Finding {
            subject: "simulation".into(),
            ok: true,
            detail: "runs no real programs: for tests only".into(),
        }]
    }

    async fn start(&self, spec: &SandboxSpec) -> Result<String, DriverError> {
        self.check(&spec.template)?;
        let fails = self.control.start_fails();
        let delay = self.control.start_delay();
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        if fails {
            return Err(Self::failed("start", spec.id, "this start was ordered to fail"));
        }
        if self.control.add(spec.id, spec.template.clone()) {
            Ok(format!("sim-{}", spec.id))
        } else {
            Err(Self::failed(
                "start",
                spec.id,
                "there is one with this id already",
            ))
        }
    }

    async fn connect(&self, id: SandboxId) -> Result<Box<dyn ByteStream>, DriverError> {
        let sandbox = self.running(id)?;
        if self.control.refuses_connections() {
            return Err(Self::failed(
                "connect to",
                id,
                "connections were ordered to be refused",
            ));
        }
        let (ours, theirs) = tokio::io::duplex(STREAM);
        let service = TowerToHyperService::new(GuestServer::new(sandbox.guest.clone()));
        let end = sandbox.end.clone();
        tokio::spawn(async move {
            let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(theirs), service);
            tokio::select! {
                // A client that breaks the connection has its reasons; the guest goes on.
                _broken = connection => {}
                () = end.cancelled() => {}
            }
        });
        Ok(Box::new(ours))
    }

    async fn status(&self, id: SandboxId) -> Result<DriverStatus, DriverError> {
        Ok(match self.control.find(id) {
            None => DriverStatus::Gone,
            Some(sandbox) => match lock(&sandbox.exit).clone() {
                None => DriverStatus::Running,
                Some(exit) => DriverStatus::Exited(exit),
            },
        })
    }

    async fn remove(&self, id: SandboxId, _grace: Duration) -> Result<(), DriverError> {
        self.control.remove(id);
        Ok(())
    }

    async fn list(&self) -> Result<Vec<SandboxId>, DriverError> {
        Ok(self.control.ids())
    }

    async fn pause(&self, id: SandboxId) -> Result<(), DriverError> {
        self.running(id)?.paused.send_replace(true);
        Ok(())
    }

    async fn resume(&self, id: SandboxId) -> Result<(), DriverError> {
        self.running(id)?.paused.send_replace(false);
        Ok(())
    }

    /// Simulated programs use nothing.
    async fn usage(&self, id: SandboxId) -> Result<Usage, DriverError> {
        Ok(Usage {
            cpu_us: Some(0),
            memory_bytes: Some(0),
            processes: Some(self.running(id)?.guest.processes()),
            ..Usage::default()
        })
    }

    fn events(&self) -> broadcast::Receiver<DriverEvent> {
        self.control.events.subscribe()
    }
}
