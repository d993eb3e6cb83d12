//! The data directory and the database.

use super::{Check, LIMIT, Status, TRIAL};
use crate::database;
use nix::sys::statfs;
use ostler_domain::Pool;
use ostler_store::{Filter, Store, StoreExt};
use ostler_store_sqlite::{SqliteOptions, SqliteStore};
use std::path::{Path, PathBuf};
use std::time::Duration;

const DIRECTORY: &str = "data directory";
const DATABASE: &str = "database";

/// Free space below which nothing can work, and below which little can, in bytes.
const TOO_LITTLE: u64 = 200 << 20;
const LITTLE: u64 = 5 << 30;

/// Network file systems by what `statfs` calls them: SQLite's shared memory and locks do not work there.
const REMOTE: &[(i64, &str)] = &[
    (0x6969, "NFS"),
    (0x517b, "SMB"),
    (0xff53_4d42, "CIFS"),
    (0xfe53_4d42, "SMB 2"),
    (0x6573_5546, "FUSE"),
    (0x0102_1997, "9P"),
    (0x00c3_6400, "Ceph"),
    (0x5346_414f, "AFS"),
];

/// The directory in which trials can be made: the data directory, or where it will be made. `None` when it cannot be used.
pub(super) fn directory(data: &Path, checks: &mut Vec<Check>) -> Option<PathBuf> {
    let mut refuse = |found: String| {
        checks.push(Check::new(
            Status::Failure,
            DIRECTORY,
            found,
            "the server does not start",
            "give the directory to this user, or name another with --data DIR",
        ));
        None
    };
    let absolute = match std::path::absolute(data) {
        Ok(absolute) => absolute,
        Err(error) => return refuse(format!("{}: {error}", data.display())),
    };
    let Some(there) = absolute.ancestors().find(|dir| dir.symlink_metadata().is_ok()) else {
        return refuse(format!("{} cannot be reached", data.display()));
    };
    if !there.is_dir() {
        return refuse(format!("{} is not a directory", there.display()));
    }
    if let Err(error) = tempfile::tempfile_in(there) {
        return refuse(format!("{} cannot be written: {error}", there.display()));
    }
    let shown = data.display();
    let state = if there == absolute {
        "can be written"
    } else {
        "is made at the first start"
    };
    checks.push(space(there, &format!("{shown} {state}")));
    Some(there.to_owned())
}

fn space(dir: &Path, found: &str) -> Check {
    let free = match statfs::statfs(dir) {
        Ok(stat) => stat.blocks_available() * stat.block_size() as u64,
        Err(error) => {
            return Check::new(
                Status::Warning,
                DIRECTORY,
                format!("{found}; its free space is not known: {error}"),
                "a full disk is noticed only when it is full",
                "look at it with `df`",
            );
        }
    };
    let found = format!("{found}; {} free", size(free));
    let advice = "make room there, or name another directory with --data DIR";
    match free {
        ..TOO_LITTLE => Check::new(
            Status::Failure,
            DIRECTORY,
            found,
            "the database, clones and logs have no room",
            advice,
        ),
        TOO_LITTLE..LITTLE => Check::new(
            Status::Warning,
            DIRECTORY,
            found,
            "clones, logs and sandboxes may soon have no room",
            advice,
        ),
        LITTLE.. => Check::ok(DIRECTORY, found),
    }
}

fn size(bytes: u64) -> String {
    match bytes {
        ..0x4000_0000 => format!("{} MiB", bytes >> 20),
        _ => format!("{} GiB", bytes >> 30),
    }
}

/// A directory for trials, which is removed at the end; with `sqlite` a database is tried in it first.
pub(super) async fn trial(place: &Path, sqlite: bool, checks: &mut Vec<Check>) -> Option<tempfile::TempDir> {
    let made = tempfile::Builder::new()
        .prefix(&format!("{TRIAL}{}-", std::process::id()))
        .rand_bytes(2)
        .tempdir_in(place);
    let dir = match made {
        Ok(dir) => dir,
        Err(error) => {
            checks.push(Check::new(
                Status::Failure,
                DIRECTORY,
                format!("no directory can be made in {}: {error}", place.display()),
                "the server does not start",
                "give the directory to this user, or name another with --data DIR",
            ));
            return None;
        }
    };
    if sqlite {
        checks.push(file_system(dir.path()).await);
    }
    Some(dir)
}

/// Whether SQLite finds here what it needs, by using it.
async fn file_system(dir: &Path) -> Check {
    const SUBJECT: &str = "file system";
    let remote = statfs::statfs(dir).ok().and_then(|stat| {
        let kind = stat.filesystem_type().0 & 0xffff_ffff;
        REMOTE.iter().find(|(number, _)| *number == kind)
    });
    let meaning = "a database here can be damaged, or cannot be made";
    let advice =
        "name a directory on a local disk with --data DIR, or use PostgreSQL (`database = \"postgres://…\"`)";
    if let Some((_, name)) = remote {
        let found = format!("{name}, which is reached over a network or by a program of its own");
        return Check::new(Status::Warning, SUBJECT, found, meaning, advice);
    }
    let file = dir.join("trial.db");
    let options = || SqliteOptions {
        lock_wait: Duration::ZERO,
        ..SqliteOptions::default()
    };
    let used = async {
        let store = SqliteStore::open(&file, options()).map_err(|error| error.to_string())?;
        let made = store.migrate_up(None).await.map_err(|error| error.to_string());
        let second = SqliteStore::open(&file, options()).is_err();
        store.close().await;
        made.map(|_| second)
    };
    match tokio::time::timeout(LIMIT, used).await {
        Ok(Ok(true)) => Check::ok(SUBJECT, "a trial database was made, written and locked"),
        Ok(Ok(false)) => Check::new(
            Status::Failure,
            SUBJECT,
            "locks are granted twice",
            "two servers could use one database and damage it",
            advice,
        ),
        Ok(Err(error)) => Check::new(Status::Failure, SUBJECT, error, meaning, advice),
        Err(_) => Check::new(
            Status::Failure,
            SUBJECT,
            format!("a trial database was not made within {LIMIT:?}"),
            meaning,
            advice,
        ),
    }
}

/// The database and its schema. Returns the pools, as far as they can be read.
pub(super) async fn database(database: Option<&str>, data: &Path, checks: &mut Vec<Check>) -> Vec<Pool> {
    let file = match database {
        None => Some(data.join("ostler.db")),
        Some(url) => url.strip_prefix("sqlite:").map(PathBuf::from),
    };
    // Opening would make it.
    if let Some(file) = file.as_ref().filter(|file| !file.exists()) {
        let found = format!("{} is made at the first start", file.display());
        checks.push(Check::ok(DATABASE, found));
        return Vec::new();
    }
    let looked = async {
        let store = database::open(database, data, true).await?;
        let looked = look(store.as_ref()).await;
        store.close().await;
        anyhow::Ok(looked?)
    };
    let advice = match file {
        Some(_) => {
            "if the file is damaged, put it back from a backup; if a newer Ostler made it, use that one"
        }
        None => "start PostgreSQL, or set `database` to the right URL",
    };
    let refused = |found: String| {
        Check::new(
            Status::Failure,
            DATABASE,
            found,
            "the server does not start",
            advice,
        )
    };
    match tokio::time::timeout(LIMIT, looked).await {
        Ok(Ok((found, pools))) => {
            checks.extend(found);
            return pools;
        }
        Ok(Err(error)) => checks.push(refused(format!("{error:#}"))),
        Err(_) => checks.push(refused(format!("it did not answer within {LIMIT:?}"))),
    }
    Vec::new()
}

async fn look(store: &dyn Store) -> Result<(Vec<Check>, Vec<Pool>), ostler_store::StoreError> {
    let migrations = store.migrations().await?;
    let applied = migrations.iter().filter(|m| m.applied).count();
    if applied < migrations.len() {
        let found = format!(
            "reachable; {applied} of {} migrations are applied",
            migrations.len()
        );
        let check = Check::new(
            Status::Warning,
            DATABASE,
            found,
            "the next start applies the others, after which an older Ostler cannot use it",
            "make a backup first; `ostler migrate status` lists them",
        );
        return Ok((vec![check], Vec::new()));
    }
    let pools = store.list(Filter::all()).await?;
    let found = format!("reachable; schema version {applied}, {} pools", pools.len());
    let mut checks = vec![Check::ok(DATABASE, found)];
    for shortcoming in store.shortcomings() {
        checks.push(Check::new(
            Status::Warning,
            DATABASE,
            shortcoming.found,
            shortcoming.meaning,
            shortcoming.advice,
        ));
    }
    Ok((checks, pools))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn only(checks: &[Check]) -> &Check {
        assert_eq!(checks.len(), 1, "{checks:?}");
        &checks[0]
    }

    #[test]
    fn a_directory_below_a_file_cannot_be_used() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        let mut checks = Vec::new();
        assert_eq!(directory(&file.join("data"), &mut checks), None);
        assert_eq!(only(&checks).status, Status::Failure);

        let mut checks = Vec::new();
        let place = directory(&dir.path().join("a/b"), &mut checks);
        assert_eq!(place.as_deref(), Some(dir.path()));
        assert!(only(&checks).found.contains("first start"), "{checks:?}");
        assert_eq!(
            std::fs::read_dir(dir.path()).unwrap().count(),
            1,
            "nothing is made"
        );
    }

    #[tokio::test]
    async fn a_trial_leaves_nothing_and_sees_a_file_system_without_room_for_it() {
        let dir = tempfile::tempdir().unwrap();
        let mut checks = Vec::new();
        let trial = trial(dir.path(), true, &mut checks).await.unwrap();
        assert_ne!(only(&checks).status, Status::Failure, "{checks:?}");
        drop(trial);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        let check = file_system(&dir.path().join("nowhere")).await;
        assert_eq!(check.status, Status::Failure, "{check:?}");
    }

    #[tokio::test]
    async fn a_damaged_database_is_a_failure_and_an_old_one_a_warning() {
        let dir = tempfile::tempdir().unwrap();
        let looked = async || {
            let mut checks = Vec::new();
            database(None, dir.path(), &mut checks).await;
            only(&checks).clone()
        };
        assert_eq!(looked().await.status, Status::Ok);
        let file = dir.path().join("ostler.db");
        assert!(!file.exists(), "looking makes nothing");
        let store = SqliteStore::open(&file, SqliteOptions::default()).unwrap();
        store.migrate_up(Some(1)).await.unwrap();
        assert_eq!(looked().await.status, Status::Warning, "beside a server, too");
        store.migrate_up(None).await.unwrap();
        store.close().await;
        drop(store);
        let check = looked().await;
        assert!(check.found.contains("0 pools"), "{check:?}");
        std::fs::write(&file, "not a database at all, but long enough to be looked at").unwrap();
        assert_eq!(looked().await.status, Status::Failure);
    }
}
