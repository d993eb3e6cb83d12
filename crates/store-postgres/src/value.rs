//! Values of the store as parameters and results of statements.

use crate::error::store_error;
use ostler_store::{ColumnType, StoreError, Table, Value};
use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::postgres::types::Oid;
use sqlx::postgres::{PgArgumentBuffer, PgArguments, PgRow, PgTypeInfo};
use sqlx::{Arguments, Encode, Postgres, Row, Type};

/// A null whose type the server infers from where it stands.
struct Untyped;

impl Type<Postgres> for Untyped {
    fn type_info() -> PgTypeInfo {
        // `unknown`, the type of an untyped literal.
        PgTypeInfo::with_oid(Oid(705))
    }
}

impl Encode<'_, Postgres> for Untyped {
    fn encode_by_ref(&self, _: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        Ok(IsNull::Yes)
    }
}

/// Adds a parameter.
pub(crate) fn bind(arguments: &mut PgArguments, value: Value) -> Result<(), StoreError> {
    match value {
        Value::Null => arguments.add(Untyped),
        Value::Int(number) => arguments.add(number),
        Value::Float(number) => arguments.add(number),
        Value::Text(text) => arguments.add(text),
    }
    .map_err(|e| StoreError::Engine {
        message: format!("a parameter cannot be encoded: {e}"),
    })
}

/// All of `values` as parameters `$1`, `$2` ...
pub(crate) fn bind_all(values: impl IntoIterator<Item = Value>) -> Result<PgArguments, StoreError> {
    let mut arguments = PgArguments::default();
    for value in values {
        bind(&mut arguments, value)?;
    }
    Ok(arguments)
}

/// The values of a row with the columns of `table`.
pub(crate) fn row_values(table: &'static Table, row: &PgRow) -> Result<Vec<Value>, StoreError> {
    table
        .columns
        .iter()
        .enumerate()
        .map(|(at, (_, kind))| {
            Ok(match kind {
                ColumnType::Int => row.try_get::<Option<i64>, _>(at)?.map(Value::Int),
                ColumnType::Float => row.try_get::<Option<f64>, _>(at)?.map(Value::Float),
                ColumnType::Text => row.try_get::<Option<String>, _>(at)?.map(Value::Text),
            }
            .unwrap_or(Value::Null))
        })
        .collect::<Result<_, sqlx::Error>>()
        .map_err(|e| store_error(&e))
}
