//! Opening and closing.

use crate::class::Classes;
use crate::error::{connect_error, store_error};
use crate::hints::Hints;
use crate::queue::Intake;
use crate::rls::RequestRole;
use crate::upkeep::Upkeep;
use ostler_store::StoreError;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{AssertSqlSafe, Connection, PgPool};
use std::future::Future;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

const OLDEST_VERSION: i64 = 130_000;
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);
/// A connection that has rested for longer is tried before it is used: the server may have been restarted.
const TRUSTED_REST: Duration = Duration::from_secs(1);

/// How to use a database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Most connections for statements; one more listens for hints.
    pub pool_size: u32,
    /// The name that `pg_stat_activity` shows.
    pub application_name: String,
    /// After this the server ends a statement.
    pub statement_timeout: Duration,
    /// Schema of the tables, made when it is missing; `None` for the one that the server's `search_path` has.
    pub schema: Option<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            pool_size: 10,
            application_name: "ostler".into(),
            statement_timeout: Duration::from_secs(30),
            schema: None,
        }
    }
}

/// A store in a PostgreSQL database, version 13 or later.
#[derive(Debug)]
pub struct PostgresStore {
    pub(crate) inner: Arc<Inner>,
    pub(crate) intake: Intake,
    tasks: TaskTracker,
    stop: CancellationToken,
    _stop_when_dropped: DropGuard,
}

/// What background tasks share with the store.
pub(crate) struct Inner {
    pub(crate) pool: PgPool,
    pub(crate) classes: Classes,
    pub(crate) hints: Hints,
    pub(crate) upkeep: Upkeep,
    pub(crate) request_role: RequestRole,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inner")
            .field("pool", &self.pool)
            .finish_non_exhaustive()
    }
}

/// A name as an SQL identifier, whatever is in it.
pub(crate) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn connect_options(url: &str, options: &Options) -> Result<PgConnectOptions, StoreError> {
    let not_an_address = |why: String| StoreError::Unavailable {
        message: format!("this is not the address of a PostgreSQL database: {why}"),
    };
    if !["postgres://", "postgresql://"]
        .iter()
        .any(|scheme| url.starts_with(scheme))
    {
        return Err(not_an_address("it must begin with postgres://".into()));
    }
    let parsed = PgConnectOptions::from_str(url).map_err(|e| not_an_address(e.to_string()))?;
    let mut settings = vec![
        (
            "statement_timeout",
            options.statement_timeout.as_millis().to_string(),
        ),
        // A server that went away in the middle of a transaction must not hold its locks.
        ("idle_in_transaction_session_timeout", "60000".into()),
        ("tcp_keepalives_idle", "30".into()),
        ("client_min_messages", "warning".into()),
        // All statements are short and go by index. Planning them anew each time, or from statistics of a moment when
        // the queue was empty, is what makes them slow.
        ("plan_cache_mode", "force_generic_plan".into()),
        ("jit", "off".into()),
        ("enable_hashjoin", "off".into()),
        ("enable_mergejoin", "off".into()),
        ("enable_seqscan", "off".into()),
        ("enable_bitmapscan", "off".into()),
    ];
    if let Some(schema) = &options.schema {
        settings.push(("search_path", quoted(schema)));
    }
    Ok(parsed
        .application_name(&options.application_name)
        .statement_cache_capacity(500)
        .options(settings))
}

impl PostgresStore {
    /// Connects to the database at `url` (`postgres://user:password@host:port/database`). Applies no migrations.
    ///
    /// Errors: [`StoreError::Unavailable`] with what to do when the server cannot be reached, the database is missing or
    /// the password is wrong; [`StoreError::Schema`] when the server is older than version 13.
    pub async fn connect(url: &str, options: Options) -> Result<Self, StoreError> {
        let connect = connect_options(url, &options)?;
        let place = format!("PostgreSQL at {}:{}", connect.get_host(), connect.get_port());
        let pool = PgPoolOptions::new()
            .max_connections(options.pool_size.max(2))
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .test_before_acquire(false)
            .before_acquire(|connection, meta| {
                Box::pin(async move { Ok(meta.idle_for < TRUSTED_REST || connection.ping().await.is_ok()) })
            })
            .connect_lazy_with(connect.clone());
        // Not through the pool, which would go on trying and hide why it fails.
        let first = tokio::time::timeout(
            ACQUIRE_TIMEOUT,
            sqlx::postgres::PgConnection::connect_with(&connect),
        );
        let mut first = first
            .await
            .map_err(|_| StoreError::Unavailable {
                message: format!("{place}: no answer within {} s", ACQUIRE_TIMEOUT.as_secs()),
            })?
            .map_err(|e| connect_error(&e, &place))?;
        let setup = async {
            let version: i64 = sqlx::query_scalar("SELECT current_setting('server_version_num')::bigint")
                .fetch_one(&mut first)
                .await?;
            if let Some(schema) = &options.schema {
                // One simple query is one transaction. Two servers that make it at once would both fail at times.
                let sql = format!(
                    "SELECT pg_advisory_xact_lock(hashtext('ostler migrations')); CREATE SCHEMA IF NOT EXISTS {}",
                    quoted(schema)
                );
                sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut first).await?;
            }
            let schema: Option<String> = sqlx::query_scalar("SELECT current_schema()::text")
                .fetch_one(&mut first)
                .await?;
            Ok((version, schema))
        };
        let (version, schema) = setup.await.map_err(|e: sqlx::Error| store_error(&e))?;
        if version < OLDEST_VERSION {
            return Err(StoreError::Schema {
                message: format!(
                    "{place} is version {}; at least {} is needed",
                    version / 10_000,
                    OLDEST_VERSION / 10_000
                ),
            });
        }
        let Some(schema) = schema else {
            return Err(StoreError::Schema {
                message: format!("{place}: the search_path names no schema that exists"),
            });
        };
        let _ = first.close().await;
        let inner = Arc::new(Inner {
            pool,
            classes: Classes::default(),
            hints: Hints::new(&schema),
            upkeep: Upkeep::default(),
            request_role: RequestRole::default(),
        });
        inner.request_role.look(&inner.pool).await?;
        Ok(Self::start(inner))
    }

    fn start(inner: Arc<Inner>) -> Self {
        let stop = CancellationToken::new();
        let tasks = TaskTracker::new();
        let run = |task: std::pin::Pin<Box<dyn Future<Output = ()> + Send>>| {
            let stop = stop.clone();
            tasks.spawn(async move { stop.run_until_cancelled(task).await });
        };
        run(Box::pin(inner.hints.clone().send(inner.pool.clone())));
        run(Box::pin(inner.hints.clone().listen(inner.pool.clone())));
        run(Box::pin(Upkeep::run(Arc::clone(&inner))));
        Self {
            intake: Intake::start(&inner),
            inner,
            tasks,
            _stop_when_dropped: stop.clone().drop_guard(),
            stop,
        }
    }

    /// See [`ostler_store::Store::close`].
    pub(crate) async fn shut_down(&self) {
        self.intake.finish().await;
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        self.inner.pool.close().await;
    }
}
