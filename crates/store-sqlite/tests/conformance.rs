//! The suite that every backend passes.

#![expect(clippy::unwrap_used, reason = "a test")]

use ostler_store::Store;
use ostler_store_sqlite::{SqliteOptions, SqliteStore};
use std::sync::Arc;

async fn fresh() -> (Arc<dyn Store>, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(directory.path().join("ostler.db"), SqliteOptions::default()).unwrap();
    store.migrate_up(None).await.unwrap();
    (Arc::new(store), directory)
}

ostler_store::conformance_tests!(fresh);
