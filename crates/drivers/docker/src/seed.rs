//! What is put into a container before its start, where a directory of this host cannot be mounted.

use crate::container::{GUEST, RUN, WORKSPACE};
use std::io;
use tar::{Builder, EntryType, Header};

/// An archive to be unpacked at `/`. `guest` is the guest program, if it is not mounted. The directories in which the guest
/// works belong to whoever it runs as: with `anybody`, they are open to all users of the container.
pub(crate) fn archive(guest: Option<&[u8]>, anybody: bool) -> io::Result<Vec<u8>> {
    let mut archive = Builder::new(Vec::new());
    let own = if anybody { 0o777 } else { 0o700 };
    if let Some(guest) = guest {
        let (dir, _) = GUEST.rsplit_once('/').unwrap_or_default();
        directory(&mut archive, dir, 0o755)?;
        add(&mut archive, GUEST, EntryType::Regular, 0o755, guest)?;
        directory(&mut archive, RUN, own)?;
    }
    if anybody {
        directory(&mut archive, WORKSPACE, own)?;
    }
    archive.into_inner()
}

fn directory(archive: &mut Builder<Vec<u8>>, path: &str, mode: u32) -> io::Result<()> {
    add(archive, path, EntryType::Directory, mode, &[])
}

fn add(
    archive: &mut Builder<Vec<u8>>,
    path: &str,
    kind: EntryType,
    mode: u32,
    content: &[u8],
) -> io::Result<()> {
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(content.len() as u64);
    archive.append_data(&mut header, path.trim_start_matches('/'), content)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(archive: &[u8]) -> Vec<(String, u32, u64)> {
        tar::Archive::new(archive)
            .entries()
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                let header = entry.header();
                let path = entry.path().unwrap().display().to_string();
                (path, header.mode().unwrap(), header.size().unwrap())
            })
            .collect()
    }

    #[test]
    fn the_guest_can_be_run_and_its_directories_are_its_own() {
        let entries_of = |guest, anybody| entries(&archive(guest, anybody).unwrap());
        assert_eq!(
            entries_of(Some(b"program"), false),
            [
                ("ostler".to_owned(), 0o755, 0),
                ("ostler/guest".to_owned(), 0o755, 7),
                ("run/ostler".to_owned(), 0o700, 0)
            ]
        );
        assert_eq!(entries_of(None, true), [("workspace".to_owned(), 0o777, 0)]);
        assert_eq!(entries_of(Some(b""), true).len(), 4);
    }
}
