//! The routes.

mod access;
mod agents;
mod artifacts;
mod fleet;
mod images;
mod plans;
mod projects;
mod runs;
mod subtasks;
mod tasks;

pub use access::AuditQuery;
pub use agents::{Download, Exec, ExecItem};
pub use plans::{PlanChoices, PlanQuery, TestIdentity, TestQuery};
pub use runs::{LogLines, RunQuery};
