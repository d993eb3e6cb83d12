//! Virtual machines and images through the real server and its command line: what is kept and started from again.

#![allow(clippy::unwrap_used, reason = "test code")]

mod images;
mod kernels;
mod snapshots;
#[path = "../cli/support.rs"]
#[allow(dead_code, reason = "each test program uses a part")]
mod support;
mod work;

use ostler_test_kit::{MachineParts, TestServer, cache_dir};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

/// A server whose only driver is qemu; others are added.
fn server(data: &Path) -> TestServer {
    // What a trial of KVM would find out anew in each directory.
    let known = cache_dir().join("accelerator.json");
    let state = data.join("sandboxes/qemu");
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&state)
        .unwrap();
    let _first_time = std::fs::copy(known, state.join("accelerator.json"));
    let parts = MachineParts::find().unwrap();
    TestServer::new(env!("CARGO_BIN_EXE_ostler"), data)
        .env("OSTLER_DRIVERS__QEMU__ENABLED", "true")
        .env("OSTLER_DRIVERS__QEMU__KERNEL", parts.kernel)
        .env("OSTLER_DRIVERS__QEMU__MODULES", parts.modules)
        .env("OSTLER_DRIVERS__PROCESS", "false")
        .env("OSTLER_DRIVERS__FIRECRACKER__ENABLED", "false")
}

/// The arguments that make a pool of small machines.
fn machines<'a>(name: &'a str, root_drive: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let start = [
        "pool",
        "set",
        name,
        "--driver",
        "qemu",
        "--root-drive",
        root_drive,
        "--memory",
        "256M",
    ];
    [&start[..], more].concat()
}
