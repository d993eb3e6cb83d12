//! The typed HTTP client: one method for each route that the command line needs, and followers of streams.
//!
//! Bodies are the types of [`ostler_contracts`], so that client and server cannot drift apart. What can be asked again
//! without harm (a GET) is asked again when no connection came about; nothing else ever is.

mod calls;
mod error;
mod follow;
mod http;
mod sse;
mod terminal;

pub use calls::{
    AuditQuery, Download, Exec, ExecItem, LogLines, PlanChoices, PlanQuery, RunQuery, TestIdentity, TestQuery,
};
pub use error::ClientError;
pub use follow::{Followed, Follower, LogItem, PlanItem};
pub use http::Client;
pub use terminal::{Keyboard, Screen, Shown, Terminal, TerminalQuery};
