//! The one small layer between Rust fields and SQL columns, shared by both backends.
//!
//! Columns have three types only, which SQLite and PostgreSQL both have: 64-bit integers, doubles and text.

use crate::StoreError;
use ostler_domain as d;
use serde::{Serialize, de::DeserializeOwned};

/// A value of a column.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Nothing.
    Null,
    /// `BIGINT`.
    Int(i64),
    /// `DOUBLE PRECISION`.
    Float(f64),
    /// `TEXT`.
    Text(String),
}

/// The type of a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ColumnType {
    /// `BIGINT`.
    Int,
    /// `DOUBLE PRECISION`.
    Float,
    /// `TEXT`.
    Text,
}

/// A Rust type that can stand in a column.
pub trait Column: Sized {
    /// The type of the column.
    const TYPE: ColumnType;
    /// The value to store.
    fn to_value(&self) -> Value;
    /// The value that was stored; the error says what was expected.
    fn from_value(value: Value) -> Result<Self, String>;
}

impl Column for String {
    const TYPE: ColumnType = ColumnType::Text;
    /// A zero byte, which PostgreSQL refuses in a text, becomes U+FFFD: what a program printed must not keep the end of
    /// its run from being written down.
    fn to_value(&self) -> Value {
        Value::Text(self.replace('\0', "\u{fffd}"))
    }
    fn from_value(value: Value) -> Result<Self, String> {
        match value {
            Value::Text(text) => Ok(text),
            other => Err(format!("expected text, found {other:?}")),
        }
    }
}

impl Column for f64 {
    const TYPE: ColumnType = ColumnType::Float;
    fn to_value(&self) -> Value {
        Value::Float(*self)
    }
    fn from_value(value: Value) -> Result<Self, String> {
        match value {
            Value::Float(number) => Ok(number),
            other => Err(format!("expected a number, found {other:?}")),
        }
    }
}

impl Column for bool {
    const TYPE: ColumnType = ColumnType::Int;
    fn to_value(&self) -> Value {
        Value::Int(i64::from(*self))
    }
    fn from_value(value: Value) -> Result<Self, String> {
        match value {
            Value::Int(0) => Ok(false),
            Value::Int(1) => Ok(true),
            other => Err(format!("expected 0 or 1, found {other:?}")),
        }
    }
}

impl Column for d::Timestamp {
    const TYPE: ColumnType = ColumnType::Int;
    fn to_value(&self) -> Value {
        Value::Int(self.0)
    }
    fn from_value(value: Value) -> Result<Self, String> {
        i64::from_value(value).map(Self)
    }
}

impl<T: Column> Column for Option<T> {
    const TYPE: ColumnType = T::TYPE;
    fn to_value(&self) -> Value {
        self.as_ref().map_or(Value::Null, T::to_value)
    }
    fn from_value(value: Value) -> Result<Self, String> {
        if value == Value::Null {
            Ok(None)
        } else {
            T::from_value(value).map(Some)
        }
    }
}

macro_rules! integer_columns {
    ($($type:ty),*) => {$(
        impl Column for $type {
            const TYPE: ColumnType = ColumnType::Int;
            fn to_value(&self) -> Value {
                Value::Int(i64::from(*self))
            }
            fn from_value(value: Value) -> Result<Self, String> {
                match value {
                    Value::Int(number) => Self::try_from(number).map_err(|e| format!("{number}: {e}")),
                    other => Err(format!("expected an integer, found {other:?}")),
                }
            }
        }
    )*};
}
integer_columns!(i64, i32, u32, u8);

macro_rules! text_columns {
    ($($type:ty),* $(,)?) => {$(
        impl Column for $type {
            const TYPE: ColumnType = ColumnType::Text;
            fn to_value(&self) -> Value {
                Value::Text(self.to_string())
            }
            fn from_value(value: Value) -> Result<Self, String> {
                String::from_value(value)?.parse().map_err(|e: <$type as std::str::FromStr>::Err| e.to_string())
            }
        }
    )*};
}
text_columns!(
    d::TenantId,
    d::DepartmentId,
    d::UserId,
    d::RoleId,
    d::CredentialId,
    d::AuditId,
    d::CredentialKind,
    d::TokenId,
    d::ProjectId,
    d::TaskId,
    d::SubtaskId,
    d::MergeRequestId,
    d::PlanId,
    d::ArtifactId,
    d::RunId,
    d::SandboxId,
    d::ServerId,
    d::SessionId,
    d::DriverKind,
    d::SandboxStatus,
    d::PausedBy,
    d::RunKind,
    d::RunStatus,
    d::TaskStatus,
    d::SubtaskStatus,
    d::BlockedReason,
    d::MergeRequestStatus,
    d::IssueType,
    d::IssueStatus,
);

/// The JSON text of a nested value.
pub fn json_to_value<T: Serialize>(value: &T) -> Value {
    // The nested values are plain structs, lists and string-keyed maps: they always serialise.
    Value::Text(serde_json::to_string(value).unwrap_or_default())
}

/// A nested value from its JSON text.
pub fn json_from_value<T: DeserializeOwned>(value: Value) -> Result<T, String> {
    serde_json::from_str(&String::from_value(value)?).map_err(|e| e.to_string())
}

/// Names the column in the message of [`Column::from_value`].
pub fn corrupt(table: &'static str, column: &'static str, message: String) -> StoreError {
    StoreError::Corrupt {
        table,
        column,
        message,
    }
}
