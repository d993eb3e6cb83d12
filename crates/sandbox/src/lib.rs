//! The driver trait, the guest client, and the driver conformance suite.

mod driver;

pub use driver::*;
