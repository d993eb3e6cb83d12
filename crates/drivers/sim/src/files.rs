//! The files of a simulated sandbox.

use crate::control::lock;
use std::collections::BTreeMap;
use std::io::{self, Read};
use std::sync::{Arc, Mutex};

/// The files of one sandbox by absolute path; there are no directories apart from those that paths imply. Clones are
/// handles of the same files.
#[derive(Clone, Default)]
pub struct Files(Arc<Mutex<BTreeMap<String, File>>>);

#[derive(Clone)]
struct File {
    content: Vec<u8>,
    mode: u32,
}

impl Files {
    /// The content of a file.
    pub fn read(&self, path: &str) -> Option<Vec<u8>> {
        lock(&self.0).get(path).map(|f| f.content.clone())
    }

    /// Writes a file with these permission bits.
    pub fn write(&self, path: &str, content: impl Into<Vec<u8>>, mode: u32) {
        let content = content.into();
        lock(&self.0).insert(path.to_owned(), File { content, mode });
    }

    /// Paths of all files.
    pub fn paths(&self) -> Vec<String> {
        lock(&self.0).keys().cloned().collect()
    }

    /// Unpacks the files of an archive below `path`.
    pub(crate) fn unpack(&self, path: &str, archive: &[u8]) -> io::Result<()> {
        for entry in tar::Archive::new(archive).entries()? {
            let mut entry = entry?;
            if entry.header().entry_type().is_file() {
                let name = join(path, &entry.path()?.to_string_lossy());
                let mode = entry.header().mode()?;
                let mut content = Vec::new();
                entry.read_to_end(&mut content)?;
                self.write(&name, content, mode);
            }
        }
        Ok(())
    }

    /// An archive of the files below `path`, all of them or those at and below the members.
    pub(crate) fn pack(&self, path: &str, members: &[String]) -> io::Result<Vec<u8>> {
        let mut archive = tar::Builder::new(Vec::new());
        for (name, file) in lock(&self.0).iter() {
            let Some(relative) = below(path, name) else {
                continue;
            };
            if members.is_empty()
                || members
                    .iter()
                    .any(|m| relative == m || below(m, relative).is_some())
            {
                let mut header = tar::Header::new_gnu();
                header.set_size(file.content.len() as u64);
                header.set_mode(file.mode);
                archive.append_data(&mut header, relative, file.content.as_slice())?;
            }
        }
        archive.into_inner()
    }
}

fn join(directory: &str, name: &str) -> String {
    format!(
        "{}/{}",
        directory.trim_end_matches('/'),
        name.trim_start_matches("./")
    )
}

fn below<'a>(directory: &str, path: &'a str) -> Option<&'a str> {
    path.strip_prefix(directory.trim_end_matches('/'))?
        .strip_prefix('/')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_of_members_unpacks_elsewhere() {
        let files = Files::default();
        for path in ["/w/a", "/w/d/b", "/w/dd/c", "/x"] {
            files.write(path, path.as_bytes(), 0o644);
        }
        let archive = files
            .pack("/w", &["d".into(), "a".into(), "missing".into()])
            .unwrap();
        let other = Files::default();
        other.unpack("/z/", &archive).unwrap();
        assert_eq!(other.paths(), ["/z/a", "/z/d/b"]);
        assert_eq!(other.read("/z/d/b").unwrap(), b"/w/d/b");
    }
}
