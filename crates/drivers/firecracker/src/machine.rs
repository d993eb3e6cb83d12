//! Configuring a machine through the API: what is asked for, and in which order.

use crate::api::{Api, Instance};
use crate::error::Error;
use crate::launch::Console;
use crate::layout::{DATA_DRIVE, INITRD, KERNEL, MEMORY, ROOT_DRIVE, STATE, VSOCK};
use ostler_sandbox::process::Identity;
use serde_json::json;
use std::time::{Duration, Instant};

/// Between two looks for the API's socket.
const STEP: Duration = Duration::from_millis(2);

/// Ahead of everything else on the kernel's command line: the console, an end instead of a reboot, and no look for what
/// such a machine does not have. The keyboard controller stays, as by it a machine is asked to end.
const KERNEL_ARGS: &str = "console=ttyS0 reboot=k panic=1 pci=off i8042.noaux i8042.nomux i8042.dumbkbd";
/// Longest command line that kernels of all architectures take, bytes.
const LONGEST: usize = 2047;

/// A machine to be booted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) cpus: u32,
    pub(crate) memory_mb: u64,
    pub(crate) arguments: String,
    pub(crate) data_drive: bool,
    pub(crate) cid: u32,
}

/// The kernel's command line. The error says why there cannot be one.
pub(crate) fn command_line(own: Option<&str>) -> Result<String, String> {
    let mut line = KERNEL_ARGS.to_owned();
    if let Some(own) = own {
        if own.bytes().any(|b| b < b' ' || b == 0x7f) {
            return Err("kernel arguments with a line break or another control character".to_owned());
        }
        line += " ";
        line += own;
    }
    if line.len() > LONGEST {
        return Err(format!(
            "kernel arguments that make a command line of {} bytes: {LONGEST} are the most",
            line.len()
        ));
    }
    Ok(line)
}

/// Waits until the API answers, the process ends or `end` has come.
pub(crate) async fn answering(
    api: &Api,
    process: Identity,
    console: &Console,
    end: Instant,
) -> Result<Instance, Error> {
    loop {
        let error = match api.instance().await {
            Ok(instance) => return Ok(instance),
            Err(e) => e,
        };
        if !process.alive() {
            return Err(Error::Ended {
                console: console.tail(),
            });
        }
        if Instant::now() > end {
            return Err(error);
        }
        tokio::time::sleep(STEP).await;
    }
}

/// Configures and boots.
pub(crate) async fn boot(api: &Api, plan: &Plan, start: Duration) -> Result<(), Error> {
    let size = json!({ "vcpu_count": plan.cpus, "mem_size_mib": plan.memory_mb });
    api.put("/machine-config", size).await?;
    let source = json!({ "kernel_image_path": KERNEL, "initrd_path": INITRD, "boot_args": plan.arguments });
    api.put("/boot-source", source).await?;
    let drive = |id: &str, path: &str, root: bool| json!({ "drive_id": id, "path_on_host": path, "is_root_device": root, "is_read_only": false });
    api.put("/drives/root", drive("root", ROOT_DRIVE, true)).await?;
    if plan.data_drive {
        api.put("/drives/data", drive("data", DATA_DRIVE, false)).await?;
    }
    api.put("/vsock", json!({ "guest_cid": plan.cid, "uds_path": VSOCK }))
        .await?;
    api.within(start).action("InstanceStart").await
}

/// Restores and lets it go on. Everything is under the same relative names as in the machine of the snapshot, so nothing
/// has to be overridden; there is no network interface. The memory comes from a file: a process that served page faults
/// would, when it ends, leave the machine hanging for ever.
pub(crate) async fn restore(api: &Api, limit: Duration) -> Result<(), Error> {
    let load = json!({
        "snapshot_path": STATE,
        "mem_backend": { "backend_type": "File", "backend_path": MEMORY },
        "resume_vm": true,
    });
    api.within(limit).put("/snapshot/load", load).await
}

/// Writes the state and the memory of a paused machine into its directory.
pub(crate) async fn write_snapshot(
    api: &Api,
    state: &str,
    memory: &str,
    limit: Duration,
) -> Result<(), Error> {
    let create = json!({ "snapshot_type": "Full", "snapshot_path": state, "mem_file_path": memory });
    api.within(limit).put("/snapshot/create", create).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_bounded_and_of_one_line() {
        let line = command_line(Some("quiet")).unwrap();
        assert!(
            line.starts_with("console=ttyS0 ") && line.ends_with(" quiet"),
            "{line}"
        );
        assert!(command_line(Some("a\nb")).is_err());
        let why = command_line(Some(&"x".repeat(3000))).unwrap_err();
        assert!(why.contains("2047"), "{why}");
    }
}
