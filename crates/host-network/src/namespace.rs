//! Work inside a network namespace.

use nix::sched::{CloneFlags, setns};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

/// Where `ip netns` keeps the names of namespaces.
const NAMED: &str = "/run/netns";

/// The file by which a namespace is entered.
pub(crate) fn path(name: &str) -> PathBuf {
    Path::new(NAMED).join(name)
}

/// The names of all namespaces.
pub(crate) fn all() -> Vec<String> {
    std::fs::read_dir(NAMED)
        .into_iter()
        .flatten()
        .filter_map(|e| e.ok()?.file_name().into_string().ok())
        .collect()
}

/// Does something in a namespace, on a thread that ends with it. Blocks.
pub(crate) fn within<T: Send>(name: &str, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    let file = File::open(path(name))?;
    std::thread::scope(|scope| {
        let thread = scope.spawn(move || {
            setns(file, CloneFlags::CLONE_NEWNET)?;
            work()
        });
        thread
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("the work in a namespace failed")))
    })
}
