//! Connections that read.

use crate::engine::closed;
use crate::options::{SqliteOptions, open_reader};
use ostler_store::StoreError;
use rusqlite::Connection;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::Semaphore;

/// A fixed number of read-only connections. Each sees what was committed when its statement begins.
pub(crate) struct Readers {
    path: PathBuf,
    options: SqliteOptions,
    free: Arc<Mutex<Vec<Connection>>>,
    permits: Arc<Semaphore>,
}

impl Readers {
    pub(crate) fn open(path: PathBuf, options: SqliteOptions) -> Result<Self, StoreError> {
        let count = options.readers.max(1);
        let free = (0..count)
            .map(|_| open_reader(&path, &options))
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Self {
            path,
            options,
            free: Arc::new(Mutex::new(free)),
            permits: Arc::new(Semaphore::new(count)),
        })
    }

    /// Runs `work` on a connection, on a thread that may block. Waits while all connections are in use.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let permit = Arc::clone(&self.permits)
            .acquire_owned()
            .await
            .map_err(|_| closed())?;
        let taken = self.free.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let (path, options, free) = (self.path.clone(), self.options.clone(), Arc::clone(&self.free));
        tokio::task::spawn_blocking(move || {
            // One is missing only after a panic took it along.
            let connection = match taken {
                Some(connection) => connection,
                None => open_reader(&path, &options)?,
            };
            let result = work(&connection);
            free.lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(connection);
            drop(permit);
            result
        })
        .await
        .map_err(|e| StoreError::Engine {
            message: format!("a read did not end: {e}"),
        })?
    }

    /// Refuses what comes from now on, waits for what is being read, and closes the connections.
    pub(crate) async fn close(&self) {
        let all = u32::try_from(self.options.readers.max(1)).unwrap_or(u32::MAX);
        // Fails only when it is closed already.
        if let Ok(permits) = self.permits.acquire_many(all).await {
            self.permits.close();
            permits.forget();
        }
        self.free.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}
