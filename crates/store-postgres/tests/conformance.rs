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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tenants_are_out_of_each_others_reach() {
    let (store, _server) = fresh().await;
    assert_eq!(store.shortcomings(), []);
    ostler_store::conformance::tenants_are_out_of_each_others_reach(Arc::clone(&store)).await;
    store.close().await;
}
