//! Putting kernels and drives where a virtual machine finds them.
//!
//! What belongs to a machine is never followed through a symbolic link: its directory is the machine's own.

use crate::error::{At, Error};
use std::fs::{File, OpenOptions, Permissions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::Path;
use std::time::{Duration, Instant};
use tokio::process::Command;

/// Bytes copied between two looks at the clock.
const PIECE: usize = 64 << 20;

/// Who a file of a machine belongs to: the user that its Firecracker runs as, or this process.
pub(crate) type Owner = Option<u32>;

/// Copies a file with its holes, sharing the blocks where the file system can. The copy is new, and only its owner may
/// read and write it. Blocks; ends with an error of kind `TimedOut` at `end`.
pub(crate) fn copy(from: &Path, to: &Path, owner: Owner, end: Instant) -> Result<(), Error> {
    let source = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW)
        .open(from)
        .at(from)?;
    let target = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(to)
        .at(to)?;
    fill(&source, &target, end).at(to)?;
    if let Some(owner) = owner {
        fchown(&target, Some(owner), Some(owner)).at(to)?;
    }
    Ok(())
}

fn fill(source: &File, target: &File, end: Instant) -> io::Result<()> {
    let meta = source.metadata()?;
    if !meta.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    // SAFETY: the request takes one descriptor as an integer.
    if unsafe { libc::ioctl(target.as_raw_fd(), libc::FICLONE, source.as_raw_fd()) } == 0 {
        return Ok(());
    }
    let length = meta.len() as i64;
    target.set_len(meta.len())?;
    let mut at = 0i64;
    while at < length {
        let Some(data) = seek(source, at, libc::SEEK_DATA)? else {
            break;
        };
        let hole = seek(source, data, libc::SEEK_HOLE)?.unwrap_or(length);
        let (mut from, mut to) = (data, data);
        while from < hole {
            if Instant::now() > end {
                return Err(io::ErrorKind::TimedOut.into());
            }
            let most = usize::try_from(hole - from).unwrap_or(PIECE).min(PIECE);
            // SAFETY: both offsets are valid for reading and writing during the call.
            let done = unsafe {
                libc::copy_file_range(
                    source.as_raw_fd(),
                    &raw mut from,
                    target.as_raw_fd(),
                    &raw mut to,
                    most,
                    0,
                )
            };
            if done < 0 {
                let error = io::Error::last_os_error();
                if !matches!(
                    error.raw_os_error(),
                    Some(libc::EXDEV | libc::EOPNOTSUPP | libc::EINVAL)
                ) {
                    return Err(error);
                }
                copy_piece(source, target, from, most)?;
                from += most as i64;
                to = from;
            } else if done == 0 {
                return Err(io::Error::other("it became shorter while it was copied"));
            }
        }
        at = hole;
    }
    Ok(())
}

/// Where the kernel cannot copy between two file systems.
fn copy_piece(source: &File, target: &File, at: i64, length: usize) -> io::Result<()> {
    use std::os::unix::fs::FileExt;
    let mut buffer = vec![0; length.min(1 << 20)];
    let mut done = 0;
    while done < length {
        let part = buffer.len().min(length - done);
        let offset = at as u64 + done as u64;
        source.read_exact_at(&mut buffer[..part], offset)?;
        target.write_all_at(&buffer[..part], offset)?;
        done += part;
    }
    Ok(())
}

/// The next data or hole from `at` on; `None` when only a hole follows.
fn seek(file: &File, at: i64, whence: i32) -> io::Result<Option<i64>> {
    // SAFETY: seeks in a descriptor that is open.
    let found = unsafe { libc::lseek(file.as_raw_fd(), at, whence) };
    if found >= 0 {
        return Ok(Some(found));
    }
    let error = io::Error::last_os_error();
    if error.raw_os_error() == Some(libc::ENXIO) {
        Ok(None)
    } else {
        Err(error)
    }
}

/// Makes a file that is only read appear under another name: as a link where everybody may read it, and as a copy of the
/// owner's own otherwise, since changing the owner of a link would change the original. Blocks.
pub(crate) fn share(from: &Path, to: &Path, owner: Owner, end: Instant) -> Result<(), Error> {
    // The real file: a link to a symbolic link would lead nowhere in a jail.
    let from = std::fs::canonicalize(from).at(from)?;
    let mode = std::fs::metadata(&from).at(&from)?.mode();
    if (owner.is_none() || mode & 0o004 != 0) && std::fs::hard_link(&from, to).is_ok() {
        return Ok(());
    }
    copy(&from, to, owner, end)
}

/// Takes a file that a machine made away from it: moves it, and makes it this process's own and readable by all who can
/// reach it. Blocks.
pub(crate) fn take(from: &Path, to: &Path) -> Result<(), Error> {
    std::fs::rename(from, to).at(from)?;
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(to)
        .at(to)?;
    let meta = file.metadata().at(to)?;
    if !meta.is_file() || meta.nlink() != 1 {
        return Err(Error::Other(format!(
            "{} is not the regular file that Firecracker was to write",
            from.display()
        )));
    }
    let (user, group) = (nix::unistd::geteuid(), nix::unistd::getegid());
    fchown(&file, Some(user.as_raw()), Some(group.as_raw())).at(to)?;
    file.set_permissions(Permissions::from_mode(0o444)).at(to)
}

/// Makes an empty drive of `size_mb` MiB with an ext4 file system, which takes hardly any room until it is used.
pub(crate) async fn empty_drive(
    path: &Path,
    size_mb: u64,
    owner: Owner,
    limit: Duration,
) -> Result<(), Error> {
    {
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)
            .at(path)?;
        file.set_len(size_mb << 20).at(path)?;
    }
    let done = crate::probe::output(
        Command::new("mke2fs")
            // Installed for root only in some distributions.
            .env("PATH", crate::probe::search_path())
            .args(["-q", "-F", "-t", "ext4", "-m", "0", "-L", "ostler-data"])
            .args(["-E", "lazy_itable_init=1,lazy_journal_init=1"])
            .arg(path),
        limit,
    )
    .await
    .map_err(|e| Error::Other(format!("the data drive cannot be made: {e}: install e2fsprogs")))?;
    if !done.status.success() {
        return Err(Error::Other(format!(
            "mke2fs did not make the data drive: {}",
            String::from_utf8_lossy(&done.stderr).trim()
        )));
    }
    if let Some(owner) = owner {
        std::os::unix::fs::chown(path, Some(owner), Some(owner)).at(path)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Seek, SeekFrom, Write};

    fn later() -> Instant {
        Instant::now() + Duration::from_secs(30)
    }

    #[test]
    fn a_copy_has_the_same_bytes_and_the_same_holes() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("a"), dir.path().join("b"));
        let mut file = File::create(&from).unwrap();
        file.write_all(b"head").unwrap();
        file.seek(SeekFrom::Start(40 << 20)).unwrap();
        file.write_all(b"middle").unwrap();
        file.set_len(80 << 20).unwrap();
        drop(file);
        copy(&from, &to, None, later()).unwrap();
        let (a, b) = (std::fs::metadata(&from).unwrap(), std::fs::metadata(&to).unwrap());
        assert_eq!((a.len(), b.mode() & 0o777), (b.len(), 0o600));
        assert!(
            b.blocks() <= a.blocks() + 64,
            "{} after {}",
            b.blocks(),
            a.blocks()
        );
        let mut copied = File::open(&to).unwrap();
        copied.seek(SeekFrom::Start(40 << 20)).unwrap();
        let mut text = [0; 6];
        copied.read_exact(&mut text).unwrap();
        assert_eq!(&text, b"middle");
        assert!(copy(&from, &to, None, later()).is_err(), "over an existing file");
    }

    #[test]
    fn a_copy_that_takes_too_long_ends() {
        let dir = tempfile::tempdir().unwrap();
        let from = dir.path().join("a");
        std::fs::write(&from, vec![1; 1 << 20]).unwrap();
        let (source, target) = (
            File::open(&from).unwrap(),
            File::create(dir.path().join("b")).unwrap(),
        );
        match fill(
            &source,
            &target,
            Instant::now().checked_sub(Duration::from_secs(1)).unwrap(),
        ) {
            Err(e) => assert_eq!(e.kind(), io::ErrorKind::TimedOut),
            // Shared blocks take no time.
            Ok(()) => assert_eq!(target.metadata().unwrap().len(), 1 << 20),
        }
    }

    #[test]
    fn a_closed_file_is_copied_and_an_open_one_linked() {
        let dir = tempfile::tempdir().unwrap();
        let from = dir.path().join("kernel");
        std::fs::write(&from, "kernel").unwrap();
        let owner = nix::unistd::geteuid().as_raw();
        let inode = |path: &Path| std::fs::metadata(path).unwrap().ino();
        for (mode, linked) in [(0o644, true), (0o600, false)] {
            std::fs::set_permissions(&from, Permissions::from_mode(mode)).unwrap();
            let to = dir.path().join(format!("{mode:o}"));
            share(&from, &to, Some(owner), later()).unwrap();
            assert_eq!(inode(&to) == inode(&from), linked, "{mode:o}");
        }
    }

    #[test]
    fn only_regular_files_are_taken_from_a_machine() {
        let dir = tempfile::tempdir().unwrap();
        let secret = dir.path().join("secret");
        std::fs::write(&secret, "secret").unwrap();
        std::fs::set_permissions(&secret, Permissions::from_mode(0o600)).unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&secret, &link).unwrap();
        assert!(take(&link, &dir.path().join("out")).is_err());
        let hard = dir.path().join("hard");
        std::fs::hard_link(&secret, &hard).unwrap();
        assert!(take(&hard, &dir.path().join("out2")).is_err());
        assert_eq!(std::fs::metadata(&secret).unwrap().mode() & 0o777, 0o600);
        let own = dir.path().join("own");
        std::fs::write(&own, "state").unwrap();
        take(&own, &dir.path().join("out3")).unwrap();
        assert_eq!(std::fs::read(dir.path().join("out3")).unwrap(), b"state");
    }
}
