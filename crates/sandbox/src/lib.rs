//! The driver trait, the guest client, and the driver conformance suite.

mod driver;
mod host;

pub use driver::*;
pub use host::{connect_socket, remove_tree};
