//! The initial RAM disk of a machine: the guest program as what the kernel starts, and a description of the machine for it.
//!
//! So the guest is of the same build as this server whatever the root drive holds, and the environment of the template,
//! which may hold secrets and be long, is neither on the command line nor on a drive. The form is the `newc` archive that
//! kernels unpack; several of them may follow each other.

use crate::error::{At, Error};
use crate::files::Owner;
use crate::vsock::GUEST_PORT;
use ostler_domain::SandboxTemplate;
use serde_json::{Value, json};
use std::fs::OpenOptions;
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::{OpenOptionsExt, fchown};
use std::path::Path;

const FILE: u32 = 0o100_000;
const DEVICE: u32 = 0o020_000;

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
    let mut archive = Archive {
        file: BufWriter::new(file),
        entries: 0,
        length: 0,
    };
    if let Some(base) = base {
        let bytes = std::fs::read(base).at(base)?;
        archive.put(&bytes).and_then(|()| archive.align()).at(to)?;
    }
    let program = std::fs::read(guest).at(guest)?;
    let file = archive.finish(&program, &description.to_string()).at(to)?;
    if let Some(owner) = owner {
        fchown(&file, Some(owner), Some(owner)).at(to)?;
    }
    Ok(())
}

struct Archive {
    file: BufWriter<std::fs::File>,
    entries: u32,
    length: usize,
}

impl Archive {
    fn finish(mut self, program: &[u8], description: &str) -> io::Result<std::fs::File> {
        self.entry("dev", 0o040_755, 0, &[])?;
        // Without it the first process would have no standard output until it has mounted its devices.
        self.entry("dev/console", DEVICE | 0o600, 1, &[])?;
        self.entry("init", FILE | 0o755, 0, program)?;
        self.entry("ostler.json", FILE | 0o600, 0, description.as_bytes())?;
        self.entry("TRAILER!!!", 0, 0, &[])?;
        self.file.into_inner().map_err(io::IntoInnerError::into_error)
    }

    /// One member. A device has the number 5, `minor`.
    fn entry(&mut self, name: &str, mode: u32, minor: u32, content: &[u8]) -> io::Result<()> {
        self.entries += 1;
        let length = u32::try_from(content.len())
            .map_err(|_| io::Error::new(io::ErrorKind::FileTooLarge, name.to_owned()))?;
        let major = if mode & DEVICE == DEVICE && mode & FILE == 0 {
            5
        } else {
            0
        };
        let fields = [
            self.entries,
            mode,
            0, // user
            0, // group
            1, // links
            0, // time
            length,
            0, // device that it is on
            0,
            major,
            minor,
            name.len() as u32 + 1,
            0, // checksum, in another form of archive
        ];
        self.put(b"070701")?;
        for field in fields {
            self.put(format!("{field:08x}").as_bytes())?;
        }
        self.put(name.as_bytes())?;
        self.put(&[0])?;
        self.align()?;
        self.put(content)?;
        self.align()
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.length += bytes.len();
        self.file.write_all(bytes)
    }

    fn align(&mut self) -> io::Result<()> {
        let missing = self.length.next_multiple_of(4) - self.length;
        self.put(&[0; 4][..missing])
    }
}
