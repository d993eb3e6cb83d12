//! The modules that a machine needs, and those that these need.
//!
//! What a module needs is written in the module itself; `modules.dep` says the same, but only where `depmod` has run.

use crate::error::{At, Error};
use crate::programs;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::process::Command;

/// Needed by every machine, unless the kernel has them built in.
const WANTED: &[&str] = &[
    "virtio_pci",
    "virtio_console",
    "virtio_blk",
    "virtio_net",
    "virtio_rng",
    // By what it is called before 5.12, and since.
    "pvpanic",
    "pvpanic_mmio",
    // ext4 asks for it by what it does and not by name.
    "crc32c_generic",
    "ext4",
    // For isolated programs.
    "overlay",
];
/// Longest time to unpack one module.
const UNPACK_LIMIT: Duration = Duration::from_secs(20);

/// The modules in `dir` that a machine needs, unpacked, in the order in which they can be loaded. Those that are not there
/// must be built in.
pub(crate) async fn needed(dir: &Path) -> Result<Vec<(String, Vec<u8>)>, Error> {
    let mut files = BTreeMap::new();
    if dir.is_dir() {
        index(&dir.join("kernel"), &mut files).at(dir)?;
    }
    let mut order: Vec<(String, Vec<u8>)> = Vec::new();
    // A stack of what is open: a module comes after all that it needs.
    let mut open: Vec<(String, Option<Vec<u8>>)> =
        WANTED.iter().rev().map(|n| ((*n).to_owned(), None)).collect();
    let mut seen = std::collections::BTreeSet::new();
    while let Some((name, content)) = open.pop() {
        if let Some(content) = content {
            order.push((name, content));
            continue;
        }
        let Some(path) = files.get(&name) else { continue };
        if !seen.insert(name.clone()) {
            continue;
        }
        let content = unpacked(path).await?;
        let needs = depends(&content);
        open.push((name, Some(content)));
        open.extend(needs.into_iter().map(|need| (need, None)));
    }
    Ok(order)
}

fn index(dir: &Path, files: &mut BTreeMap<String, PathBuf>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            index(&path, files)?;
        } else if let Some((name, _)) = entry.file_name().to_str().and_then(|n| n.split_once(".ko")) {
            files.insert(name.replace('-', "_"), path);
        }
    }
    Ok(())
}

async fn unpacked(path: &Path) -> Result<Vec<u8>, Error> {
    let (program, package) = match path.extension().and_then(|e| e.to_str()) {
        Some("xz") => ("xz", "xz-utils"),
        Some("zst") => ("zstd", "zstd"),
        Some("gz") => ("gzip", "gzip"),
        _ => return std::fs::read(path).at(path),
    };
    let done = programs::run(Command::new(program).arg("-dc").arg(path), UNPACK_LIMIT)
        .await
        .map_err(|e| {
            Error::Other(format!(
                "{e}: modules of this kernel are packed: install {package}"
            ))
        })?;
    Ok(done.stdout)
}

/// The names after `depends=` in the module's own notes, each of which ends with a zero byte.
fn depends(module: &[u8]) -> Vec<String> {
    const NOTE: &[u8] = b"\0depends=";
    let Some(start) = module.windows(NOTE.len()).position(|w| w == NOTE) else {
        return Vec::new();
    };
    let names = module[start + NOTE.len()..]
        .split(|b| *b == 0)
        .next()
        .unwrap_or_default();
    String::from_utf8_lossy(names)
        .split(',')
        .filter(|name| !name.is_empty())
        .map(|name| name.replace('-', "_"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_module_comes_after_all_that_it_needs_and_once() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, needs: &str| {
            let path = dir.path().join("kernel/drivers").join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, format!("\x7fELF\0license=GPL\0depends={needs}\0name=x\0")).unwrap();
        };
        write("virtio-pci.ko", "virtio_ring,virtio");
        write("virtio_blk.ko", "virtio_ring,not-there");
        write("virtio_ring.ko", "virtio");
        write("virtio.ko", "");
        write("other.ko", "virtio");
        let found = needed(dir.path()).await.unwrap();
        let names: Vec<&str> = found.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["virtio", "virtio_ring", "virtio_pci", "virtio_blk"]);
        assert!(needed(&dir.path().join("none")).await.unwrap().is_empty());
    }
}
