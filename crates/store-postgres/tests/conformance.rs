//! The suite that every backend must pass.

#![allow(
    clippy::unwrap_used,
    reason = "an error is the failure that a test is there to show"
)]

use ostler_store::Store;
use ostler_store_postgres::{Options, PostgresStore};
use ostler_test_kit::Postgres;
use std::sync::Arc;

async fn fresh() -> (Arc<dyn Store>, Postgres) {
    let server = Postgres::shared();
    let store = PostgresStore::connect(&server.database(), Options::default())
        .await
        .unwrap();
    store.migrate_up(None).await.unwrap();
    (Arc::new(store), server)
}

ostler_store::conformance_tests!(fresh);
