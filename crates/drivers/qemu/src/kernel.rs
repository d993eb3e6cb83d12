//! Kernels, and the initial RAM disks that go with them.

use crate::error::{At, Doing, Error};
use crate::{initrd, modules};
use sha2::{Digest, Sha256};
use std::fmt::Write as _;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Largest image, bytes. It may come out of a workspace.
const LARGEST: u64 = 512 << 20;
/// How much of an image has its version in it, bytes.
const HEAD: u64 = 0x200 + 0x10000 + 512;

/// A kernel with what machines need besides it.
#[derive(Debug)]
pub(crate) struct Kernel {
    pub(crate) path: PathBuf,
    pub(crate) modules_dir: PathBuf,
    /// SHA-256 of the file, in hexadecimal.
    pub(crate) hash: String,
    /// How the file was when it was read: length and time of change.
    stamp: (u64, i64, i64),
    pub(crate) version: Option<String>,
    pub(crate) modules: usize,
    /// The part of the initial RAM disk that is the same for all machines.
    pub(crate) initrd: Vec<u8>,
}

impl Kernel {
    /// Reads a kernel and its modules.
    pub(crate) async fn load(path: &Path, modules_dir: &Path, guest: &Path) -> Result<Self, Error> {
        check(path)?;
        let stamp = stamp(path)?;
        let image = std::fs::read(path).at(path)?;
        let version = version(&image);
        let modules = match &version {
            Some(version) => modules::needed(&modules_dir.join(version)).await?,
            None => Vec::new(),
        };
        let program = std::fs::read(guest).at(guest)?;
        Ok(Self {
            path: path.to_owned(),
            modules_dir: modules_dir.to_owned(),
            hash: hash(&image),
            stamp,
            version,
            modules: modules.len(),
            initrd: initrd::common(&program, &modules).doing("making the initial RAM disk")?,
        })
    }

    /// Whether the file is still the one that was read.
    pub(crate) fn is_current(&self) -> bool {
        stamp(&self.path).is_ok_and(|now| now == self.stamp)
    }
}

/// Refuses a file that is no kernel, by its length and its beginning.
pub(crate) fn check(path: &Path) -> Result<(), Error> {
    let (length, ..) = stamp(path)?;
    if length > LARGEST {
        return Err(Error::Other(format!(
            "{} has {} MiB, which is too much for a kernel",
            path.display(),
            length >> 20
        )));
    }
    let mut head = Vec::new();
    let file = File::open(path).at(path)?;
    file.take(HEAD).read_to_end(&mut head).at(path)?;
    if is_kernel(&head) {
        return Ok(());
    }
    Err(Error::Other(format!(
        "{} is no kernel: it begins neither like a bzImage nor like an ELF file",
        path.display()
    )))
}

fn stamp(path: &Path) -> Result<(u64, i64, i64), Error> {
    let meta = std::fs::metadata(path).at(path)?;
    if !meta.is_file() {
        return Err(Error::Other(format!("{} is not a regular file", path.display())));
    }
    Ok((meta.len(), meta.mtime(), meta.mtime_nsec()))
}

/// SHA-256 in hexadecimal.
pub(crate) fn hash(bytes: &[u8]) -> String {
    let mut text = String::new();
    for byte in Sha256::digest(bytes) {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// Whether an image begins like one that QEMU can start.
fn is_kernel(image: &[u8]) -> bool {
    let at = |range: std::ops::Range<usize>, magic: &[u8]| image.get(range) == Some(magic);
    at(0..4, b"\x7fELF") || at(0x202..0x206, b"HdrS") && at(0x1fe..0x200, b"\x55\xaa")
}

/// The version that a kernel image says, without reading all of it.
pub(crate) fn version_of(path: &Path) -> Option<String> {
    let mut head = Vec::new();
    let file = File::open(path)
        .ok()
        .filter(|f| f.metadata().is_ok_and(|m| m.is_file()))?;
    file.take(HEAD).read_to_end(&mut head).ok()?;
    version(&head)
}

/// The version that a kernel image names, see the kernel's `boot.rst`; `None` in other formats.
fn version(image: &[u8]) -> Option<String> {
    if image.get(0x202..0x206)? != b"HdrS" {
        return None;
    }
    let offset = u16::from_le_bytes(image.get(0x20e..0x210)?.try_into().ok()?);
    let text = image.get(usize::from(offset) + 0x200..)?;
    let text = text.split(|b| *b == 0).next()?;
    let name = std::str::from_utf8(text.get(..text.len().min(200))?)
        .ok()?
        .split(' ')
        .next()?;
    // It becomes part of a path.
    (!name.is_empty() && !name.contains('/') && !name.starts_with('.')).then(|| name.to_owned())
}

/// What a root drive holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// Bytes of the drive.
    Raw,
    /// QEMU's own.
    Qcow2,
}

impl Format {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
        }
    }
}

/// The format and the size in bytes of a drive. An image that names other files is refused: they would be read with the
/// rights of the server.
pub(crate) fn inspect(path: &Path) -> Result<(File, Format, u64), Error> {
    let file = File::open(path).at(path)?;
    let meta = file.metadata().at(path)?;
    if !meta.is_file() {
        return Err(Error::Other(format!("{} is not a regular file", path.display())));
    }
    let mut header = [0; 80];
    let qcow2 = meta.len() >= 80 && {
        file.read_exact_at(&mut header, 0).at(path)?;
        header.starts_with(b"QFI\xfb")
    };
    if !qcow2 {
        return Ok((file, Format::Raw, meta.len()));
    }
    let number = |at: usize| {
        header[at..at + 8]
            .iter()
            .fold(0u64, |sum, b| sum << 8 | u64::from(*b))
    };
    let external = 1 << 2;
    if number(8) != 0 || header[7] >= 3 && number(72) & external != 0 {
        return Err(Error::Other(format!(
            "{} is only a part of a drive, which needs another file: make it whole with `qemu-img convert -O qcow2`",
            path.display()
        )));
    }
    Ok((file, Format::Qcow2, number(24)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_found_where_the_boot_protocol_says() {
        let mut image = vec![0; 0x1000];
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x20e..0x210].copy_from_slice(&0x300u16.to_le_bytes());
        image[0x500..0x51e].copy_from_slice(b"6.1.0-56-cloud-amd64 (debian) ");
        assert_eq!(version(&image).as_deref(), Some("6.1.0-56-cloud-amd64"));
        image[0x500..0x509].copy_from_slice(b"../../etc");
        assert_eq!(version(&image), None);
        assert_eq!(version(b"\x7fELF"), None);
    }

    #[tokio::test]
    async fn what_is_no_kernel_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let text = dir.path().join("text");
        std::fs::write(&text, "no kernel").unwrap();
        let load = async |path: &Path| {
            Kernel::load(path, dir.path(), &text)
                .await
                .unwrap_err()
                .to_string()
        };
        assert!(
            load(&text)
                .await
                .ends_with("text is no kernel: it begins neither like a bzImage nor like an ELF file")
        );
        assert!(load(dir.path()).await.contains("not a regular file"));
        File::create(&text).unwrap().set_len(LARGEST + 1).unwrap();
        assert!(load(&text).await.contains("too much"));
    }

    #[test]
    fn an_image_that_needs_another_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("drive");
        let mut bytes = vec![0u8; 512];
        std::fs::write(&path, &bytes).unwrap();
        assert!(matches!(inspect(&path).unwrap(), (_, Format::Raw, 512)));
        bytes[..8].copy_from_slice(b"QFI\xfb\0\0\0\x03");
        bytes[30] = 1;
        std::fs::write(&path, &bytes).unwrap();
        assert!(matches!(inspect(&path).unwrap(), (_, Format::Qcow2, 256)));
        bytes[15] = 100;
        std::fs::write(&path, &bytes).unwrap();
        assert!(
            inspect(&path)
                .unwrap_err()
                .to_string()
                .contains("qemu-img convert")
        );
    }
}
