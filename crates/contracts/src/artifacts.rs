//! Files that tests left.

use crate::Time;
use ostler_domain as d;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A file that a test left. Its content is below the run: `/runs/{id}/artifacts/{path}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ArtifactView {
    /// The run that left it.
    pub run_id: String,
    /// Where it was, relative to the workspace.
    pub path: String,
    /// Size.
    pub bytes: u64,
    /// SHA-256 of its content, 64 hexadecimal digits.
    pub sha256: String,
    /// When it was kept.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Time,
    /// From when on it may be removed by its age; `null` for never. It may go earlier where all artifacts together are too
    /// large.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires_at: Option<Time>,
}

impl From<d::Artifact> for ArtifactView {
    fn from(artifact: d::Artifact) -> Self {
        Self {
            run_id: artifact.run_id.to_string(),
            path: artifact.path,
            bytes: u64::try_from(artifact.bytes).unwrap_or(0),
            sha256: artifact.sha256,
            created_at: artifact.created_at.into(),
            expires_at: artifact.expires_at.map(Time::from),
        }
    }
}
