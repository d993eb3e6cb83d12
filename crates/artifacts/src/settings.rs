//! Settings.

use crate::{Keep, Limits};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Most files that a run may leave, whatever is set: their records are committed at once.
const MAX_FILES: u32 = 100_000;

/// The section `[artifacts]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ArtifactSettings {
    /// `file:///DIRECTORY` or `s3://BUCKET/PREFIX`; a directory in the data directory when absent. Several servers need
    /// one that they share. Who may use a bucket is told by the environment (`AWS_ACCESS_KEY_ID`, ...), a web identity or
    /// the instance, not here. Give the bucket a rule that removes unfinished uploads after a day: a server that is killed
    /// cannot.
    pub url: Option<String>,
    /// Address of a store that is not that of Amazon.
    pub endpoint: Option<String>,
    /// Region of the bucket.
    pub region: Option<String>,
    /// Most bytes that one run may leave, when its test says nothing.
    pub max_run_bytes: u64,
    /// Most files that one run may leave, when its test says nothing.
    pub max_files: u32,
    /// Days after which artifacts go; 0 for never.
    pub keep_days: u32,
    /// GiB of all artifacts above which the oldest go; 0 for no bound.
    pub max_total_gb: u64,
}

impl Default for ArtifactSettings {
    fn default() -> Self {
        Self {
            url: None,
            endpoint: None,
            region: None,
            max_run_bytes: 1 << 30,
            max_files: 10_000,
            keep_days: 30,
            max_total_gb: 50,
        }
    }
}

impl ArtifactSettings {
    /// What stays.
    pub fn keep(&self) -> Keep {
        Keep {
            age: (self.keep_days > 0).then(|| Duration::from_secs(u64::from(self.keep_days) * 86_400)),
            bytes: (self.max_total_gb > 0).then(|| self.max_total_gb.saturating_mul(1 << 30)),
        }
    }

    /// The bounds of one run; those that its test names come first. Never more than 100,000 files.
    pub fn limits(&self, files: Option<u32>, bytes: Option<u64>) -> Limits {
        Limits {
            files: files.unwrap_or(self.max_files).min(MAX_FILES),
            bytes: bytes.unwrap_or(self.max_run_bytes),
        }
    }
}
