//! The driver trait, the guest client, and the driver conformance suite.

pub mod cgroup;
#[cfg(feature = "conformance")]
pub mod conformance;
mod driver;
mod host;
pub mod images;
pub mod process;
pub mod worker;

pub use driver::*;
pub use host::{connect_socket, mount_refusals, remove_tree};
