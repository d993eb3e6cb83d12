//! The SQLite backend of the store.
//!
//! SQLite has one writer at a time, so all writes go to one thread. It takes whatever has queued up, applies each
//! operation in a savepoint of its own, commits once, and only then answers: 64 callers share one `fsync`, and one
//! failing operation does not touch the others. Reads go to a pool of read-only connections, which WAL lets run beside
//! the writer.

mod changes;
mod claim;
mod engine;
mod migrate;
mod options;
mod queue;
mod reader;
mod rows;
mod store;
mod writer;

pub use options::SqliteOptions;
pub use store::SqliteStore;
