//! Files that tests leave: taken from the tar stream of a sandbox, kept in an object store, read again by range, and
//! removed by age and size.
//!
//! What a run leaves is written as **packs**: objects that hold the contents of many files, one behind the other, without
//! any framing. Where each file begins is in its record ([`Place`]). So a run that leaves a report is one request of the
//! object store, and one that leaves 100,000 files is a few, not 100,000; a pack appears whole or not at all; and reading
//! a file is reading a range. A pack belongs to one run, so that nothing is shared and removal needs no counting.
//!
//! The name of a pack begins with the moment of its making. Retention is therefore one moment before which everything
//! goes ([`cutoff`]), for the records as for the packs, and packs whose records were never written, because a server was
//! killed between the two, go the same way.
//!
//! The stream comes out of a sandbox and is not trusted: paths that lead elsewhere, links, devices, names that are no
//! text and too much of anything are refused file by file, and reported; memory is bounded whatever the stream says.

mod content_type;
mod error;
mod name;
mod pack;
mod problem;
mod put;
mod retention;
mod settings;
mod store;
mod tar;

pub use content_type::content_type;
pub use error::{ArtifactError, Result};
pub use problem::{Problem, Reason};
pub use put::{Kept, Limits, Stored};
pub use retention::{Keep, cutoff};
pub use settings::ArtifactSettings;
pub use store::{ArtifactStore, Content, Object, Place, Removed};
