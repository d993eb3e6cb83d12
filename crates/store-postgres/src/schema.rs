//! Migrations: numbered files, each applied in a transaction of its own.
//!
//! An advisory lock makes servers that start together take turns. What was applied is kept with its checksum, so that a
//! file that was changed afterwards is noticed instead of silently believed.

use crate::error::store_error;
use crate::rls;
use ostler_store::{MigrationStatus, StoreError};
use sha2::{Digest, Sha256};
use sqlx::postgres::PgConnection;
use sqlx::{Acquire, PgPool, Row};
use std::collections::BTreeMap;

struct Migration {
    version: i64,
    name: &'static str,
    up: &'static str,
    down: &'static str,
}

const MIGRATIONS: &[Migration] = &[
    Migration {
        version: 1,
        name: "base",
        up: include_str!("../migrations/0001_base.up.sql"),
        down: include_str!("../migrations/0001_base.down.sql"),
    },
    Migration {
        version: 2,
        name: "replies to commands in sandboxes",
        up: include_str!("../migrations/0002_kept_replies.up.sql"),
        down: include_str!("../migrations/0002_kept_replies.down.sql"),
    },
    Migration {
        version: 3,
        name: "hosts, refill, pauses and use of sandboxes",
        up: include_str!("../migrations/0003_sandboxes.up.sql"),
        down: include_str!("../migrations/0003_sandboxes.down.sql"),
    },
    Migration {
        version: 4,
        name: "users, roles, credentials and the audit log",
        up: include_str!("../migrations/0004_access.up.sql"),
        down: include_str!("../migrations/0004_access.down.sql"),
    },
    Migration {
        version: rls::SINCE,
        name: "what the role of requests sees",
        up: include_str!("../migrations/0005_request_role.up.sql"),
        down: include_str!("../migrations/0005_request_role.down.sql"),
    },
    Migration {
        version: 6,
        name: "which sandboxes were given secrets",
        up: include_str!("../migrations/0006_given_secrets.up.sql"),
        down: include_str!("../migrations/0006_given_secrets.down.sql"),
    },
    Migration {
        version: 7,
        name: "test plans, their history and artifacts; held and skipped runs; classes of one tenant",
        up: include_str!("../migrations/0007_tests.up.sql"),
        down: include_str!("../migrations/0007_tests.down.sql"),
    },
];

impl Migration {
    fn checksum(&self) -> String {
        use std::fmt::Write;
        let mut text = String::with_capacity(64);
        for byte in Sha256::digest(self.up) {
            // Writing to a string cannot fail.
            let _ = write!(text, "{byte:02x}");
        }
        text
    }
}

/// What is applied, by number: the checksum. Takes the lock, which the end of the transaction gives back.
async fn applied(connection: &mut PgConnection) -> Result<BTreeMap<i64, String>, sqlx::Error> {
    sqlx::query("SELECT pg_advisory_xact_lock(hashtext('ostler migrations'), hashtext(current_schema()))")
        .execute(&mut *connection)
        .await?;
    sqlx::query(
        "CREATE TABLE IF NOT EXISTS schema_migrations (version BIGINT PRIMARY KEY, name TEXT NOT NULL, \
         checksum TEXT NOT NULL, applied_at TIMESTAMPTZ NOT NULL DEFAULT now())",
    )
    .execute(&mut *connection)
    .await?;
    let rows = sqlx::query("SELECT version, checksum FROM schema_migrations")
        .fetch_all(connection)
        .await?;
    rows.iter()
        .map(|row| Ok((row.try_get(0)?, row.try_get(1)?)))
        .collect()
}

/// Refuses a database that a newer or a different program has made.
fn check(applied: &BTreeMap<i64, String>) -> Result<(), StoreError> {
    for (version, checksum) in applied {
        let message = match MIGRATIONS.iter().find(|m| m.version == *version) {
            None => format!(
                "migration {version} is unknown here; use the newer version of Ostler that applied it"
            ),
            Some(known) if known.checksum() != *checksum => format!(
                "migration {version} ({}) was applied from a different file; use the version of Ostler that applied it",
                known.name
            ),
            Some(_) => continue,
        };
        return Err(StoreError::Schema { message });
    }
    Ok(())
}

/// Every known migration and whether it is in force.
pub(crate) async fn status(pool: &PgPool) -> Result<Vec<MigrationStatus>, StoreError> {
    let read = async {
        let mut transaction = pool.begin().await?;
        let applied = applied(&mut transaction).await?;
        transaction.commit().await?;
        Ok(applied)
    };
    let applied = read.await.map_err(|e: sqlx::Error| store_error(&e))?;
    check(&applied)?;
    Ok(MIGRATIONS
        .iter()
        .map(|m| MigrationStatus {
            version: m.version,
            name: m.name.to_owned(),
            applied: applied.contains_key(&m.version),
        })
        .collect())
}

/// Applies or takes back one migration, unless another server has just done so. Says whether it did something.
async fn step(pool: &PgPool, migration: &Migration, up: bool) -> Result<bool, StoreError> {
    let mut connection = pool.acquire().await.map_err(|e| store_error(&e))?;
    let mut transaction = connection.begin().await.map_err(|e| store_error(&e))?;
    let applied = applied(&mut transaction).await.map_err(|e| store_error(&e))?;
    check(&applied)?;
    if applied.contains_key(&migration.version) == up {
        return Ok(false);
    }
    let work = async {
        // Building an index over many rows takes its time.
        sqlx::query("SET LOCAL statement_timeout = 0")
            .execute(&mut *transaction)
            .await?;
        sqlx::raw_sql(if up { migration.up } else { migration.down })
            .execute(&mut *transaction)
            .await?;
        if up {
            sqlx::query("INSERT INTO schema_migrations (version, name, checksum) VALUES ($1, $2, $3)")
                .bind(migration.version)
                .bind(migration.name)
                .bind(migration.checksum())
                .execute(&mut *transaction)
                .await?;
        } else {
            sqlx::query("DELETE FROM schema_migrations WHERE version = $1")
                .bind(migration.version)
                .execute(&mut *transaction)
                .await?;
        }
        transaction.commit().await
    };
    work.await.map_err(|e: sqlx::Error| StoreError::Schema {
        message: format!("migration {} ({}) failed: {e}", migration.version, migration.name),
    })?;
    Ok(true)
}

/// Applies those up to `to`.
pub(crate) async fn up(pool: &PgPool, to: Option<i64>) -> Result<Vec<i64>, StoreError> {
    let mut done = Vec::new();
    for migration in MIGRATIONS {
        if to.is_none_or(|to| migration.version <= to) && step(pool, migration, true).await? {
            done.push(migration.version);
        }
    }
    // At every start: what later migrations add is granted, and a database from a dump has no roles.
    request_role(pool, true).await;
    Ok(done)
}

/// Makes the role of requests what it must be, or removes it with the policies that it is for. Where that is not allowed
/// the store works without; whoever looks at the role afterwards says so.
async fn request_role(pool: &PgPool, wanted: bool) {
    let work = async {
        let mut transaction = pool.begin().await?;
        let there = applied(&mut transaction).await?.contains_key(&rls::SINCE);
        match (there, wanted) {
            (true, true) => rls::prepare(&mut transaction).await?,
            (false, false) => rls::remove(&mut transaction).await?,
            _ => return Ok(()),
        }
        transaction.commit().await
    };
    if let Err(error) = work.await {
        let error: sqlx::Error = error;
        tracing::debug!(%error, "the role of requests could not be made ready");
    }
}

/// Takes those after `to` back, the newest first.
pub(crate) async fn down(pool: &PgPool, to: i64) -> Result<Vec<i64>, StoreError> {
    let mut done = Vec::new();
    for migration in MIGRATIONS.iter().rev() {
        if migration.version > to && step(pool, migration, false).await? {
            done.push(migration.version);
        }
    }
    request_role(pool, false).await;
    Ok(done)
}
