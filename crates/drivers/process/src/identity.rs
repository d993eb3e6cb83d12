//! Processes named so that a reused process id is never mistaken for the old process.

pub(crate) use ostler_sandbox::process::{Identity, boot_id, stat};
