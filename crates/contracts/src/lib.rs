//! What crosses a boundary: the bodies of the HTTP interface with their schemas.
//!
//! Server and client share these types, so that they cannot drift; the OpenAPI document is generated from them. A
//! field is only ever added. Times are RFC 3339 texts in UTC.

mod access;
mod agents;
mod artifacts;
mod error;
mod events;
mod images;
mod merge_requests;
mod plans;
mod programs;
mod projects;
mod runs;
mod system;
mod tasks;
mod time;

pub use access::*;
pub use agents::*;
pub use artifacts::*;
pub use error::*;
pub use events::*;
pub use images::*;
pub use merge_requests::*;
pub use plans::*;
pub use programs::*;
pub use projects::*;
pub use runs::*;
pub use system::*;
pub use tasks::*;
pub use time::Time;
