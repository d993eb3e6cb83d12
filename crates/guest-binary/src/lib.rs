//! The guest program as bytes, built statically for the host's architecture.
//!
//! So the server is one file, and the guest in a sandbox is always of the same build as the server that started it.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// The program, a static ELF executable.
pub const GUEST: &[u8] = include_bytes!(env!("OSTLER_GUEST"));

/// Puts the program into a directory, which is made if missing, and returns its path. What is there already and right
/// stays, so that sandboxes which run it are not touched; anything else is replaced as a whole.
pub fn install(dir: &Path) -> io::Result<PathBuf> {
    let named =
        |path: &Path, error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    let path = dir.join("ostler-guest");
    if fs::read(&path).is_ok_and(|there| there == GUEST) && executable(&path) {
        return Ok(path);
    }
    fs::create_dir_all(dir).map_err(|error| named(dir, error))?;
    let new = dir.join(format!(".ostler-guest.{}", std::process::id()));
    write(&new)
        .and_then(|()| fs::rename(&new, &path))
        .map_err(|error| {
            // What was begun is of no use.
            let _ = fs::remove_file(&new);
            named(&new, error)
        })?;
    Ok(path)
}

fn executable(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.permissions().mode() & 0o777 == 0o755)
}

fn write(path: &Path) -> io::Result<()> {
    let mut file = File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o700)
        .open(path)?;
    file.write_all(GUEST)?;
    file.set_permissions(PermissionsExt::from_mode(0o755))?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    /// Whether a program header of a 64-bit ELF file is a PT_INTERP, see elf(5).
    fn asks_for_an_interpreter(elf: &[u8]) -> bool {
        let number = |at: usize, len: usize| {
            let bytes = elf[at..at + len].iter().rev();
            bytes.fold(0, |sum, &byte| sum << 8 | usize::from(byte))
        };
        let (headers, size, count) = (number(32, 8), number(54, 2), number(56, 2));
        assert!(elf.starts_with(b"\x7fELF\x02\x01") && count > 0);
        (0..count).any(|index| number(headers + index * size, 4) == 3)
    }

    #[test]
    fn it_is_installed_once_and_runs_anywhere() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("guest");
        let path = install(&place).unwrap();
        let inode = |path: &Path| std::os::unix::fs::MetadataExt::ino(&fs::metadata(path).unwrap());
        let first = inode(&path);
        assert_eq!(install(&place).unwrap(), path);
        assert_eq!(inode(&path), first, "replaced although it was right");

        let said = Command::new(&path).arg("--version").output().unwrap();
        assert!(said.status.success());
        assert!(String::from_utf8_lossy(&said.stdout).starts_with("ostler-guest "));
        assert!(!asks_for_an_interpreter(GUEST), "not static");

        fs::write(&path, "broken").unwrap();
        install(&place).unwrap();
        assert_eq!(fs::read(&path).unwrap(), GUEST);
        assert_eq!(fs::read_dir(&place).unwrap().count(), 1);
    }
}
