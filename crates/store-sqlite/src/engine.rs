//! What SQLite says, in the words of the store.

use ostler_store::StoreError;
use rusqlite::{ErrorCode, ffi};

/// A violated constraint is told by a message such as `UNIQUE constraint failed: projects.tenant_id, projects.name`.
fn unique(message: &str) -> StoreError {
    let columns = message.rsplit("failed: ").next().unwrap_or_default();
    let mut table = String::new();
    let names: Vec<&str> = columns
        .split(", ")
        .map(|column| {
            column.split_once('.').map_or(column, |(t, name)| {
                t.clone_into(&mut table);
                name
            })
        })
        .collect();
    StoreError::Duplicate {
        table,
        columns: names.join(", "),
    }
}

/// The error of the store for an error of SQLite.
#[expect(
    clippy::needless_pass_by_value,
    reason = "it is a conversion, used in `map_err`"
)]
pub(crate) fn translate(error: rusqlite::Error) -> StoreError {
    let rusqlite::Error::SqliteFailure(code, text) = &error else {
        return StoreError::Engine {
            message: error.to_string(),
        };
    };
    let message = text.clone().unwrap_or_else(|| code.to_string());
    match code.code {
        ErrorCode::ConstraintViolation => match code.extended_code {
            ffi::SQLITE_CONSTRAINT_UNIQUE
            | ffi::SQLITE_CONSTRAINT_PRIMARYKEY
            | ffi::SQLITE_CONSTRAINT_ROWID => unique(&message),
            // SQLite does not say which reference it was.
            ffi::SQLITE_CONSTRAINT_FOREIGNKEY => StoreError::Reference {
                table: "a row".to_owned(),
            },
            _ => StoreError::Engine { message },
        },
        ErrorCode::DiskFull => StoreError::Full { message },
        ErrorCode::NotADatabase => StoreError::Schema {
            message: "this file is not an SQLite database; name another file, or restore it from a backup"
                .to_owned(),
        },
        ErrorCode::DatabaseCorrupt => StoreError::Schema {
            message: format!("the file is damaged ({message}); restore it from a backup"),
        },
        ErrorCode::ReadOnly | ErrorCode::PermissionDenied => StoreError::Unavailable {
            message: format!("it cannot be written ({message}); check who owns the file and its directory"),
        },
        ErrorCode::CannotOpen => StoreError::Unavailable {
            message: format!(
                "it cannot be opened ({message}); check that its directory exists and is writable"
            ),
        },
        ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked => StoreError::Unavailable {
            message: format!("another process holds it ({message})"),
        },
        ErrorCode::SystemIoFailure | ErrorCode::OutOfMemory | ErrorCode::OperationInterrupted => {
            StoreError::Unavailable { message }
        }
        _ if message.starts_with("no such table") || message.starts_with("no such column") => {
            StoreError::Schema {
                message: format!("{message}; run `ostler migrate up`"),
            }
        }
        _ => StoreError::Engine { message },
    }
}

/// The error of a call that comes after the close.
pub(crate) fn closed() -> StoreError {
    StoreError::Unavailable {
        message: "the store is closed".to_owned(),
    }
}
