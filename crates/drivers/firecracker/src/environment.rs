//! The environment of a machine's programs on the kernel's command line, for the guest that is its first process.
//!
//! `NAME=value` pairs, each ended by a zero byte, in lower-case hexadecimal digits: nothing of it can be taken for an
//! argument of the kernel.

use std::collections::BTreeMap;
use std::fmt::Write;

/// In the form of the command line.
pub(crate) fn encode(env: &BTreeMap<String, String>) -> String {
    let mut text = String::new();
    for byte in env
        .iter()
        .flat_map(|(name, value)| format!("{name}={value}\0").into_bytes())
    {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}
