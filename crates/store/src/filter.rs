//! Which rows are wanted.

use crate::{Column, Record, Value};
use std::marker::PhantomData;

/// How a column is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// Equal; with [`Value::Null`], is null.
    Eq,
    /// Not equal; with [`Value::Null`], is not null.
    Ne,
    /// Less.
    Lt,
    /// Less or equal.
    Le,
    /// Greater.
    Gt,
}

/// Which rows of a table are wanted, in which order.
#[derive(Debug, Clone, PartialEq)]
pub struct Filter<R> {
    /// All must hold.
    pub conditions: Vec<(&'static str, Op, Value)>,
    /// For `column <> 'text'`, written out; all must hold.
    pub unlike: Vec<(&'static str, &'static str)>,
    /// For `column IN (...)`; all must hold.
    pub members: Vec<(&'static str, Vec<Value>)>,
    /// Columns to order by, `true` for descending. Ties are broken by the key, so that the order is always total.
    pub order: Vec<(&'static str, bool)>,
    /// At most this many rows.
    pub limit: Option<u32>,
    record: PhantomData<fn() -> R>,
}

impl<R: Record> Default for Filter<R> {
    fn default() -> Self {
        Self {
            conditions: Vec::new(),
            unlike: Vec::new(),
            members: Vec::new(),
            order: Vec::new(),
            limit: None,
            record: PhantomData,
        }
    }
}

impl<R: Record> Filter<R> {
    /// All rows.
    pub fn all() -> Self {
        Self::default()
    }

    /// Rows where `column` equals `value`.
    pub fn by(column: &'static str, value: impl Column) -> Self {
        Self::all().and(column, Op::Eq, value)
    }

    /// And where `column` compares to `value`.
    #[must_use]
    #[expect(
        clippy::needless_pass_by_value,
        reason = "values are built at the call and reading is what matters there"
    )]
    pub fn and(mut self, column: &'static str, op: Op, value: impl Column) -> Self {
        debug_assert!(
            R::TABLE.position(column).is_some(),
            "{} has no column {column}",
            R::TABLE.name
        );
        self.conditions.push((column, op, value.to_value()));
        self
    }

    /// And where `column` is not `text`, a plain word. It is part of the statement and no parameter, so that an index can be
    /// used that leaves out the rows that have it.
    #[must_use]
    pub fn unlike(mut self, column: &'static str, text: &'static str) -> Self {
        debug_assert!(
            text.bytes().all(|b| b.is_ascii_lowercase()),
            "{text} is no plain word"
        );
        self.unlike.push((column, text));
        self
    }

    /// And where `column` is one of `values`.
    #[must_use]
    pub fn within<T: Column>(mut self, column: &'static str, values: impl IntoIterator<Item = T>) -> Self {
        self.members
            .push((column, values.into_iter().map(|v| v.to_value()).collect()));
        self
    }

    /// Ascending by `column`, after the orders given before.
    #[must_use]
    pub fn order_by(mut self, column: &'static str) -> Self {
        self.order.push((column, false));
        self
    }

    /// Descending by `column`, after the orders given before.
    #[must_use]
    pub fn order_by_desc(mut self, column: &'static str) -> Self {
        self.order.push((column, true));
        self
    }

    /// At most `limit` rows.
    #[must_use]
    pub fn limit(mut self, limit: u32) -> Self {
        self.limit = Some(limit);
        self
    }

    /// The `SELECT` statement with `$1`-style parameters, which both engines take, and the parameters.
    pub fn to_sql(&self) -> (String, Vec<Value>) {
        let table = R::TABLE;
        let columns: Vec<&str> = table.columns.iter().map(|(name, _)| *name).collect();
        let mut sql = format!("SELECT {} FROM {}", columns.join(", "), table.name);
        let mut parameters = Vec::new();
        let mut parameter = |value: &Value| {
            parameters.push(value.clone());
            format!("${}", parameters.len())
        };
        let mut wheres = Vec::new();
        for (column, op, value) in &self.conditions {
            wheres.push(match (op, value) {
                (Op::Eq, Value::Null) => format!("{column} IS NULL"),
                (Op::Ne, Value::Null) => format!("{column} IS NOT NULL"),
                (op, value) => {
                    let sign = match op {
                        Op::Eq => "=",
                        Op::Ne => "<>",
                        Op::Lt => "<",
                        Op::Le => "<=",
                        Op::Gt => ">",
                    };
                    format!("{column} {sign} {}", parameter(value))
                }
            });
        }
        for (column, text) in &self.unlike {
            wheres.push(format!("{column} <> '{text}'"));
        }
        for (column, values) in &self.members {
            let list: Vec<String> = values.iter().map(&mut parameter).collect();
            wheres.push(if list.is_empty() {
                "1 = 0".to_owned()
            } else {
                format!("{column} IN ({})", list.join(", "))
            });
        }
        if !wheres.is_empty() {
            sql.push_str(" WHERE ");
            sql.push_str(&wheres.join(" AND "));
        }
        let ties = table.key.iter().map(|column| (*column, false));
        let order: Vec<String> = self
            .order
            .iter()
            .copied()
            .chain(ties)
            .map(|(column, descending)| format!("{column}{}", if descending { " DESC" } else { "" }))
            .collect();
        sql.push_str(" ORDER BY ");
        sql.push_str(&order.join(", "));
        if let Some(limit) = self.limit {
            sql = format!("{sql} LIMIT {limit}");
        }
        (sql, parameters)
    }
}
