//! The initial RAM disk of a machine: the guest program as what the kernel starts, and a description of the machine for it.
//!
//! So the guest is of the same build as this server whatever the root drive holds, and the environment of the template,
//! which may hold secrets and be long, is neither on the command line nor on a drive. The form is the `newc` archive that
//! kernels unpack; several of them may follow each other.

use crate::error::{At, Error};
use crate::files::Owner;
use crate::vsock::GUEST_PORT;
use ostler_domain::SandboxTemplate;
use ostler_sandbox::cpio::Archive;
use serde_json::{Value, json};
use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter};
use std::os::unix::fs::{OpenOptionsExt, fchown};
use std::path::Path;

/// What the guest is told as the first process of its machine.
pub(crate) fn description(machine: &str, template: &SandboxTemplate) -> Value {
    json!({
        "hostname": machine,
        "data": template.data_drive_mb.is_some(),
        "env": template.env,
        "vsock": GUEST_PORT,
    })
}

/// Writes it, after what is in `base`, which may hold modules of the kernel.
pub(crate) fn write(
    to: &Path,
    base: Option<&Path>,
    guest: &Path,
    description: &Value,
    owner: Owner,
) -> Result<(), Error> {
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(to)
        .at(to)?;
    let modules = base.map(|base| std::fs::read(base).at(base)).transpose()?;
    let program = std::fs::read(guest).at(guest)?;
    let description = description.to_string();
    let file = fill(file, modules.as_deref(), &program, &description).at(to)?;
    if let Some(owner) = owner {
        fchown(&file, Some(owner), Some(owner)).at(to)?;
    }
    Ok(())
}

fn fill(file: File, base: Option<&[u8]>, program: &[u8], description: &str) -> io::Result<File> {
    let mut archive = Archive::new(BufWriter::new(file));
    if let Some(base) = base {
        archive.archive(base)?;
    }
    archive.directory("dev")?;
    // Without it the first process would have no standard output until it has mounted its devices.
    archive.device("dev/console", 0o600, [5, 1])?;
    archive.file("init", 0o755, program)?;
    archive.file("ostler.json", 0o600, description.as_bytes())?;
    archive
        .finish()?
        .into_inner()
        .map_err(io::IntoInnerError::into_error)
}
