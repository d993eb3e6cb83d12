//! A simulated driver of some kind that ends its server at a step.

use crate::fuse::Fuse;
use async_trait::async_trait;
use ostler_domain::{DriverKind, SandboxId};
use ostler_driver_sim::{SimControl, SimDriver};
use ostler_sandbox::{
    ByteStream, Capabilities, Driver, DriverError, DriverEvent, DriverStatus, Finding, MachineSize,
    SandboxSpec,
};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::broadcast;

pub(crate) struct Watched {
    kind: DriverKind,
    inner: Arc<SimDriver>,
    fuse: Arc<Fuse>,
    /// Where sandboxes are, which go on when the server ends.
    outside: Handle,
}

impl Watched {
    /// A driver of a world, said to be of another kind.
    pub(crate) fn new(kind: DriverKind, world: SimControl, fuse: Arc<Fuse>, outside: Handle) -> Self {
        Self {
            kind,
            inner: Arc::new(SimDriver::new(world)),
            fuse,
            outside,
        }
    }
}

#[async_trait]
impl Driver for Watched {
    fn kind(&self) -> DriverKind {
        self.kind
    }

    fn capabilities(&self) -> &Capabilities {
        self.inner.capabilities()
    }

    fn machine(&self) -> Option<MachineSize> {
        self.inner.machine()
    }

    async fn probe(&self) -> Vec<Finding> {
        self.inner.probe().await
    }

    async fn start(&self, spec: &SandboxSpec) -> Result<String, DriverError> {
        self.check(&spec.template)?;
        let mut spec = spec.clone();
        spec.template.driver = self.inner.kind();
        self.fuse.step().await;
        let inner = Arc::clone(&self.inner);
        let started = self.outside.spawn(async move { inner.start(&spec).await });
        let started = started.await.unwrap();
        self.fuse.step().await;
        started
    }

    async fn connect(&self, id: SandboxId) -> Result<Box<dyn ByteStream>, DriverError> {
        self.fuse.gate().await;
        let inner = Arc::clone(&self.inner);
        let connection = self.outside.spawn(async move { inner.connect(id).await });
        Ok(self.fuse.cut(connection.await.unwrap()?))
    }

    async fn status(&self, id: SandboxId) -> Result<DriverStatus, DriverError> {
        self.fuse.gate().await;
        self.inner.status(id).await
    }

    async fn remove(&self, id: SandboxId, grace: Duration) -> Result<(), DriverError> {
        self.fuse.step().await;
        let removed = self.inner.remove(id, grace).await;
        self.fuse.step().await;
        removed
    }

    async fn list(&self) -> Result<Vec<SandboxId>, DriverError> {
        self.fuse.gate().await;
        self.inner.list().await
    }

    fn events(&self) -> broadcast::Receiver<DriverEvent> {
        self.inner.events()
    }
}
