//! The routes.

mod access;
mod agents;
mod fleet;
mod images;
mod projects;
mod runs;
mod subtasks;
mod tasks;

pub use access::AuditQuery;
pub use agents::{Download, Exec, ExecItem};
pub use runs::{LogLines, RunQuery};
