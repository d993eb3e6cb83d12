//! The driver trait, the guest client, and the driver conformance suite.

pub mod cgroup;
#[cfg(feature = "conformance")]
pub mod conformance;
pub mod console;
pub mod cpio;
pub mod detached;
mod driver;
mod host;
pub mod images;
pub mod local;
pub mod notes;
pub mod process;
pub mod worker;

pub use driver::*;
pub use host::{
    connect_socket, disk_mb, host_kernels, kernels_of, mount_refusals, processor, remove_busy_tree,
    remove_tree,
};
