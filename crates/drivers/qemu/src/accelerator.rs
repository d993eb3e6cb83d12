//! Finding out what runs the processors, by booting: that `/dev/kvm` can be opened says nothing about whether a kernel
//! starts there, as in many clouds.

use crate::error::{At, Error};
use crate::initrd::{self, Machine};
use crate::kernel::Kernel;
use crate::launch;
use crate::options::Accelerator;
use crate::user;
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use ostler_sandbox::cgroup::Group;
use ostler_sandbox::notes::{load, save};
use ostler_sandbox::process::boot_id;
use serde::{Deserialize, Serialize};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::{Duration, Instant};
use tokio::process::Command;

/// A kernel that starts at all is there in less than a second.
const KVM_LIMIT: Duration = Duration::from_secs(8);
const TCG_LIMIT: Duration = Duration::from_secs(60);
/// What the guest says when it is there.
const SIGN: &str = "ostler-guest: the kernel starts";
const MEMORY_MB: u64 = 256;
const FILE: &str = "accelerator.json";

/// What was found out, and for which host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Found {
    qemu: String,
    kernel: String,
    boot: String,
    pub(crate) accelerator: Accelerator,
    /// Why KVM is not used, when it is not.
    pub(crate) without_kvm: Option<String>,
    /// How long the kernel took to start, milliseconds.
    pub(crate) boot_ms: u64,
}

/// What was found by the last trial since this host was started.
pub(crate) fn remembered(state_dir: &Path) -> Option<Accelerator> {
    let found = load::<Found>(&state_dir.join(FILE)).filter(|found| found.boot == boot_id());
    found.map(|found| found.accelerator)
}

/// What works on this host: what was found before, if nothing has changed since, and otherwise a trial, which takes some
/// seconds.
pub(crate) async fn find(
    program: &Path,
    version: &str,
    kernel: &Kernel,
    only: Option<Accelerator>,
    state_dir: &Path,
) -> Result<Found, Error> {
    let file = state_dir.join(FILE);
    if let Some(found) = load::<Found>(&file).filter(|f| {
        f.qemu == version
            && f.kernel == kernel.hash
            && f.boot == boot_id()
            && only.is_none_or(|o| o == f.accelerator)
    }) {
        return Ok(found);
    }
    let found = |accelerator, without_kvm, took: Duration| Found {
        qemu: version.to_owned(),
        kernel: kernel.hash.clone(),
        boot: boot_id(),
        accelerator,
        without_kvm,
        boot_ms: took.as_millis() as u64,
    };
    let without_kvm = if only == Some(Accelerator::Tcg) {
        "it was not asked for".to_owned()
    } else {
        match kvm(program, kernel).await {
            Ok(took) => {
                let found = found(Accelerator::Kvm, None, took);
                save(&file, &found).at(&file)?;
                return Ok(found);
            }
            Err(why) if only == Some(Accelerator::Kvm) => return Err(why),
            Err(why) => why.to_string(),
        }
    };
    let took = trial(program, kernel, Accelerator::Tcg, TCG_LIMIT).await?;
    let found = found(Accelerator::Tcg, Some(without_kvm), took);
    save(&file, &found).at(&file)?;
    Ok(found)
}

async fn kvm(program: &Path, kernel: &Kernel) -> Result<Duration, Error> {
    let device = Path::new("/dev/kvm");
    std::fs::File::options()
        .read(true)
        .write(true)
        .open(device)
        .at(device)?;
    trial(program, kernel, Accelerator::Kvm, KVM_LIMIT).await
}

/// Boots the kernel with a guest that ends at once.
async fn trial(
    program: &Path,
    kernel: &Kernel,
    accelerator: Accelerator,
    limit: Duration,
) -> Result<Duration, Error> {
    let machine = Machine {
        hostname: "trial".into(),
        trial: true,
        ..Machine::default()
    };
    let description = initrd::description(&machine).map_err(|e| Error::Other(e.to_string()))?;
    let initrd = launch::in_memory(&[&kernel.initrd, &description])?;
    let user = nix::unistd::geteuid().is_root().then_some(user::FOR_TRIALS);
    let image = launch::open_kernel(&kernel.path, user)?;
    let mut command = Command::new(program);
    command
        .args(launch::machine(accelerator, 1, MEMORY_MB))
        .args(launch::boot(&image, &initrd, &[]))
        .args(["-serial", "stdio"])
        .env_clear();
    let passed = vec![image.as_raw_fd(), initrd.as_raw_fd()];
    launch::detach(&mut command, &Group::new(Vec::new()), user, passed)?;
    // A kernel that hangs must not outlive a server that is killed while it waits.
    // SAFETY: the closure makes one system call; it neither allocates nor takes locks.
    unsafe { command.pre_exec(|| Ok(set_pdeathsig(Signal::SIGKILL)?)) };
    let begun = Instant::now();
    let name = accelerator.as_str();
    let output = crate::programs::output(&mut command, limit).await.map_err(|e| {
        Error::Other(format!(
            "{} does not boot with {name}: {e}",
            kernel.path.display()
        ))
    })?;
    let said = String::from_utf8_lossy(&output.stdout);
    if output.status.success() && said.contains(SIGN) {
        return Ok(begun.elapsed());
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    let last = |text: &str| text.trim().lines().rev().take(5).collect::<Vec<_>>().join(" | ");
    Err(Error::Other(format!(
        "{} does not boot with {name} ({}): {} {}",
        kernel.path.display(),
        output.status,
        last(&errors),
        last(&said)
    )))
}
