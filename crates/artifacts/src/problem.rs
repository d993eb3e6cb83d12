//! What was not kept, and why.

use crate::name::MAX_PATH;
use std::fmt;

/// Why a file, or the rest of the stream, was not kept.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// Its name is not UTF-8.
    #[error("its name is not UTF-8")]
    NotText,
    /// Its path begins at the root.
    #[error("its path is absolute")]
    Absolute,
    /// Its path contains `..`.
    #[error("its path contains `..`")]
    Outside,
    /// Its path is empty, too long or contains a zero byte.
    #[error("its path is empty, longer than {MAX_PATH} bytes or contains a zero byte")]
    Name,
    /// A file of the same path came before.
    #[error("a file of the same path came before it")]
    Twice,
    /// It is a symbolic or hard link.
    #[error("it is a link; only plain files are kept")]
    Link,
    /// It is a device, a pipe or something else.
    #[error("it is no plain file")]
    Special,
    /// It was sent with its holes left out.
    #[error("it was sent as a sparse file, which is not read")]
    Sparse,
    /// With it, the run would leave too many bytes.
    #[error("its {size} bytes are more than is left of the {limit} bytes that a run may leave")]
    TooLarge {
        /// Its size.
        size: u64,
        /// What the run may leave.
        limit: u64,
    },
    /// The run leaves too many files; what follows was not looked at.
    #[error("only the first {limit} files were kept, which is as many as a run may leave")]
    TooMany {
        /// What the run may leave.
        limit: u32,
    },
    /// The stream broke off or is not what it should be; what follows it was not kept.
    #[error("the rest was not kept: {0}")]
    Broken(String),
    /// The store failed; what follows was not kept.
    #[error("{files} files were not kept: {why}")]
    Store {
        /// How many files were complete and are lost.
        files: usize,
        /// Why.
        why: String,
    },
}

/// Something that was not kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The file, made readable where its name is none; `None` when it is about more than one.
    pub path: Option<String>,
    /// Why.
    pub reason: Reason,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.path {
            Some(path) => write!(f, "the artifact {path:?} was not kept: {}", self.reason),
            None => write!(f, "artifacts: {}", self.reason),
        }
    }
}
