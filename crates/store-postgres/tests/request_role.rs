//! Row A1: the role that requests are carried out by, as the database sees it.

#![allow(
    clippy::unwrap_used,
    reason = "an error is the failure that a test is there to show"
)]

use ostler_domain::{Tenant, TenantId};
use ostler_store::{Record, Store, StoreError, Value, as_owner, as_tenant};
use ostler_store_postgres::{Options, PostgresStore};
use ostler_test_kit::{Postgres, require};
use sqlx::{AssertSqlSafe, Connection, PgConnection};

async fn open(url: &str) -> PostgresStore {
    let store = PostgresStore::connect(url, Options::default()).await.unwrap();
    store.migrate_up(None).await.unwrap();
    store
}

/// Who carries statements out, and for which tenant.
async fn who(store: &PostgresStore) -> (String, String) {
    let sql = "SELECT current_user::text, COALESCE(current_setting('ostler.tenant', true), ''), 0::bigint, 0::bigint";
    let rows = store.select(Tenant::TABLE, sql.into(), Vec::new()).await.unwrap();
    let text = |at: usize| match &rows[0][at] {
        Value::Text(text) => text.clone(),
        other => panic!("{other:?}"),
    };
    (text(0), text(1))
}

async fn roles(connection: &mut PgConnection, database: &str) -> Vec<String> {
    sqlx::query_scalar(
        "SELECT rolname::text FROM pg_roles WHERE rolname = 'ostler_request_' || left(md5($1), 16)",
    )
    .bind(format!("{database} public"))
    .fetch_all(connection)
    .await
    .unwrap()
}

fn database_of(url: &str) -> &str {
    url.rsplit('/').next().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scope_takes_the_role_on_and_leaves_it() {
    require!(Postgres);
    let server = Postgres::shared();
    let url = server.database();
    let store = open(&url).await;
    let mut admin = PgConnection::connect(&url).await.unwrap();
    let role = roles(&mut admin, database_of(&url)).await.remove(0);
    let tenant = TenantId::new();
    for _ in 0..20 {
        assert_eq!(who(&store).await, ("postgres".to_owned(), String::new()));
        let (inside, within) =
            as_tenant(tenant, async { (who(&store).await, as_owner(who(&store)).await) }).await;
        assert_eq!(inside, (role.clone(), tenant.to_string()));
        assert_eq!(within, ("postgres".to_owned(), String::new()));
        // One that is given up in the middle leaves its connection as clean.
        let slow = store.select(
            Tenant::TABLE,
            "SELECT pg_sleep(5)::text, '', 0::bigint, 0::bigint".into(),
            Vec::new(),
        );
        let given_up = as_tenant(
            tenant,
            tokio::time::timeout(std::time::Duration::from_millis(5), slow),
        );
        assert!(given_up.await.is_err());
    }
    let dangerous: bool = sqlx::query_scalar(
        "SELECT rolsuper OR rolbypassrls OR rolcanlogin OR rolcreaterole OR rolcreatedb FROM pg_roles WHERE rolname = $1",
    )
    .bind(&role)
    .fetch_one(&mut admin)
    .await
    .unwrap();
    assert!(!dangerous);
    store.migrate_down(4).await.unwrap();
    assert_eq!(
        roles(&mut admin, database_of(&url)).await,
        Vec::<String>::new(),
        "gone with its policies"
    );
    assert_eq!(
        as_tenant(tenant, who(&store)).await.0,
        "postgres",
        "there is nothing to take on"
    );
    store.migrate_up(None).await.unwrap();
    assert_eq!(as_tenant(tenant, who(&store)).await.0, role);
    store.migrate_down(0).await.unwrap();
    store.close().await;
}

/// Every table there is, whether the program has a name for it or not, shows a stranger nothing.
#[tokio::test(flavor = "multi_thread")]
async fn every_table_is_closed_to_a_tenant_that_owns_nothing() {
    require!(Postgres);
    let server = Postgres::shared();
    let url = server.database();
    let store = open(&url).await;
    let full: std::sync::Arc<dyn Store> = std::sync::Arc::new(open(&url).await);
    ostler_store::conformance::tenants_are_out_of_each_others_reach(std::sync::Arc::clone(&full)).await;
    full.close().await;
    let mut connection = PgConnection::connect(&url).await.unwrap();
    let role = roles(&mut connection, database_of(&url)).await.remove(0);
    let tables: Vec<String> = sqlx::query_scalar(
        "SELECT relname::text FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'v', 'm')",
    )
    .fetch_all(&mut connection)
    .await
    .unwrap();
    assert!(tables.len() > 25, "{tables:?}");
    let stranger = TenantId::new();
    let sql = format!("SET ROLE {role}; SET ostler.tenant = '{stranger}'");
    sqlx::raw_sql(AssertSqlSafe(sql))
        .execute(&mut connection)
        .await
        .unwrap();
    let mut open_to_read = Vec::new();
    for table in &tables {
        let sql = match table.as_str() {
            // What all may see: pools, and the roles that Ostler brings along.
            "pools" => continue,
            "roles" => "SELECT count(*) FROM roles WHERE tenant_id IS NOT NULL".to_owned(),
            table => format!("SELECT count(*) FROM {table}"),
        };
        let seen: Result<i64, sqlx::Error> = sqlx::query_scalar(AssertSqlSafe(sql))
            .fetch_one(&mut connection)
            .await;
        match seen {
            Ok(seen) => {
                open_to_read.push(table.as_str());
                assert_eq!(seen, 0, "{table}");
            }
            Err(error) => assert!(
                error.to_string().contains("permission denied"),
                "{table}: {error}"
            ),
        }
    }
    assert!(open_to_read.contains(&"run_ready") && open_to_read.contains(&"projects"));
    for closed in [
        "hosts",
        "servers",
        "run_classes",
        "credential_checks",
        "schema_migrations",
    ] {
        assert!(!open_to_read.contains(&closed), "{closed}");
    }
    // A table that somebody adds and forgets is told at the next start.
    sqlx::raw_sql("RESET ROLE; CREATE TABLE forgotten (tenant_id TEXT)")
        .execute(&mut connection)
        .await
        .unwrap();
    store.migrate_up(None).await.unwrap();
    let told = store.shortcomings();
    assert!(told[0].found.contains("not under their policies"), "{told:?}");
    store.close().await;
}

/// The user of the database need not be one who can make roles; then the operator is told what is missing.
#[tokio::test(flavor = "multi_thread")]
async fn without_the_right_to_make_roles_it_says_what_to_do() {
    require!(Postgres);
    let server = Postgres::start();
    let url = server.database();
    let database = database_of(&url);
    let mut admin = PgConnection::connect(&url).await.unwrap();
    let sql = format!("CREATE ROLE plain LOGIN; GRANT CREATE ON DATABASE \"{database}\" TO plain");
    sqlx::raw_sql(AssertSqlSafe(sql))
        .execute(&mut admin)
        .await
        .unwrap();
    let as_plain = url.replace("postgres@", "plain@");
    let options = || Options {
        schema: Some("own".into()),
        ..Options::default()
    };
    let store = PostgresStore::connect(&as_plain, options()).await.unwrap();
    store.migrate_up(None).await.unwrap();
    let told = store.shortcomings().remove(0);
    assert!(
        told.found.contains("row-level security is not in force"),
        "{told:?}"
    );
    let tenant = TenantId::new();
    assert_eq!(as_tenant(tenant, who(&store)).await.0, "plain", "it works on");
    // The advice, word for word.
    let sql = told.advice.split('`').nth(1).unwrap().to_owned();
    sqlx::raw_sql(AssertSqlSafe(sql))
        .execute(&mut admin)
        .await
        .unwrap();
    store.migrate_up(None).await.unwrap();
    assert_eq!(store.shortcomings(), []);
    let role = as_tenant(tenant, who(&store)).await.0;
    assert!(told.found.contains(&role) && role != "plain", "{role}");
    // Another user's store is not what this one's role leads to.
    let other = PostgresStore::connect(&url, Options::default()).await.unwrap();
    other.migrate_up(None).await.unwrap();
    assert_ne!(as_tenant(tenant, who(&other)).await.0, role);
    // What is taken away is not silently done without.
    let sql = format!("REVOKE SELECT ON own.tenants FROM {role}");
    sqlx::raw_sql(AssertSqlSafe(sql))
        .execute(&mut admin)
        .await
        .unwrap();
    let sql = "SELECT id, name, created_at, version FROM tenants".to_owned();
    let refused = as_tenant(tenant, store.select(Tenant::TABLE, sql, Vec::new())).await;
    assert!(matches!(refused, Err(StoreError::Engine { .. })), "{refused:?}");
    other.close().await;
    store.close().await;
}
