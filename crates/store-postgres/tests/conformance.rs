//! The suite that every backend must pass.

#![allow(
    clippy::unwrap_used,
    reason = "an error is the failure that a test is there to show"
)]

mod common;

use ostler_store::Store;
use ostler_store_postgres::{Options, PostgresStore};
use std::sync::Arc;

async fn fresh() -> (Arc<dyn Store>, common::Server) {
    let mut server = common::Server::start();
    let url = server.database().await;
    let store = PostgresStore::connect(&url, Options::default()).await.unwrap();
    store.migrate_up(None).await.unwrap();
    (Arc::new(store), server)
}

ostler_store::conformance_tests!(fresh);
