//! Writers, one per format.

pub(crate) mod json_lines;
pub(crate) mod junit;
pub(crate) mod tap;
