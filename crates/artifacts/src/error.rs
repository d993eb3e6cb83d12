//! What can go wrong with the store itself. What is wrong with single files is a [`crate::Problem`].

/// Result of this crate.
pub type Result<T, E = ArtifactError> = std::result::Result<T, E>;

/// What can go wrong with the store itself.
#[derive(Debug, thiserror::Error)]
pub enum ArtifactError {
    /// The settings cannot be meant like this.
    #[error("the setting `artifacts.url` is `{url}`, {why}; use file:///DIRECTORY or s3://BUCKET/PREFIX")]
    Url {
        /// What was set.
        url: String,
        /// What is wrong with it.
        why: String,
    },
    /// The directory cannot be used.
    #[error("the directory {directory} for artifacts cannot be used: {source}")]
    Directory {
        /// The directory.
        directory: String,
        /// Why not.
        source: std::io::Error,
    },
    /// A text that is no place of an artifact.
    #[error("`{0}` is no place of an artifact")]
    Place(String),
    /// The content is not there: removed, or in the store of another server.
    #[error("the content {0} is not in this server's store: it was removed, or another server keeps it")]
    Gone(String),
    /// The content is not what was stored.
    #[error("the content {key} is not what was stored: {what}")]
    Damaged {
        /// The pack.
        key: String,
        /// What differs.
        what: String,
    },
    /// The store failed.
    #[error("the store of artifacts cannot {what}: {}", chain(source))]
    Store {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        source: object_store::Error,
    },
}

impl ArtifactError {
    pub(crate) fn store(what: &'static str) -> impl Fn(object_store::Error) -> Self + Copy {
        move |source| Self::Store { what, source }
    }
}

/// An error with its causes, each told once: some errors of the library contain the text of their cause, others do not.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let more = inner.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = inner.source();
    }
    text
}
