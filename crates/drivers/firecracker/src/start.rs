//! One start: files, process, configuration.

use crate::api::Api;
use crate::driver::{Inner, Program};
use crate::error::{At, Error};
use crate::files;
use crate::initrd;
use crate::key::Key;
use crate::launch::{self, Console, Jail};
use crate::layout::{
    API_SOCKET, DATA_DRIVE, ENDED, INITRD, KERNEL, MEMORY, ROOT_DRIVE, Record, STATE, SandboxDir, Started,
    machine_name,
};
use crate::machine::{self, Plan};
use crate::version::Version;
use ostler_domain::{SandboxId, SandboxTemplate};
use ostler_sandbox::detached::free_user;
use ostler_sandbox::local::lock;
use ostler_sandbox::process::{Identity, boot_id};
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// First of the user ids of machines: above the ranges that distributions, containers and systemd hand out, beside that
/// of the process driver, below 2³¹.
const FIRST_UID: u32 = 0x7100_0000;

/// A start that `Driver::check` has let through.
pub(crate) struct Start<'a> {
    pub(crate) inner: &'a Inner,
    pub(crate) program: &'a Program,
    pub(crate) id: SandboxId,
    pub(crate) template: &'a SandboxTemplate,
    pub(crate) cid: u32,
    pub(crate) dir: &'a SandboxDir,
}

impl Start<'_> {
    /// Does everything up to the running machine. What it has made at a failure is for `teardown`.
    pub(crate) async fn run(&self) -> Result<Identity, Error> {
        let end = Instant::now() + self.inner.options.start_limit;
        let key = self.key()?;
        let record = self.reserve(&key)?;
        self.files(&record, &key, end).await?;
        // No cgroup's parent is removed while a jailer may be making a group in it.
        let jailing = self.inner.jailing.read().await;
        let console = Console::new().doing("its console")?;
        let launch = match record.user {
            Some(user) => launch::jailed(
                Jail {
                    jailer: self
                        .inner
                        .jailer
                        .as_deref()
                        .ok_or_else(|| Error::Other("there is no jailer".into()))?,
                    base: &self.dir.join("jail"),
                    user,
                    cgroups: &self.inner.cgroups.arguments(
                        &self.inner.parent_group(),
                        key.cpus,
                        key.memory_mb,
                    ),
                },
                &self.program.path,
                &record.machine,
            ),
            None => launch::direct(&self.program.path, &record.machine, &record.root),
        };
        let (child, process) = launch::spawn(&launch, &console)?;
        self.dir.reap(child, ENDED);
        self.dir.write_started(&Started {
            boot: boot_id(),
            firecracker: process,
        })?;
        let api = Api::new(&record.root.join(API_SOCKET), self.inner.options.answer_limit);
        let instance = machine::answering(&api, process, &console, end).await?;
        drop(jailing);
        let configured = self.configure(&api, &instance.vmm_version, end).await;
        if configured.is_err() && !process.alive() {
            // Its last words say more than the broken connection.
            return Err(Error::Ended {
                console: console.tail(),
            });
        }
        configured.map(|()| process)
    }

    async fn configure(&self, api: &Api, version: &str, end: Instant) -> Result<(), Error> {
        let left = || end.saturating_duration_since(Instant::now());
        if self.template.snapshot.is_some() {
            // Of the program that runs now, which may have been replaced since the driver was opened.
            let version = Version::parse(version);
            if let Some(why) = version.and_then(Version::refuses_snapshots) {
                return Err(Error::Other(why));
            }
            return machine::restore(api, left()).await;
        }
        let plan = Plan {
            cpus: self.template.cpus,
            memory_mb: self.template.memory_mb,
            arguments: machine::command_line(self.template.kernel_args.as_deref()).map_err(Error::Other)?,
            data_drive: self.template.data_drive_mb.is_some(),
            cid: self.cid,
        };
        machine::boot(api, &plan, left()).await
    }

    fn key(&self) -> Result<Key, Error> {
        match &self.template.snapshot {
            Some(name) => self
                .inner
                .snapshots
                .key(name)
                .ok_or_else(|| Error::Other(format!("there is no snapshot {name}"))),
            None => Ok(Key::of(
                self.template,
                self.inner.kernel(self.template).map(|k| k.display().to_string()),
                &self.program.version.to_string(),
                &self.inner.options.guest,
            )),
        }
    }

    /// Chooses the user and notes everything that will be made.
    fn reserve(&self, key: &Key) -> Result<Record, Error> {
        let machine = machine_name(self.id);
        let jailed = self.inner.jailed(self.template);
        // Between the choice and its note nobody else may choose.
        let _choosing = lock(&self.inner.choosing);
        let user = if jailed {
            let taken = self
                .inner
                .list()
                .into_iter()
                .filter_map(|id| self.inner.dir(id).record()?.user)
                .collect();
            let user = free_user(self.id, FIRST_UID, &taken);
            Some(user.ok_or_else(|| Error::Other("every user id for machines is in use".into()))?)
        } else {
            None
        };
        let root = if jailed {
            launch::jail_root(&self.dir.join("jail"), &self.program.path, &machine)
        } else {
            self.dir.join("root")
        };
        let groups = if jailed {
            self.inner.cgroups.dirs(&self.inner.parent_group(), &machine)
        } else {
            Vec::new()
        };
        let record = Record {
            instance: self.inner.options.instance.clone(),
            machine,
            user,
            root,
            groups,
            key: key.clone(),
        };
        self.dir.write_record(&record)?;
        Ok(record)
    }

    /// Everything that Firecracker will open.
    async fn files(&self, record: &Record, key: &Key, end: Instant) -> Result<(), Error> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&record.root)
            .at(&record.root)?;
        let sources = self.sources(key)?;
        let (root, owner) = (record.root.clone(), record.user);
        let initrd = self.initrd(record);
        // Not given up midway, but ended by the clock: what it writes must not appear after the clean-up.
        let work = move || {
            sources.put(&root, owner, end)?;
            initrd.map_or(Ok(()), |initrd| initrd.put(&root, owner))
        };
        tokio::task::spawn_blocking(work)
            .await
            .map_err(|e| Error::Other(e.to_string()))??;
        if let (Some(size), None) = (self.template.data_drive_mb, &self.template.snapshot) {
            let limit = end.saturating_duration_since(Instant::now());
            files::empty_drive(&record.root.join(DATA_DRIVE), size, owner, limit).await?;
        }
        Ok(())
    }

    /// None for a machine that is restored: it is past that.
    fn initrd(&self, record: &Record) -> Option<Initrd> {
        self.template.snapshot.is_none().then(|| Initrd {
            base: self.inner.options.initrd.clone(),
            guest: self.inner.options.guest.clone(),
            description: initrd::description(&record.machine, self.template),
        })
    }

    fn sources(&self, key: &Key) -> Result<Sources, Error> {
        if let Some(name) = &self.template.snapshot {
            let dir = self.inner.snapshots.dir(name);
            let mut copied = vec![(dir.join(ROOT_DRIVE), ROOT_DRIVE)];
            if key.data_drive_mb.is_some() {
                copied.push((dir.join(DATA_DRIVE), DATA_DRIVE));
            }
            return Ok(Sources {
                shared: vec![(dir.join(STATE), STATE), (dir.join(MEMORY), MEMORY)],
                copied,
            });
        }
        let missing = |what: &str| Error::Other(format!("the template has no {what}"));
        let kernel = self
            .inner
            .kernel(self.template)
            .ok_or_else(|| missing("kernel"))?;
        let drive = self
            .template
            .root_drive
            .as_ref()
            .ok_or_else(|| missing("root drive"))?;
        let drive = std::fs::canonicalize(drive).at(Path::new(drive))?;
        Ok(Sources {
            shared: vec![(kernel, KERNEL)],
            copied: vec![(drive, ROOT_DRIVE)],
        })
    }
}

/// Files of the host and their names in the machine's directory.
struct Sources {
    /// Only read.
    shared: Vec<(PathBuf, &'static str)>,
    /// Written to.
    copied: Vec<(PathBuf, &'static str)>,
}

impl Sources {
    fn put(&self, root: &Path, owner: files::Owner, end: Instant) -> Result<(), Error> {
        for (from, name) in &self.shared {
            files::share(from, &root.join(name), owner, end)?;
        }
        for (from, name) in &self.copied {
            files::copy(from, &root.join(name), owner, end)?;
        }
        Ok(())
    }
}

/// What the initial RAM disk is made of.
struct Initrd {
    base: Option<PathBuf>,
    guest: PathBuf,
    description: serde_json::Value,
}

impl Initrd {
    fn put(&self, root: &Path, owner: files::Owner) -> Result<(), Error> {
        let to = root.join(INITRD);
        initrd::write(&to, self.base.as_deref(), &self.guest, &self.description, owner)
    }
}
