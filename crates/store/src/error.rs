//! What can go wrong in a store.

/// An error of a store. Each says whether trying again can help.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Somebody else changed the row since it was read. Read again and decide again.
    #[error("{table} {key} was changed by somebody else in the meantime")]
    Conflict {
        /// Table.
        table: &'static str,
        /// Key of the row.
        key: String,
    },
    /// A row with the same unique value is there already. Of several such values, any one is named.
    #[error("{table} already has a row with this {columns}")]
    Duplicate {
        /// Table.
        table: String,
        /// The unique columns in the order of the schema, joined with `, `.
        columns: String,
    },
    /// A row refers to one that does not exist, or one that is referred to was to be deleted.
    #[error("a reference of {table} would point to nothing")]
    Reference {
        /// Table, as far as the engine tells.
        table: String,
    },
    /// What is stored does not have the form that this program expects.
    #[error("{table}.{column} holds a value that this program does not understand: {message}")]
    Corrupt {
        /// Table.
        table: &'static str,
        /// Column.
        column: &'static str,
        /// What is wrong.
        message: String,
    },
    /// The database cannot be reached, or did not answer in time. Trying again may help.
    #[error("the database is not available: {message}")]
    Unavailable {
        /// What the engine or the network said.
        message: String,
    },
    /// There is no room left. Nothing of the request was kept.
    #[error("the database has no room left: {message}; free some space and try again")]
    Full {
        /// What the engine said.
        message: String,
    },
    /// The schema is not the one that this program needs.
    #[error("the database schema does not fit this program: {message}")]
    Schema {
        /// What is wrong and what to do.
        message: String,
    },
    /// Anything else that the engine reports: an error of this program.
    #[error("the database refused a statement: {message}")]
    Engine {
        /// What the engine said.
        message: String,
    },
}
