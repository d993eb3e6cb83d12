//! One start: notes, drives, process, and the running machine.

use crate::accelerator::Found;
use crate::driver::{Inner, KIND};
use crate::drives::{self, Base};
use crate::error::{At, Error};
use crate::initrd::{self, Machine, USER_NETWORK};
use crate::kernel::Kernel;
use crate::key::Key;
use crate::launch::{self, Plan};
use crate::layout::{MachineDir, Record, Started};
use crate::user::FIRST_UID;
use crate::{snapshot, teardown};
use ostler_domain::{NetworkPolicy, SandboxId};
use ostler_sandbox::cgroup::Limits;
use ostler_sandbox::detached::free_user;
use ostler_sandbox::local::Turn;
use ostler_sandbox::process::{Identity, boot_id};
use ostler_sandbox::{DriverError, SandboxSpec};
use serde_json::json;
use std::os::unix::fs::{DirBuilderExt, chown};
use std::sync::Arc;
use std::time::Duration;

/// What QEMU itself needs besides the machine's memory, bytes.
const OVERHEAD: u64 = 384 << 20;
/// Threads of QEMU besides those of the processors.
const THREADS: u32 = 128;

impl Inner {
    pub(crate) async fn start(
        self: Arc<Self>,
        spec: SandboxSpec,
        _turn: Turn,
    ) -> Result<String, DriverError> {
        let id = spec.id;
        let dir = self.dir(id);
        // Before this succeeds nothing is ours to clean up: the sandbox may exist.
        dir.create()
            .at(dir.path())
            .map_err(|e| self.local.failed("start", id, e))?;
        let limit = self.options.start_limit;
        // Finding out what works here is no part of a start, and takes long only once.
        let work = async {
            let kernel = self.kernel(Some(&spec.template)).await?;
            let found = self.accelerator(&kernel).await?;
            let launch = self.launch(&spec, &dir, &kernel, found);
            tokio::time::timeout(limit, launch)
                .await
                .unwrap_or(Err(Error::TimedOut {
                    what: "the start",
                    limit,
                }))
        };
        match work.await {
            Ok(qemu) => Ok(qemu.pid.to_string()),
            Err(error) => {
                let words = dir.last_words();
                self.local.stop_tasks(id);
                let failures = teardown::teardown(&self.host, &dir, id, Duration::ZERO).await;
                self.local.undone(id, &failures);
                Err(match (error, words.is_empty()) {
                    (Error::TimedOut { .. }, true) => DriverError::TimedOut {
                        driver: KIND,
                        action: "start",
                        id,
                        limit,
                    },
                    (error, true) => self.local.failed("start", id, error),
                    (error, false) => self.local.failed("start", id, format!("{error}; {words}")),
                })
            }
        }
    }

    async fn launch(
        self: &Arc<Self>,
        spec: &SandboxSpec,
        dir: &MachineDir,
        kernel: &Kernel,
        found: &Found,
    ) -> Result<Identity, Error> {
        let (id, template, options) = (spec.id, &spec.template, &self.options);
        let (program, version) = self.qemu().await?;
        let base = Base::of(template)?;
        let key = Key::of(template, version, found.accelerator, &kernel.hash)?;
        let restored = template.snapshot.as_deref();
        if let Some(name) = restored {
            snapshot::check(&options.state_dir, name, &key)?;
        }
        let user = self.user(id)?;
        let name = id.to_string();
        // Noted first, so that a server killed right after the next step finds the groups again.
        dir.write_record(&Record {
            instance: options.instance.clone(),
            groups: self.host.group(&name).dirs().to_vec(),
            user,
            key: key.clone(),
        })
        .at(dir.path())?;
        let vm = dir.join("vm");
        std::fs::DirBuilder::new().mode(0o700).create(&vm).at(&vm)?;
        if let Some(user) = user {
            chown(&vm, Some(user), Some(user)).at(&vm)?;
        }
        let limits = Limits {
            cpus: template.cpus,
            memory_bytes: (template.memory_mb << 20) + OVERHEAD,
            processes: template.cpus + THREADS,
        };
        let group = self
            .host
            .create(&name, limits)
            .map_err(|e| Error::Other(format!("its cgroup: {e}")))?;
        match restored {
            Some(name) => snapshot::copy_drives(&options.state_dir, name, dir, &key, user).await?,
            None => drives::make(options, dir, template, &base, user).await?,
        }
        let machine = Machine {
            hostname: name.replace('_', "-"),
            trial: false,
            data: template.data_drive_mb.is_some(),
            network: (template.network == NetworkPolicy::Open).then_some(USER_NETWORK),
            env: template.env.clone(),
        };
        let description = initrd::description(&machine).map_err(|e| Error::Other(e.to_string()))?;
        let initrd = launch::in_memory(&[&kernel.initrd, &description])?;
        let image = launch::open_kernel(&kernel.path, user)?;
        let plan = Plan {
            id,
            template,
            accelerator: found.accelerator,
            base: &base,
            kernel: &image,
            initrd: &initrd,
            restored: restored.is_some(),
        };
        let qemu = launch::start(program, &plan, dir, &group, user)?;
        let mut started = Started {
            boot: boot_id(),
            qemu,
            complete: false,
        };
        dir.write_started(&started).at(dir.path())?;
        let mut qmp = tokio::select! {
            qmp = self.qmp(id) => qmp?,
            _ = qemu.ended() => return Err(Error::Other("QEMU ended at once".into())),
        };
        self.watch(id, qemu, true);
        if let Some(name) = restored {
            snapshot::restore(&options.state_dir, name, &mut qmp).await?;
        }
        qmp.execute("cont", json!({})).await?;
        started.complete = true;
        dir.write_started(&started).at(dir.path())?;
        Ok(qemu)
    }

    /// The user for a new machine, where the server may choose.
    fn user(&self, id: SandboxId) -> Result<Option<u32>, Error> {
        if !nix::unistd::geteuid().is_root() {
            return Ok(None);
        }
        let machines = self.list();
        let taken = machines
            .iter()
            .filter_map(|other| self.dir(*other).record()?.user)
            .collect();
        let free = free_user(id, FIRST_UID, &taken)
            .ok_or_else(|| Error::Other("all users for machines are in use".into()))?;
        Ok(Some(free))
    }
}
