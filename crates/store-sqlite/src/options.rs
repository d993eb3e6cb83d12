//! Settings, and how connections and the lock of the database are opened.

use crate::engine::translate;
use ostler_store::StoreError;
use rusqlite::{Connection, OpenFlags};
use std::ffi::OsString;
use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Settings of a store. The defaults suit a server.
#[derive(Debug, Clone)]
pub struct SqliteOptions {
    /// Connections that read; at least one.
    pub readers: usize,
    /// Operations that may wait for the writer before callers are made to wait; at least one.
    pub queue: usize,
    /// How long to wait for another process to let go of the database.
    pub lock_wait: Duration,
    /// Opens beside a running server, for tools that look and for those that repair. Writes are safe, but the server
    /// gets no hints of them. Without it a second opener is refused.
    pub shared: bool,
    /// Most bytes that the database may grow to, its write-ahead log not counted; `None` for no limit of its own.
    pub max_bytes: Option<u64>,
}

impl Default for SqliteOptions {
    fn default() -> Self {
        Self {
            readers: 4,
            queue: 4096,
            lock_wait: Duration::from_secs(2),
            shared: false,
            max_bytes: None,
        }
    }
}

const PAGE: u64 = 4096;

/// The one connection that writes. Creates the file.
pub(crate) fn open_writer(path: &Path, options: &SqliteOptions) -> Result<Connection, StoreError> {
    // SQLite would make it readable by all; the files beside it get its permissions. One that is there is not opened,
    // since closing it would drop the locks of other connections. Why it cannot be made SQLite says as well.
    let _ = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path);
    let open = || -> rusqlite::Result<Connection> {
        let connection = Connection::open(path)?;
        prepare(&connection, options)?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.pragma_update(None, "foreign_keys", true)?;
        // A checkpoint copies pages and syncs twice; larger ones are fewer.
        connection.pragma_update(None, "wal_autocheckpoint", 4000)?;
        connection.pragma_update(None, "journal_size_limit", 64 << 20)?;
        if let Some(bytes) = options.max_bytes {
            let pages = i64::try_from(bytes / PAGE).unwrap_or(i64::MAX);
            connection.pragma_update_and_check(None, "max_page_count", pages, |_| Ok(()))?;
        }
        // Nothing above writes to a database that has everything already: find out now whether it can be written.
        connection.execute_batch("BEGIN IMMEDIATE; ROLLBACK")?;
        Ok(connection)
    };
    open().map_err(|e| at_path(path, translate(e)))
}

/// One connection that reads.
pub(crate) fn open_reader(path: &Path, options: &SqliteOptions) -> Result<Connection, StoreError> {
    let open = || -> rusqlite::Result<Connection> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags)?;
        prepare(&connection, options)?;
        Ok(connection)
    };
    open().map_err(|e| at_path(path, translate(e)))
}

fn prepare(connection: &Connection, options: &SqliteOptions) -> rusqlite::Result<()> {
    connection.busy_timeout(options.lock_wait.max(Duration::from_millis(100)))?;
    connection.set_prepared_statement_cache_capacity(256);
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    connection.pragma_update(None, "cache_size", -32_768)
}

fn at_path(path: &Path, error: StoreError) -> StoreError {
    let path = path.display();
    match error {
        StoreError::Unavailable { message } => StoreError::Unavailable {
            message: format!("{path}: {message}"),
        },
        StoreError::Schema { message } => StoreError::Schema {
            message: format!("{path}: {message}"),
        },
        other => other,
    }
}

/// Takes the lock of the database for this process, and holds it as long as the file is open.
///
/// The lock is on a file of its own beside the database: closing any other handle of the database file in this process
/// would drop the locks that SQLite itself has on it.
pub(crate) fn lock(path: &Path, options: &SqliteOptions) -> Result<Option<File>, StoreError> {
    if options.shared {
        return Ok(None);
    }
    let mut name = OsString::from(path);
    name.push(".lock");
    let name = PathBuf::from(name);
    let unavailable = |what: String| StoreError::Unavailable {
        message: format!("{}: {what}", name.display()),
    };
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&name)
        .map_err(|e| unavailable(format!("the lock file cannot be opened: {e}")))?;
    let deadline = Instant::now() + options.lock_wait;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(Some(file)),
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(TryLockError::WouldBlock) => {
                return Err(unavailable(
                    "another Ostler server uses this database; stop it first, or give each its own data directory"
                        .to_owned(),
                ));
            }
            Err(TryLockError::Error(e)) => return Err(unavailable(format!("it cannot be locked: {e}"))),
        }
    }
}
