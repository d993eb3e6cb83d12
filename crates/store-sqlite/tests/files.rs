//! What happens to the file: opening what is no database, a second opener, a full one, a killed process.

#![expect(clippy::unwrap_used, reason = "a test")]

use ostler_domain::{
    CommandSpec, NewRun, Requirements, RunId, RunKind, RunSpec, RunStatus, ServerId, TenantId, Timestamp,
};
use ostler_store::{Change, ClaimRuns, NewEvent, RunQueue, Store, StoreError};
use ostler_store_sqlite::{SqliteOptions, SqliteStore};
use std::io::{BufRead, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

fn options() -> SqliteOptions {
    SqliteOptions {
        lock_wait: Duration::from_millis(200),
        ..SqliteOptions::default()
    }
}

async fn migrated(path: &Path) -> SqliteStore {
    let store = SqliteStore::open(path, options()).unwrap();
    store.migrate_up(None).await.unwrap();
    store
}

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
        spec: RunSpec {
            commands: vec![CommandSpec {
                argv: vec!["true".into()],
                ..CommandSpec::default()
            }],
            ..RunSpec::default()
        },
        created_at: Timestamp(1),
    }
}

#[tokio::test]
async fn a_second_server_is_refused_until_the_first_has_closed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ostler.db");
    let first = migrated(&path).await;
    let error = SqliteStore::open(&path, options()).unwrap_err();
    assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
    assert!(error.to_string().contains("another Ostler server"), "{error}");
    // A tool may look, and even write, beside it.
    let tool = SqliteStore::open(
        &path,
        SqliteOptions {
            shared: true,
            ..options()
        },
    )
    .unwrap();
    let (a, b) = (run(), run());
    tool.enqueue(vec![a.clone()]).await.unwrap();
    first.enqueue(vec![b.clone()]).await.unwrap();
    assert!(first.run(a.id).await.unwrap().is_some());
    assert!(tool.run(b.id).await.unwrap().is_some());
    tool.close().await;
    first.close().await;
    let next = SqliteStore::open(&path, options()).unwrap();
    assert!(next.run(b.id).await.unwrap().is_some());
    next.close().await;
    assert!(
        !directory.path().join("ostler.db-wal").exists(),
        "the log is folded in"
    );
}

#[tokio::test]
async fn what_was_accepted_before_a_close_is_kept() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ostler.db");
    let store = Arc::new(migrated(&path).await);
    let tasks: Vec<_> = (0..200)
        .map(|_| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                let run = run();
                let id = run.id;
                store.enqueue(vec![run]).await.map(|_| id)
            })
        })
        .collect();
    tokio::task::yield_now().await;
    store.close().await;
    let next = SqliteStore::open(&path, options()).unwrap();
    let mut kept = 0;
    for task in tasks {
        if let Ok(id) = task.await.unwrap() {
            assert!(next.run(id).await.unwrap().is_some());
            kept += 1;
        }
    }
    let counters = next.counters(None).await.unwrap();
    assert_eq!(counters.get(&RunStatus::Queued).copied().unwrap_or(0), kept);
    next.close().await;
}

#[test]
fn what_cannot_be_opened_is_explained() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("letter.db");
    std::fs::write(&path, "Dear database, ".repeat(100)).unwrap();
    let error = SqliteStore::open(&path, options()).unwrap_err();
    assert!(matches!(error, StoreError::Schema { .. }), "{error}");
    assert!(error.to_string().contains("not an SQLite database"), "{error}");

    let error = SqliteStore::open(directory.path().join("no/such/ostler.db"), options()).unwrap_err();
    assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
    let error = SqliteStore::open(
        directory.path().join("no/such/ostler.db"),
        SqliteOptions {
            shared: true,
            ..options()
        },
    )
    .unwrap_err();
    assert!(error.to_string().contains("cannot be opened"), "{error}");
}

#[tokio::test]
async fn a_newer_or_changed_schema_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ostler.db");
    migrated(&path).await.close().await;
    let other = rusqlite::Connection::open(&path).unwrap();
    other
        .execute("INSERT INTO schema_migrations VALUES (99, 'future', '', '')", [])
        .unwrap();
    let error = SqliteStore::open(&path, options()).unwrap_err();
    assert!(matches!(error, StoreError::Schema { .. }), "{error}");
    assert!(error.to_string().contains("migration 99"), "{error}");
    other
        .execute_batch(
            "DELETE FROM schema_migrations WHERE version = 99; UPDATE schema_migrations SET checksum = 'x'",
        )
        .unwrap();
    let error = SqliteStore::open(&path, options()).unwrap_err();
    assert!(error.to_string().contains("another form"), "{error}");
}

#[tokio::test]
async fn a_full_database_keeps_nothing_of_the_request_and_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ostler.db");
    let limited = SqliteOptions {
        max_bytes: Some(1 << 20),
        ..options()
    };
    let store = SqliteStore::open(&path, limited).unwrap();
    store.migrate_up(None).await.unwrap();
    let event = |size: usize| {
        Change::Event(NewEvent {
            tenant_id: None,
            kind: "k".into(),
            subject: "s".into(),
            data: serde_json::Value::String("x".repeat(size)),
            at: Timestamp(1),
        })
    };
    let small = run();
    let error = store
        .commit(vec![Change::enqueue(small.clone()), event(2 << 20)])
        .await
        .unwrap_err();
    assert!(matches!(error, StoreError::Full { .. }), "{error}");
    assert!(store.run(small.id).await.unwrap().is_none());
    assert!(store.counters(None).await.unwrap().values().all(|n| *n == 0));
    store
        .commit(vec![Change::enqueue(small.clone()), event(10)])
        .await
        .unwrap();
    assert!(store.run(small.id).await.unwrap().is_some());
    store.close().await;
}

#[tokio::test]
async fn one_bad_operation_of_a_batch_leaves_the_others_alone() {
    let directory = tempfile::tempdir().unwrap();
    let store = Arc::new(migrated(&directory.path().join("ostler.db")).await);
    let known = run();
    store.enqueue(vec![known.clone()]).await.unwrap();
    // Submitted together, so that most share transactions; every third is a duplicate.
    let tasks: Vec<_> = (0..300)
        .map(|n| {
            let (store, known) = (Arc::clone(&store), known.clone());
            tokio::spawn(async move {
                let fresh = NewRun {
                    requirements: Requirements {
                        pool: Some(format!("pool {n}")),
                        ..Requirements::default()
                    },
                    ..run()
                };
                let mut runs = vec![fresh.clone()];
                if n % 3 == 0 {
                    runs.push(known);
                }
                (n, fresh.id, store.enqueue(runs).await)
            })
        })
        .collect();
    for task in tasks {
        let (n, id, result) = task.await.unwrap();
        assert_eq!(result.is_err(), n % 3 == 0, "{n}: {result:?}");
        assert_eq!(store.run(id).await.unwrap().is_some(), n % 3 != 0, "{n}");
    }
    assert_eq!(
        store.counters(None).await.unwrap().get(&RunStatus::Queued),
        Some(&201)
    );
    store.close().await;
}

/// Not a test of its own: what `acknowledged_runs_survive_a_kill` starts and kills.
#[tokio::test]
#[ignore = "run by acknowledged_runs_survive_a_kill in a process of its own"]
async fn enqueue_until_killed() {
    let Ok(path) = std::env::var("OSTLER_TEST_DATABASE") else {
        return;
    };
    let store = Arc::new(migrated(Path::new(&path)).await);
    let producers: Vec<_> = (0..8)
        .map(|_| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                for _ in 0..1_000_000 {
                    let run = run();
                    let id = run.id;
                    store.enqueue(vec![run]).await.unwrap();
                    let mut out = std::io::stdout().lock();
                    writeln!(out, "\nkept {id}").unwrap();
                    out.flush().unwrap();
                }
            })
        })
        .collect();
    for producer in producers {
        producer.await.unwrap();
    }
}

#[tokio::test]
async fn acknowledged_runs_survive_a_kill() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ostler.db");
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "--nocapture", "enqueue_until_killed"])
        .env("OSTLER_TEST_DATABASE", &path)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut kept: Vec<RunId> = Vec::new();
    let id_of = |line: &str| line.strip_prefix("kept ").and_then(|id| id.parse::<RunId>().ok());
    while kept.len() < 300 {
        let line = lines.next().expect("the child must go on").unwrap();
        kept.extend(id_of(&line));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    // What it had said before the kill, and we had not read.
    kept.extend(lines.map_while(Result::ok).filter_map(|line| id_of(&line)));

    let store = SqliteStore::open(&path, options()).unwrap();
    for id in &kept {
        let found = store.run(*id).await.unwrap();
        assert!(found.is_some(), "{id} was acknowledged and is gone");
    }
    let counters = store.counters(None).await.unwrap();
    let queued = *counters.get(&RunStatus::Queued).unwrap();
    assert!(queued >= kept.len() as i64);
    let classes = store.classes().await.unwrap();
    let claimed = store
        .claim(ClaimRuns {
            server_id: ServerId::new(),
            classes: classes.iter().map(|c| c.id).collect(),
            limit: u32::MAX,
            now: Timestamp(2),
            picks: Vec::new(),
            sandbox: None,
        })
        .await
        .unwrap();
    assert_eq!(claimed.len() as i64, queued, "the counters agree with the queue");
    store.close().await;
}

#[tokio::test]
async fn nobody_else_can_read_the_files() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().unwrap();
    std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let store = migrated(&directory.path().join("ostler.db")).await;
    for entry in std::fs::read_dir(directory.path()).unwrap() {
        let entry = entry.unwrap();
        let mode = entry.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{}", entry.path().display());
    }
    store.close().await;
}

/// What was there before classes belonged to tenants is found again, and what old programs have no word for comes nearest.
#[tokio::test]
async fn runs_are_kept_by_the_migration_of_tests_and_back() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ostler.db");
    let store = SqliteStore::open(&path, options()).unwrap();
    store.migrate_up(Some(6)).await.unwrap();
    let raw = rusqlite::Connection::open(&path).unwrap();
    let (mine, other) = (TenantId::DEFAULT, TenantId::new());
    let ids = [RunId::new(), RunId::new(), RunId::new()];
    raw.execute_batch("INSERT INTO run_classes (id, requirements) VALUES (7, '{}'), (9, '{\"pool\":\"x\"}')")
        .unwrap();
    for ((id, tenant), status) in ids
        .iter()
        .zip([mine, other, other])
        .zip(["queued", "queued", "failed"])
    {
        raw.execute(
            "INSERT INTO runs (id, class_id, priority, status, delayed, attempt, uncounted, max_attempts, \
             cancel_requested, tenant_id, kind, ordinal, created_at, spec) \
             VALUES (?1, 7, 3, ?3, 0, 0, 0, 1, 0, ?2, 'command', 1, 1, '{}')",
            (id.to_string(), tenant.to_string(), status),
        )
        .unwrap();
        raw.execute(
            "INSERT INTO run_counters VALUES (?1, ?2, 1)",
            (tenant.to_string(), status),
        )
        .unwrap();
    }
    assert_eq!(store.migrate_up(None).await.unwrap(), [7]);
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
    assert_eq!(
        store.enqueue(vec![held.clone(), skipped.clone()]).await.unwrap(),
        [4, 5]
    );
    assert_eq!(store.classes().await.unwrap().len(), 2, "they are known");
    let done = store.skip(vec![skipped.id], "no".into(), Timestamp(2)).await;
    assert_eq!(done.unwrap(), [true]);

    assert_eq!(store.migrate_down(6).await.unwrap(), [7]);
    let count = |sql: &str| raw.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap();
    assert_eq!(count("SELECT count(*) FROM run_classes"), 1);
    assert_eq!(
        count("SELECT count(*) FROM runs WHERE delayed = 1 AND not_before IS NULL"),
        1
    );
    assert_eq!(count("SELECT count(*) FROM runs WHERE status = 'cancelled'"), 1);
    assert_eq!(count("SELECT n FROM run_counters WHERE status = 'cancelled'"), 1);
    assert_eq!(
        count("SELECT count(*) FROM run_counters WHERE status = 'skipped'"),
        0
    );
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
            now: Timestamp(2),
            sandbox: None,
        })
        .await
        .unwrap();
    let claimed: Vec<RunId> = claimed.iter().map(|run| run.submitted.id).collect();
    assert_eq!(claimed, [ids[0], ids[1], held.id]);
    store.close().await;
}
