//! What the engine reports, in the store's terms, and when it is safe to try again.

use ostler_store::StoreError;
use sqlx::postgres::PgDatabaseError;
use std::time::Duration;

/// What an error says about the transaction that it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It was rolled back for a reason that may be gone at the next try.
    RolledBack,
    /// The connection broke: nobody knows whether it was committed.
    Unknown,
    /// Trying again gives the same answer.
    Final,
}

fn database(error: &sqlx::Error) -> Option<&PgDatabaseError> {
    match error {
        sqlx::Error::Database(inner) => inner.try_downcast_ref(),
        _ => None,
    }
}

/// What became of the transaction.
pub(crate) fn fate(error: &sqlx::Error) -> Fate {
    match error {
        sqlx::Error::Io(_) | sqlx::Error::Protocol(_) | sqlx::Error::WorkerCrashed => Fate::Unknown,
        _ => match database(error).map(PgDatabaseError::code) {
            Some("40001" | "40P01") => Fate::RolledBack,
            // The server is stopping or starting, or has lost the connection.
            Some(code) if code.starts_with("57P") || code.starts_with("08") => Fate::Unknown,
            _ => Fate::Final,
        },
    }
}

/// The columns in `Key (a, b)=(1, 2) already exists.`, which looks alike in every language of the server.
fn key_columns(detail: &str) -> &str {
    detail
        .split_once('(')
        .and_then(|(_, rest)| rest.split_once(")="))
        .map_or("", |(columns, _)| columns)
}

/// The error in the store's terms.
pub(crate) fn store_error(error: &sqlx::Error) -> StoreError {
    let Some(report) = database(error) else {
        return match error {
            sqlx::Error::PoolClosed => StoreError::Unavailable {
                message: "this store was closed".into(),
            },
            sqlx::Error::PoolTimedOut => StoreError::Unavailable {
                message: "no connection became free in time; the server is down or overloaded".into(),
            },
            sqlx::Error::Io(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::Protocol(_)
            | sqlx::Error::WorkerCrashed => StoreError::Unavailable {
                message: error.to_string(),
            },
            _ => StoreError::Engine {
                message: error.to_string(),
            },
        };
    };
    let message = format!("{} (SQLSTATE {})", report.message(), report.code());
    let table = report.table().unwrap_or_default().to_owned();
    match report.code() {
        "23505" => StoreError::Duplicate {
            table,
            columns: key_columns(report.detail().unwrap_or_default()).to_owned(),
        },
        "23503" => StoreError::Reference { table },
        "53100" => StoreError::Full { message },
        "42P01" | "42703" | "3F000" => StoreError::Schema {
            message: format!("{message}; apply the migrations with `ostler migrate up`"),
        },
        // Conflicts that outlasted the retries, exhausted resources, an operator's intervention, a lost connection,
        // a server that only reads.
        "25006" | "57014" => StoreError::Unavailable { message },
        code if ["40", "53", "57P", "08"]
            .iter()
            .any(|class| code.starts_with(class)) =>
        {
            StoreError::Unavailable { message }
        }
        _ => StoreError::Engine { message },
    }
}

/// What went wrong at the first connection, and what to do about it.
pub(crate) fn connect_error(error: &sqlx::Error, place: &str) -> StoreError {
    let code = database(error).map(PgDatabaseError::code);
    let message = match code {
        Some("3D000") => format!("{place}: this database does not exist; create it with `createdb`"),
        Some("28P01" | "28000") => format!(
            "{place}: the server refuses this user or password; check the user, the password and pg_hba.conf"
        ),
        Some("53300") => format!("{place}: the server has no connection left; raise max_connections"),
        Some(_) => return store_error(error),
        None => format!("{place}: {error}; check that PostgreSQL runs there and listens on that address"),
    };
    StoreError::Unavailable { message }
}

/// Counts tries and waits between them.
#[derive(Debug, Default)]
pub(crate) struct Tries(u32);

impl Tries {
    /// Whether to try again after `error`, having waited. `replayable` says that doing it twice does no harm.
    pub(crate) async fn again(&mut self, error: &sqlx::Error, replayable: bool) -> bool {
        let worth = match fate(error) {
            Fate::RolledBack => true,
            Fate::Unknown => replayable,
            Fate::Final => false,
        };
        if !worth || self.0 >= 6 {
            return false;
        }
        // Two that hindered each other must not meet again: half of the wait is left to chance.
        let longest = 10u64 << self.0;
        let wait = longest / 2 + rand::random_range(0..=longest / 2);
        self.0 += 1;
        tokio::time::sleep(Duration::from_millis(wait)).await;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_found_in_any_language() {
        assert_eq!(
            key_columns("Key (tenant_id, name)=(a, b) already exists."),
            "tenant_id, name"
        );
        assert_eq!(key_columns("Schlüssel »(id)=(1)« existiert bereits."), "id");
        assert_eq!(key_columns("nothing"), "");
    }
}
