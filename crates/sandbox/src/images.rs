//! Images: what they are made of, and the trait of what makes them.
//!
//! An image is named by the hash of its recipe, so that the same wish always finds the same image and a changed recipe
//! never does. The builder's own engine is the only list of images: labels hold the recipe, no table does.

mod log;
mod recipe;

pub use log::BuildLog;
pub use recipe::{AgentPackage, AgentVersions, ImageBase, ImageRecipe, Phase, SHORT};

use async_trait::async_trait;
use ostler_domain::Timestamp;
use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

/// An image that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Hash of its recipe, 64 hexadecimal digits.
    pub hash: String,
    /// Its name at the engine, for [`ostler_domain::SandboxTemplate::image`].
    pub tag: String,
    /// What it was made from.
    pub recipe: ImageRecipe,
    /// Size with all its layers, bytes.
    pub size_bytes: u64,
    /// When it was made.
    pub created_at: Timestamp,
}

/// Why an image could not be made, found or removed.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The engine has no such image.
    #[error("there is no image {0}; `ostler image list` shows those that there are")]
    NotFound(String),
    /// A container is made of it.
    #[error("the image {0} is in use: end the sandboxes that were started from it first")]
    InUse(String),
    /// The recipe cannot be meant like this.
    #[error("the image cannot be described like this: {0}")]
    Invalid(String),
    /// What is needed on this host is missing.
    #[error("{0}")]
    Missing(String),
    /// A program of a phase failed.
    #[error("the phase `{phase}` ended with code {code}; its last lines:\n{tail}")]
    Phase {
        /// The phase.
        phase: String,
        /// Exit code.
        code: i64,
        /// The last lines of the log.
        tail: String,
    },
    /// A phase took too long.
    #[error("the phase `{phase}` did not end within {limit:?}; its last lines:\n{tail}")]
    TimedOut {
        /// The phase.
        phase: String,
        /// How long was waited.
        limit: Duration,
        /// The last lines of the log.
        tail: String,
    },
    /// The engine refused, failed or cannot be reached.
    #[error("the engine could not {action}: {message}")]
    Engine {
        /// What was tried, as a verb with its object.
        action: String,
        /// What it said.
        message: String,
    },
    /// A file of this host.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// Why it failed.
        source: std::io::Error,
    },
}

impl ImageError {
    /// The error of something that was tried with a file.
    pub fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        |source| Self::Io { what, source }
    }
}

/// Makes images. All of it may be called at once by many; what two want at the same time is made once.
#[async_trait]
pub trait ImageBuilder: Send + Sync + 'static {
    /// Makes the image of a recipe unless it is there already. What the steps print goes to the log. When the future is
    /// dropped the build ends and leaves nothing but the phases that were complete.
    async fn build(&self, recipe: &ImageRecipe, log: &BuildLog) -> Result<Image, ImageError>;

    /// The image with this hash.
    async fn find(&self, hash: &str) -> Result<Option<Image>, ImageError>;

    /// All images, newest first.
    async fn list(&self) -> Result<Vec<Image>, ImageError>;

    /// Removes an image; its phases stay for others until they are collected. None there is fine.
    async fn remove(&self, hash: &str) -> Result<(), ImageError>;

    /// Removes images whose tag is not in `used`, and phases that no image is made of any more, if they are older than
    /// `age`. Returns the names of what was removed.
    async fn collect(&self, used: &BTreeSet<String>, age: Duration) -> Result<Vec<String>, ImageError>;

    /// Writes the file system of an image as an ext4 drive of `size_mb` MiB to `path`, which appears only when it is
    /// whole. A file that is there is left as it is.
    async fn export_root_drive(&self, hash: &str, path: &Path, size_mb: u64) -> Result<(), ImageError>;
}
