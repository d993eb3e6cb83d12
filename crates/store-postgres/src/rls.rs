//! Row-level security: the role that requests are carried out by, and the connection of a call.
//!
//! The owner of the tables is exempt from their policies. So a call in the scope of a tenant runs in a transaction that has
//! taken on a role which owns nothing, and names the tenant; both end with the transaction, so that no connection goes back
//! to the pool with either. What the role may do at all is granted below, at every start: what a migration adds is out
//! of its reach until it is listed here.
//!
//! Roles belong to the whole cluster, so each installation has its own, named after its database and schema: a common one
//! would let the owner of one database into another. Making it needs the right to make roles. Where that is missing, the
//! store works without this second line of defence and says so ([`ostler_store::Store::shortcomings`]).

use crate::connect::{Inner, quoted};
use crate::error::store_error;
use ostler_store::{Scope, Shortcoming, StoreError};
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgArguments, PgConnection, PgRow};
use sqlx::query::Query;
use sqlx::{AssertSqlSafe, PgPool, Postgres, Transaction};
use std::ops::{Deref, DerefMut};
use std::sync::{PoisonError, RwLock};

/// The migration with the policies that the role is made for.
pub(crate) const SINCE: i64 = 5;

const NAME: &str = "SELECT 'ostler_request_' || left(md5(current_database() || ' ' || current_schema()), 16)";

/// What requests do with which tables; what they may see of each is said by its policies.
const GRANTS: &[(&str, &str)] = &[
    (
        "SELECT, INSERT, UPDATE, DELETE",
        "api_tokens, projects, tasks, subtasks, merge_requests, issues, sandboxes, agent_sessions, kept_replies, \
         departments, users, roles, role_assignments, credentials, plans, test_results, \
         quarantined_tests, artifacts",
    ),
    ("SELECT, INSERT", "events, audit_log, runs, run_ends, run_counts"),
    ("SELECT, INSERT, DELETE", "run_ready, run_delayed"),
    ("SELECT, UPDATE (cancel_requested)", "run_active"),
    ("SELECT", "tenants, pools, sandbox_usage"),
];

/// Whether every table is under its policies for whoever asks.
const IN_FORCE: &str = "SELECT COALESCE(bool_and(row_security_active(c.oid)), false) FROM pg_class c \
    WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind = 'r' AND c.relname <> 'schema_migrations'";

/// Whether requests are kept to their tenant by the database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Protection {
    /// By this role.
    InForce(String),
    /// They are not, and why.
    Missing(Shortcoming),
    /// The migrations that it needs are not applied.
    TooOld,
}

/// What is known of it at present.
#[derive(Debug)]
pub(crate) struct RequestRole(RwLock<Protection>);

impl Default for RequestRole {
    fn default() -> Self {
        Self(RwLock::new(Protection::TooOld))
    }
}

impl RequestRole {
    pub(crate) fn get(&self) -> Protection {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, found: Protection) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = found;
    }

    /// What is missing, for the operator.
    pub(crate) fn shortcoming(&self) -> Option<Shortcoming> {
        match self.get() {
            Protection::Missing(why) => Some(why),
            Protection::InForce(_) | Protection::TooOld => None,
        }
    }

    /// Finds out whether the role can be used, by trying.
    pub(crate) async fn look(&self, pool: &PgPool) -> Result<(), StoreError> {
        let found = looked(pool).await.map_err(|error| store_error(&error))?;
        self.set(found);
        Ok(())
    }
}

async fn looked(pool: &PgPool) -> Result<Protection, sqlx::Error> {
    let old = "SELECT to_regprocedure('is_visible_run(bigint)') IS NULL";
    if sqlx::query_scalar(old).fetch_one(pool).await? {
        return Ok(Protection::TooOld);
    }
    let role: String = sqlx::query_scalar(NAME).fetch_one(pool).await?;
    let tried = async {
        let mut transaction = begin(pool, opening(&role, "")).await?;
        let active: bool = sqlx::query_scalar(IN_FORCE).fetch_one(&mut *transaction).await?;
        transaction.rollback().await?;
        Ok::<_, sqlx::Error>(active)
    };
    let why = match tried.await {
        Ok(true) => return Ok(Protection::InForce(role)),
        Ok(false) => "the tables are not under their policies for it".to_owned(),
        Err(sqlx::Error::Database(error)) => error.message().to_owned(),
        Err(error) => return Err(error),
    };
    let user: String = sqlx::query_scalar("SELECT session_user::text")
        .fetch_one(pool)
        .await?;
    Ok(Protection::Missing(Shortcoming {
        found: format!(
            "row-level security is not in force: requests cannot be carried out by the role {role} ({why})"
        ),
        meaning: "tenants are kept apart by the program, but not by the database beneath it".into(),
        advice: format!(
            "let an administrator of PostgreSQL run `CREATE ROLE {role} NOLOGIN; GRANT {role} TO {};`, whichever of it is \
             not done, and start Ostler again",
            quoted(&user)
        ),
    }))
}

/// What makes a transaction one of the role.
fn opening(role: &str, tenant: &str) -> String {
    format!(
        "SET LOCAL ROLE {}; SET LOCAL ostler.tenant = '{tenant}'",
        quoted(role)
    )
}

/// A transaction that begins with these statements. They are no part of its `BEGIN`: if they fail, the connection must go
/// back to the pool without it.
async fn begin(pool: &PgPool, opening: String) -> Result<Transaction<'static, Postgres>, sqlx::Error> {
    let mut transaction = pool.begin().await?;
    sqlx::raw_sql(AssertSqlSafe(opening))
        .execute(&mut *transaction)
        .await?;
    Ok(transaction)
}

/// Makes the role if it can, and gives it its rights. Must be called under the lock of the migrations, in their schema.
pub(crate) async fn prepare(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    let role: String = sqlx::query_scalar(NAME).fetch_one(&mut *connection).await?;
    let name = quoted(&role);
    let (known, member): (bool, bool) = sqlx::query_as(
        // From version 16 on one can be a member without being able to take the role on.
        "SELECT r.oid IS NOT NULL, r.oid IS NOT NULL AND pg_has_role(current_user, r.oid, \
         CASE WHEN current_setting('server_version_num')::int >= 160000 THEN 'SET' ELSE 'MEMBER' END) \
         FROM (SELECT 1) AS one LEFT JOIN pg_roles r ON r.rolname = $1",
    )
    .bind(&role)
    .fetch_one(&mut *connection)
    .await?;
    let mut statements = Vec::new();
    if !known {
        statements.push(format!("CREATE ROLE {name} NOLOGIN"));
    }
    if !member {
        statements.push(format!("GRANT {name} TO CURRENT_USER"));
    }
    let schema: String = sqlx::query_scalar("SELECT current_schema()::text")
        .fetch_one(&mut *connection)
        .await?;
    statements.push(format!("GRANT USAGE ON SCHEMA {} TO {name}", quoted(&schema)));
    statements.push(format!("GRANT USAGE ON SEQUENCE run_seq, event_seq TO {name}"));
    let there: Vec<String> = sqlx::query_scalar(
        "SELECT relname::text FROM pg_class WHERE relnamespace = current_schema()::regnamespace AND relkind = 'r'",
    )
    .fetch_all(&mut *connection)
    .await?;
    for (rights, tables) in GRANTS {
        // Later migrations may not be applied yet.
        let tables: Vec<&str> = tables
            .split(", ")
            .filter(|table| there.iter().any(|known| known == table))
            .collect();
        statements.push(format!("GRANT {rights} ON {} TO {name}", tables.join(", ")));
    }
    sqlx::raw_sql(AssertSqlSafe(statements.join("; ")))
        .execute(connection)
        .await?;
    Ok(())
}

/// Removes the role with its rights, if it is there.
pub(crate) async fn remove(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    let role: String = sqlx::query_scalar(NAME).fetch_one(&mut *connection).await?;
    let known: bool = sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM pg_roles WHERE rolname = $1)")
        .bind(&role)
        .fetch_one(&mut *connection)
        .await?;
    if known {
        let name = quoted(&role);
        let sql = format!("DROP OWNED BY {name}; DROP ROLE {name}");
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(connection).await?;
    }
    Ok(())
}

/// What a call works with: a connection as it is, or a transaction of the request role.
pub(crate) enum Session {
    Plain(PoolConnection<Postgres>),
    Scoped(Transaction<'static, Postgres>),
}

impl Session {
    /// Must be called when all went well; what was done in a scope comes to nothing otherwise.
    pub(crate) async fn done(self) -> Result<(), sqlx::Error> {
        match self {
            Self::Plain(_) => Ok(()),
            Self::Scoped(transaction) => transaction.commit().await,
        }
    }
}

impl Deref for Session {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        match self {
            Self::Plain(connection) => connection,
            Self::Scoped(transaction) => transaction,
        }
    }
}

impl DerefMut for Session {
    fn deref_mut(&mut self) -> &mut PgConnection {
        match self {
            Self::Plain(connection) => connection,
            Self::Scoped(transaction) => transaction,
        }
    }
}

impl Inner {
    /// What a transaction in a scope begins with; `None` for the owner, and where there is no role for it.
    fn opening(&self, scope: Scope) -> Option<String> {
        let tenant = match scope {
            Scope::Owner => return None,
            Scope::Tenant(tenant) => tenant.to_string(),
            Scope::Nobody => String::new(),
        };
        match self.request_role.get() {
            Protection::InForce(role) => Some(opening(&role, &tenant)),
            Protection::Missing(_) | Protection::TooOld => None,
        }
    }

    /// For one statement in the present scope.
    pub(crate) async fn session(&self) -> Result<Session, sqlx::Error> {
        self.session_in(Scope::current()).await
    }

    /// For one statement in a scope.
    pub(crate) async fn session_in(&self, scope: Scope) -> Result<Session, sqlx::Error> {
        Ok(match self.opening(scope) {
            None => Session::Plain(self.pool.acquire().await?),
            Some(opening) => Session::Scoped(begin(&self.pool, opening).await?),
        })
    }

    /// The rows of one statement in the present scope.
    pub(crate) async fn rows(
        &self,
        query: Query<'_, Postgres, PgArguments>,
    ) -> Result<Vec<PgRow>, sqlx::Error> {
        let mut session = self.session().await?;
        let rows = query.fetch_all(&mut *session).await?;
        session.done().await?;
        Ok(rows)
    }

    /// Carries one statement out in the present scope; how many rows it changed.
    pub(crate) async fn execute(&self, query: Query<'_, Postgres, PgArguments>) -> Result<u64, sqlx::Error> {
        let mut session = self.session().await?;
        let done = query.execute(&mut *session).await?;
        session.done().await?;
        Ok(done.rows_affected())
    }

    /// For several statements in the present scope.
    pub(crate) async fn transaction(&self) -> Result<Transaction<'static, Postgres>, sqlx::Error> {
        match self.opening(Scope::current()) {
            None => self.pool.begin().await,
            Some(opening) => begin(&self.pool, opening).await,
        }
    }
}
