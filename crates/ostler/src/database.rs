//! Opening the store that the settings name.

use anyhow::{Context, bail};
use ostler_store::Store;
use ostler_store_postgres::PostgresStore;
use ostler_store_sqlite::{SqliteOptions, SqliteStore};
use std::path::Path;
use std::sync::Arc;

/// Opens the store; `shared` for tools that run beside a server. Applies no migrations.
pub(crate) async fn open(
    database: Option<&str>,
    data: &Path,
    shared: bool,
) -> anyhow::Result<Arc<dyn Store>> {
    let sqlite = |path: &Path| -> anyhow::Result<Arc<dyn Store>> {
        let options = SqliteOptions {
            shared,
            ..SqliteOptions::default()
        };
        let store =
            SqliteStore::open(path, options).with_context(|| format!("cannot open {}", path.display()))?;
        Ok(Arc::new(store))
    };
    match database {
        None => sqlite(&data.join("ostler.db")),
        Some(url) if url.starts_with("postgres://") || url.starts_with("postgresql://") => Ok(Arc::new(
            PostgresStore::connect(url, ostler_store_postgres::Options::default()).await?,
        )),
        Some(other) => match other.strip_prefix("sqlite:") {
            Some(path) => sqlite(Path::new(path)),
            None => bail!("the database must be `sqlite:PATH` or `postgres://user:password@host/database`"),
        },
    }
}
