//! State changes, as they are followed.

use crate::Time;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Something happened to an object.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct EventView {
    /// Position, increasing; resume after it with `Last-Event-ID`.
    pub seq: i64,
    /// What happened, such as `subtask.updated`.
    pub kind: String,
    /// The object's id.
    pub subject: String,
    /// What a watcher needs to show it.
    pub data: serde_json::Value,
    /// When.
    #[schema(value_type = String, format = DateTime)]
    pub at: Time,
}
