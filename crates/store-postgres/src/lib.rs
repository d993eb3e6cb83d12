//! The PostgreSQL backend of the store.
//!
//! Every call is one statement wherever that is possible, with lists as arrays: what costs here is the round trip and
//! the commit, not the row. Writers never wait for each other on a common row (see `run_counts` in the migration).

mod class;
mod commit;
mod connect;
mod error;
mod hints;
mod queue;
mod rls;
mod sandboxes;
mod schema;
mod store;
mod upkeep;
mod value;

pub use connect::{Options, PostgresStore};
