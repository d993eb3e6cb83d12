//! Migrations: numbered pairs of SQL files, each applied in one transaction and recorded with its checksum.

use crate::engine::translate;
use crate::writer::Op;
use ostler_store::{MigrationStatus, StoreError};
use rusqlite::Connection;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fmt::Write as _;

struct Migration {
    name: &'static str,
    up: &'static str,
    down: &'static str,
}

macro_rules! migrations {
    ($($file:literal: $name:literal,)+) => {
        &[$(Migration {
            name: $name,
            up: include_str!(concat!("../migrations/", $file, ".up.sql")),
            down: include_str!(concat!("../migrations/", $file, ".down.sql")),
        },)+]
    };
}

/// Number 1 is the first.
const MIGRATIONS: &[Migration] = migrations! {
    "0001_records": "records and events",
    "0002_runs": "the run queue",
    "0003_kept_replies": "replies to commands in sandboxes",
    "0004_sandboxes": "hosts, refill, pauses and use of sandboxes",
    "0005_access": "users, roles, credentials and the audit log",
    "0006_given_secrets": "which sandboxes were given secrets",
    "0007_tests": "test plans, their history and artifacts; held and skipped runs; classes of one tenant",
};

/// The newest number that this program knows.
pub(crate) const NEWEST: i64 = MIGRATIONS.len() as i64;

fn migration(version: i64) -> Result<&'static Migration, StoreError> {
    usize::try_from(version - 1)
        .ok()
        .and_then(|at| MIGRATIONS.get(at))
        .ok_or_else(|| StoreError::Schema {
            message: format!("there is no migration {version}; the newest is {NEWEST}"),
        })
}

fn checksum(migration: &Migration) -> String {
    let mut hash = Sha256::new();
    hash.update(migration.up);
    hash.update([0]);
    hash.update(migration.down);
    hash.finalize().iter().fold(String::new(), |mut text, byte| {
        // Writing into a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The applied migrations with their checksums.
fn applied(connection: &Connection) -> Result<BTreeMap<i64, String>, StoreError> {
    let there = connection
        .prepare("SELECT 1 FROM sqlite_master WHERE name = 'schema_migrations'")
        .and_then(|mut s| s.exists([]))
        .map_err(translate)?;
    if !there {
        return Ok(BTreeMap::new());
    }
    connection
        .prepare("SELECT version, checksum FROM schema_migrations")
        .and_then(|mut s| {
            s.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
                .collect::<Result<_, _>>()
        })
        .map_err(translate)
}

/// The numbers in force. Refuses a schema that is newer than this program, or that other files made.
pub(crate) fn check(connection: &Connection) -> Result<i64, StoreError> {
    let applied = applied(connection)?;
    for (version, sum) in &applied {
        if *version > NEWEST {
            return Err(StoreError::Schema {
                message: format!(
                    "it has migration {version}, and this program knows only {NEWEST}; use the newer Ostler that made it, \
                     or take it back with that one's `ostler migrate down`"
                ),
            });
        }
        if *sum != checksum(migration(*version)?) {
            return Err(StoreError::Schema {
                message: format!("migration {version} was applied in another form than this program has"),
            });
        }
    }
    let newest = applied.keys().next_back().copied().unwrap_or(0);
    if newest != applied.len() as i64 {
        return Err(StoreError::Schema {
            message: format!("migration {newest} is applied, but not all before it"),
        });
    }
    Ok(newest)
}

/// Every known migration.
pub(crate) fn status(connection: &Connection) -> Result<Vec<MigrationStatus>, StoreError> {
    let newest = check(connection)?;
    Ok((1..)
        .zip(MIGRATIONS)
        .map(|(version, migration)| MigrationStatus {
            version,
            name: migration.name.to_owned(),
            applied: version <= newest,
        })
        .collect())
}

/// Applies the next migration, unless all up to `to` are in force. Returns its number.
pub(crate) fn up(op: &mut Op<'_>, to: i64) -> Result<Option<i64>, StoreError> {
    let version = check(op.connection)? + 1;
    if version > to {
        return Ok(None);
    }
    let next = migration(version)?;
    op.connection
        .execute_batch(
            "CREATE TABLE IF NOT EXISTS schema_migrations (
                 version INTEGER PRIMARY KEY, name TEXT NOT NULL, checksum TEXT NOT NULL, applied_at TEXT NOT NULL
             ) STRICT",
        )
        .and_then(|()| op.connection.execute_batch(next.up))
        .map_err(translate)?;
    op.execute(
        "INSERT INTO schema_migrations VALUES (?1, ?2, ?3, datetime('now'))",
        (version, next.name, checksum(next)),
    )?;
    op.classes.clear();
    Ok(Some(version))
}

/// Takes back the newest migration, unless it is `to` or older. Returns its number.
pub(crate) fn down(op: &mut Op<'_>, to: i64) -> Result<Option<i64>, StoreError> {
    let version = check(op.connection)?;
    if version <= to.max(0) {
        return Ok(None);
    }
    op.connection
        .execute_batch(migration(version)?.down)
        .map_err(translate)?;
    op.execute("DELETE FROM schema_migrations WHERE version = ?1", [version])?;
    op.classes.clear();
    Ok(Some(version))
}
