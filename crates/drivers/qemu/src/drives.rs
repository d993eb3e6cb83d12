//! The drives of one machine.

use crate::error::{At, Error};
use crate::kernel::{Format, inspect};
use crate::layout::MachineDir;
use crate::options::QemuOptions;
use crate::programs;
use ostler_domain::SandboxTemplate;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{OpenOptionsExt, chown};
use std::path::Path;
use std::time::Duration;
use tokio::process::Command;

/// Names in the directory that is QEMU's own.
pub(crate) const ROOT: &str = "root.qcow2";
pub(crate) const DATA: &str = "data.img";

/// Longest time to make a drive.
const MAKE_LIMIT: Duration = Duration::from_secs(30);
/// Longest time to copy one.
const COPY_LIMIT: Duration = Duration::from_secs(120);

/// The root drive of a template, open for reading.
#[derive(Debug)]
pub(crate) struct Base {
    pub(crate) file: File,
    pub(crate) format: Format,
    /// Bytes that the machine's drive has.
    pub(crate) size: u64,
}

impl Base {
    /// Opens the root drive; the error is a sentence about the template.
    pub(crate) fn of(template: &SandboxTemplate) -> Result<Self, Error> {
        let Some(path) = &template.root_drive else {
            return Err(Error::Other(
                "a root drive is needed, a file with an ext4 file system, and none is named".into(),
            ));
        };
        let (file, format, size) = inspect(Path::new(path))
            .map_err(|e| Error::Other(format!("the root drive cannot be used: {e}")))?;
        let limit = template.disk_mb.map_or(size, |mb| mb << 20);
        if limit < size {
            return Err(Error::Other(format!(
                "a disk limit of {} MiB, which is less than the {} MiB of the root drive",
                limit >> 20,
                size >> 20
            )));
        }
        Ok(Self {
            file,
            format,
            size: limit,
        })
    }
}

/// Makes the layer that takes what is written to the root drive, and the data drive.
pub(crate) async fn make(
    options: &QemuOptions,
    dir: &MachineDir,
    template: &SandboxTemplate,
    base: &Base,
    user: Option<u32>,
) -> Result<(), Error> {
    let root = dir.vm(ROOT);
    programs::run(
        Command::new(&options.qemu_img)
            .args(["create", "-q", "-f", "qcow2"])
            .arg(&root)
            .arg(base.size.to_string()),
        MAKE_LIMIT,
    )
    .await
    .map_err(|e| Error::Other(format!("{e}: install qemu-utils")))?;
    give(&root, user)?;
    if let Some(size_mb) = template.data_drive_mb {
        let data = dir.vm(DATA);
        empty(&data, size_mb).await?;
        give(&data, user)?;
    }
    Ok(())
}

/// An empty ext4 file system, which takes hardly any room until it is used.
async fn empty(path: &Path, size_mb: u64) -> Result<(), Error> {
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .at(path)?;
    file.set_len(size_mb << 20).at(path)?;
    programs::run(
        Command::new("mke2fs")
            .args(["-q", "-F", "-t", "ext4", "-m", "0", "-L", "ostler-data"])
            .args(["-E", "lazy_itable_init=1,lazy_journal_init=1"])
            .arg(path),
        MAKE_LIMIT,
    )
    .await
    .map_err(|e| Error::Other(format!("the data drive cannot be made: {e}: install e2fsprogs")))?;
    Ok(())
}

/// Copies a drive with its holes, sharing the blocks where the file system can.
pub(crate) async fn copy(from: &Path, to: &Path, user: Option<u32>) -> Result<(), Error> {
    // `-P`: a link that QEMU has put in the place of its drive must not lead to a file of the host.
    programs::run(
        Command::new("cp")
            .args(["-P", "--sparse=always", "--reflink=auto", "--"])
            .args([from, to]),
        COPY_LIMIT,
    )
    .await?;
    let meta = std::fs::symlink_metadata(to).at(to)?;
    if !meta.is_file() {
        return Err(Error::Other(format!("{} is not a regular file", from.display())));
    }
    give(to, user)
}

fn give(path: &Path, user: Option<u32>) -> Result<(), Error> {
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).at(path)?;
    match user {
        Some(user) => chown(path, Some(user), Some(user)).at(path),
        None => Ok(()),
    }
}
