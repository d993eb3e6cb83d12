//! What only a server of one's own can show: errors of connecting, a restart under load, servers beside each other.

#![allow(
    clippy::unwrap_used,
    reason = "an error is the failure that a test is there to show"
)]

use ostler_domain::{
    NewRun, Requirements, RunId, RunKind, RunSpec, RunStatus, ServerId, TenantId, Timestamp,
};
use ostler_store::{Change, ClaimRuns, Hint, NewEvent, RunQueue, Store, StoreError};
use ostler_store_postgres::{Options, PostgresStore};
use ostler_test_kit::{Postgres, require};
use sqlx::Connection;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

fn run() -> NewRun {
    NewRun {
        id: RunId::new(),
        tenant_id: TenantId::DEFAULT,
        kind: RunKind::Command,
        project_id: None,
        task_id: None,
        subtask_id: None,
        plan_id: None,
        ordinal: 1,
        requirements: Requirements::default(),
        priority: 0,
        max_attempts: 1,
        not_before: None,
        held: false,
        spec: RunSpec::default(),
        created_at: Timestamp(1),
    }
}

async fn open(url: &str) -> PostgresStore {
    let store = PostgresStore::connect(url, Options::default()).await.unwrap();
    store.migrate_up(None).await.unwrap();
    store
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_of_connecting_say_what_to_do() {
    require!(Postgres);
    let server = Postgres::shared();
    let connect = async |url: String| match PostgresStore::connect(&url, Options::default()).await {
        Err(error @ StoreError::Unavailable { .. }) => error.to_string(),
        other => panic!("{other:?}"),
    };
    let missing = connect(server.url("nowhere")).await;
    assert!(missing.contains("does not exist; create it"), "{missing}");
    // Port 1 of the loopback: nobody listens there.
    let nobody = connect("postgres://postgres@127.0.0.1:1/x".into()).await;
    assert!(
        nobody.contains("127.0.0.1:1") && nobody.contains("check that PostgreSQL runs"),
        "{nobody}"
    );
    let nonsense = connect("mysql://somewhere".into()).await;
    assert!(nonsense.contains("not the address"), "{nonsense}");
    let stranger = connect(server.url("postgres").replace("postgres@", "stranger@")).await;
    assert!(stranger.contains("user"), "{stranger}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_migrations_the_error_says_so() {
    require!(Postgres);
    let server = Postgres::shared();
    let url = server.database();
    let store = PostgresStore::connect(&url, Options::default()).await.unwrap();
    let error = store.run(RunId::new()).await.unwrap_err();
    assert!(matches!(error, StoreError::Schema { .. }), "{error:?}");
    assert!(error.to_string().contains("ostler migrate up"), "{error}");
    store.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_that_start_together_migrate_once() {
    require!(Postgres);
    let server = Postgres::shared();
    let url = server.database();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..6 {
        let url = url.clone();
        tasks.spawn(async move {
            let options = Options {
                schema: Some("Side \"by\" side".into()),
                ..Options::default()
            };
            let store = PostgresStore::connect(&url, options).await.unwrap();
            let applied = store.migrate_up(None).await.unwrap();
            assert!(store.migrations().await.unwrap().iter().all(|m| m.applied));
            let known = store.migrations().await.unwrap().len();
            store.close().await;
            (applied.len(), known)
        });
    }
    let done = tasks.join_all().await;
    assert_eq!(done.iter().map(|(applied, _)| applied).sum::<usize>(), done[0].1);
}

/// Row A1: below the application, a role that does not own the tables sees the rows of one tenant only.
#[tokio::test(flavor = "multi_thread")]
async fn another_role_sees_one_tenant() {
    require!(Postgres);
    let server = Postgres::start();
    let url = server.database();
    let store = open(&url).await;
    let (mine, other) = (TenantId::new(), TenantId::new());
    for tenant_id in [mine, other, other] {
        let theirs = NewRun { tenant_id, ..run() };
        store.enqueue(vec![theirs]).await.unwrap();
    }
    let mut connection = sqlx::PgConnection::connect(&url).await.unwrap();
    sqlx::raw_sql(
        "CREATE ROLE request; GRANT SELECT ON ALL TABLES IN SCHEMA public TO request; SET ROLE request",
    )
    .execute(&mut connection)
    .await
    .unwrap();
    for (tenant, expected) in [
        ("", 0),
        (mine.to_string().as_str(), 1),
        (other.to_string().as_str(), 2),
    ] {
        sqlx::query("SELECT set_config('ostler.tenant', $1, false)")
            .bind(tenant)
            .execute(&mut connection)
            .await
            .unwrap();
        let seen: i64 = sqlx::query_scalar("SELECT count(*) FROM runs")
            .fetch_one(&mut connection)
            .await
            .unwrap();
        assert_eq!(seen, expected, "{tenant}");
    }
    store.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hint_reaches_the_other_server() {
    require!(Postgres);
    let server = Postgres::shared();
    let url = server.database();
    let (one, other) = (open(&url).await, open(&url).await);
    // Until its listener has proven itself, the other gives every hint once a second; wait for that to end.
    tokio::time::sleep(Duration::from_millis(2500)).await;
    let mut hints = other.hints();
    while hints.try_recv().is_ok() {}
    let quiet = tokio::time::timeout(Duration::from_millis(1500), hints.recv()).await;
    assert!(quiet.is_err(), "{quiet:?}");
    let start = Instant::now();
    one.enqueue(vec![run()]).await.unwrap();
    let hint = tokio::time::timeout(Duration::from_secs(5), hints.recv())
        .await
        .unwrap();
    assert_eq!(hint.unwrap(), Hint::RunsQueued);
    assert!(
        start.elapsed() < Duration::from_millis(900),
        "{:?}",
        start.elapsed()
    );
    one.close().await;
    other.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_servers_share_the_queue() {
    require!(Postgres);
    let server = Postgres::shared();
    let url = server.database();
    let stores = [Arc::new(open(&url).await), Arc::new(open(&url).await)];
    stores[0]
        .enqueue((0..2000).map(|_| run()).collect())
        .await
        .unwrap();
    let classes: Vec<i64> = stores[1].classes().await.unwrap().iter().map(|c| c.id).collect();
    let mut tasks = tokio::task::JoinSet::new();
    for worker in 0..6 {
        let (store, classes) = (Arc::clone(&stores[worker % 2]), classes.clone());
        tasks.spawn(async move {
            let server_id = ServerId::new();
            let mut claimed = Vec::new();
            loop {
                let runs = store
                    .claim(ClaimRuns {
                        server_id,
                        classes: classes.clone(),
                        limit: 7,
                        now: Timestamp(10),
                        picks: Vec::new(),
                        sandbox: None,
                    })
                    .await
                    .unwrap();
                let left = store.counters(None).await.unwrap()[&RunStatus::Queued];
                if runs.is_empty() && left == 0 {
                    return claimed;
                }
                claimed.extend(runs.into_iter().map(|run| run.submitted.id));
            }
        });
    }
    let claimed: Vec<RunId> = tasks.join_all().await.into_iter().flatten().collect();
    assert_eq!(claimed.len(), 2000);
    assert_eq!(claimed.iter().collect::<BTreeSet<_>>().len(), 2000);
    for store in stores {
        store.close().await;
    }
}

/// Bar R3: nothing that was accepted is lost, nothing is there twice, and work goes on within seconds.
#[tokio::test(flavor = "multi_thread")]
async fn a_restart_under_load_loses_nothing() {
    require!(Postgres);
    let mut server = Postgres::start();
    let url = server.database();
    let store = Arc::new(open(&url).await);
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let mut producers = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let (store, stop) = (Arc::clone(&store), Arc::clone(&stop));
        producers.spawn(async move {
            let mut accepted = Vec::new();
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                let run = run();
                match store.enqueue(vec![run.clone()]).await {
                    Ok(_) => accepted.push(run.id),
                    Err(StoreError::Unavailable { .. }) => {
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                    Err(error) => panic!("{error:?}"),
                }
            }
            accepted
        });
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    let _server = tokio::task::spawn_blocking(move || {
        server.down();
        std::thread::sleep(Duration::from_secs(1));
        server.up();
        server
    })
    .await
    .unwrap();
    let back = Instant::now();
    loop {
        if store.enqueue(vec![run()]).await.is_ok() {
            break;
        }
    }
    assert!(back.elapsed() < Duration::from_secs(5), "{:?}", back.elapsed());
    tokio::time::sleep(Duration::from_millis(500)).await;
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    let accepted: Vec<RunId> = producers.join_all().await.into_iter().flatten().collect();
    assert!(accepted.len() > 20);
    for id in &accepted {
        assert!(
            store.run(*id).await.unwrap().is_some(),
            "{id} was accepted and is gone"
        );
    }
    // Hints of other servers come again as well.
    let mut hints = store.hints();
    let other = open(&url).await;
    let event = NewEvent {
        tenant_id: None,
        kind: "x".into(),
        subject: "y".into(),
        data: serde_json::Value::Null,
        at: Timestamp(1),
    };
    other.commit(vec![Change::Event(event)]).await.unwrap();
    tokio::time::timeout(Duration::from_secs(5), async {
        while !matches!(hints.recv().await, Ok(Hint::Events)) {}
    })
    .await
    .unwrap();
    other.close().await;
    store.close().await;
}

/// What was there before classes belonged to tenants is found again, and what old programs have no word for comes nearest.
#[tokio::test(flavor = "multi_thread")]
async fn runs_are_kept_by_the_migration_of_tests_and_back() {
    require!(Postgres);
    let server = Postgres::shared();
    let url = server.database();
    let store = PostgresStore::connect(&url, Options::default()).await.unwrap();
    store.migrate_up(Some(6)).await.unwrap();
    assert_eq!(store.shortcomings(), []);
    let mut raw = sqlx::PgConnection::connect(&url).await.unwrap();
    let (mine, other) = (TenantId::DEFAULT, TenantId::new());
    let ids = [RunId::new(), RunId::new(), RunId::new(), RunId::new()];
    let mut sql = "INSERT INTO run_classes (requirements) VALUES ('{\"pool\":\"x\"}'), ('{}');".to_owned();
    for (id, (tenant, state)) in ids.iter().zip([
        (mine, "run_ready"),
        (other, "run_ready"),
        (other, "run_ends"),
        (mine, "run_delayed"),
    ]) {
        let (columns, values) = match state {
            "run_ends" => (
                "seq, attempt, cancel_requested, finished_at, status, outcome",
                "currval('run_seq'), 1, 0, 5, 'failed', '{}'",
            ),
            "run_delayed" => (
                "seq, class_id, rank, attempt, spared, not_before",
                "currval('run_seq'), 2, -3, 0, 0, 9",
            ),
            _ => (
                "class_id, rank, seq, attempt, spared",
                "2, -3, currval('run_seq'), 0, 0",
            ),
        };
        let not_before = if state == "run_delayed" { "9" } else { "NULL" };
        let column = if state == "run_ends" { "failed" } else { "queued" };
        sql = format!(
            "{sql} INSERT INTO runs (seq, priority, class_id, ordinal, max_attempts, created_at, not_before, id, tenant_id, \
             kind, spec) VALUES (nextval('run_seq'), 3, 2, 1, 1, 1, {not_before}, '{id}', '{tenant}', 'command', '{{}}'); \
             INSERT INTO {state} ({columns}) VALUES ({values}); \
             INSERT INTO run_counts (tenant_id, {column}) VALUES ('{tenant}', 1);"
        );
    }
    sqlx::raw_sql(sqlx::AssertSqlSafe(sql))
        .execute(&mut raw)
        .await
        .unwrap();
    assert_eq!(store.migrate_up(None).await.unwrap(), [7]);
    assert_eq!(store.shortcomings(), []);
    let classes = store.classes().await.unwrap();
    let owners: Vec<TenantId> = classes.iter().map(|class| class.tenant_id).collect();
    assert!(owners.len() == 2 && owners.contains(&mine) && owners.contains(&other));
    assert!(
        classes
            .iter()
            .all(|class| class.requirements == Requirements::default())
    );
    let failed = store.run(ids[2]).await.unwrap().unwrap();
    assert_eq!((failed.status, failed.seq), (RunStatus::Failed, 3));
    let held = NewRun { held: true, ..run() };
    let skipped = run();
    store.enqueue(vec![held.clone(), skipped.clone()]).await.unwrap();
    assert_eq!(store.classes().await.unwrap().len(), 2, "they are known");
    let done = store.skip(vec![skipped.id], "no".into(), Timestamp(2)).await;
    assert_eq!(done.unwrap(), [true]);

    assert_eq!(store.migrate_down(6).await.unwrap(), [7]);
    for (sql, expected) in [
        ("SELECT count(*) FROM run_classes", 1),
        (
            "SELECT count(*) FROM run_delayed WHERE not_before = 9223372036854775807",
            1,
        ),
        ("SELECT count(*) FROM run_ends WHERE status = 'cancelled'", 1),
        ("SELECT sum(cancelled)::bigint FROM run_counts", 1),
    ] {
        let found: i64 = sqlx::query_scalar(sql).fetch_one(&mut raw).await.unwrap();
        assert_eq!(found, expected, "{sql}");
    }
    assert_eq!(store.migrate_up(None).await.unwrap(), [7]);
    assert_eq!(
        store.release(vec![held.id, ids[0]]).await.unwrap(),
        1,
        "it was held again"
    );
    let classes = store.classes().await.unwrap();
    let claimed = store
        .claim(ClaimRuns {
            server_id: ServerId::new(),
            classes: classes.iter().map(|c| c.id).collect(),
            picks: Vec::new(),
            limit: 9,
            now: Timestamp(9),
            sandbox: None,
        })
        .await
        .unwrap();
    let claimed: Vec<RunId> = claimed.iter().map(|run| run.submitted.id).collect();
    assert_eq!(claimed, [ids[0], ids[1], ids[3], held.id]);
    store.close().await;
}
