//! Images of sandboxes.

use crate::Time;
use ostler_domain::{ImageAgent, ImageCapability};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use utoipa::ToSchema;

/// Builds an image; one that is there already is found again.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BuildImage {
    /// Agent program, `claude` or `droid`; none when absent. It brings Node.js.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub agent: Option<ImageAgent>,
    /// Version of the agent program at the npm registry; the server's setting when absent.
    #[serde(default)]
    pub agent_version: Option<String>,
    /// Sets of programs: `git`, `curl`, `node`, `python`, `rust`, `docker`. Their order does not matter.
    #[serde(default)]
    #[schema(value_type = Vec<String>)]
    pub capabilities: BTreeSet<ImageCapability>,
    /// Suite of Debian to start from; the server's setting when absent.
    #[serde(default)]
    pub suite: Option<String>,
    /// Image of the engine to start from, instead of a Debian of the server's making.
    #[serde(default)]
    pub base_image: Option<String>,
}

/// An image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ImageView {
    /// Hash of what it is made of, 64 hexadecimal digits.
    pub hash: String,
    /// Its name at the engine, to be used as the image of a pool.
    pub tag: String,
    /// Agent program.
    #[schema(value_type = Option<String>)]
    pub agent: Option<ImageAgent>,
    /// Version of the agent program.
    pub agent_version: Option<String>,
    /// Sets of programs.
    #[schema(value_type = Vec<String>)]
    pub capabilities: BTreeSet<ImageCapability>,
    /// What it is made from.
    pub base: String,
    /// `building`, `ready` or `failed`.
    pub status: String,
    /// Why it could not be built.
    pub error: Option<String>,
    /// Size with all layers, bytes; once it is ready.
    pub size_bytes: Option<u64>,
    /// When it was ready.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub created_at: Option<Time>,
    /// The pools whose sandboxes are started from it.
    pub pools: Vec<String>,
}

/// A part of the log of a build.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ImageLog {
    /// What was printed.
    pub text: String,
    /// Where the next part begins: ask for what comes after it.
    pub next: u64,
    /// Whether there is and will be no more.
    pub ended: bool,
}

/// Writes the file system of an image as a root drive of virtual machines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ExportRootDrive {
    /// Size of the drive, MiB.
    pub size_mb: u64,
}

/// A root drive. Asking for the same again tells how it is doing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RootDriveView {
    /// Hash of the image.
    pub hash: String,
    /// File on the server's host, to be used as the root drive of a pool; there once it is ready.
    pub path: String,
    /// Size, MiB.
    pub size_mb: u64,
    /// `exporting`, `ready` or `failed`.
    pub status: String,
    /// Why it failed; asking again tries again.
    pub error: Option<String>,
}
