//! The plan after expansion: what is stored and scheduled.

use crate::{Format, PlanErrors};
use ostler_domain::Requirements;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

/// A plan: tests, each after all that it needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Its name; part of the identity of its tests.
    pub name: String,
    /// The project whose workspace the tests get, if any.
    pub project: Option<String>,
    /// The branch of that project; the project's own target if none is named.
    pub branch: Option<String>,
    /// Whether the first failure cancels what did not begin.
    pub fail_fast: bool,
    /// How many of its tests may run at a time; `None` leaves it to the queue.
    pub max_parallel: Option<u32>,
    /// Words about the plan, for lists and filters.
    pub labels: BTreeMap<String, String>,
    /// The tests, in the order of the text as far as `needs` allows: what a test needs always stands before it.
    pub tests: Vec<PlannedTest>,
}

/// One test.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedTest {
    /// Unique in the plan: `boot [kernel=6.1, arch=x86_64]`, `unit [shard=2/4]`.
    pub name: String,
    /// Its identity across plans of the same name, for history: [`test_key`].
    pub key: String,
    /// The name in the text, the same for all that it expanded into.
    pub group: String,
    /// Values of the matrix.
    pub matrix: BTreeMap<String, String>,
    /// Which part of a sharded test this is.
    pub shard: Option<Shard>,
    /// What to execute; `None` only for a test that is nothing but the boot of its kernel.
    pub command: Option<PlannedCommand>,
    /// Environment variables, those of plan, defaults, test and shard together.
    pub env: BTreeMap<String, String>,
    /// Working directory, relative to the workspace unless absolute.
    pub cwd: Option<String>,
    /// Standard input; empty if `None`.
    pub stdin: Option<String>,
    /// Longest run time, milliseconds; `None` is the server's default.
    pub timeout_ms: Option<u64>,
    /// Higher ones first, -1000 to 1000.
    pub priority: i32,
    /// How often it may be tried again, 0 to 10.
    pub retries: u32,
    /// Pause before a retry, milliseconds.
    pub retry_delay_ms: u64,
    /// Indexes in [`Plan::tests`] of what must have passed before; ascending, all smaller than this test's own.
    pub needs: Vec<u32>,
    /// What its sandbox must have; a runner other than `auto` and an image are part of it.
    pub requires: Requirements,
    /// Version of the kernel that its sandbox must already run: `6.1` is any 6.1.x.
    pub requires_kernel: Option<String>,
    /// The kernel to boot for it.
    pub kernel: Option<Kernel>,
    /// How it is kept apart from other tests.
    pub isolation: TestIsolation,
    /// What network it sees.
    pub network: TestNetwork,
    /// Globs, relative to the workspace, of files to keep.
    pub artifacts: Vec<String>,
    /// Bounds for what is kept.
    pub artifact_limits: ArtifactLimits,
    /// Where to find results of single cases.
    pub reports: Vec<Report>,
    /// Whether its failure is known and counts for nothing.
    pub quarantined: bool,
    /// Whether its failure is told but does not fail the plan.
    pub allow_failure: bool,
    /// Words for filters.
    pub tags: Vec<String>,
}

/// One part of several.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shard {
    /// From 1, as `OSTLER_SHARD_INDEX`.
    pub index: u32,
    /// How many there are, as `OSTLER_SHARD_COUNT`.
    pub count: u32,
}

/// What a test executes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PlannedCommand {
    /// For `sh -c`.
    Shell(String),
    /// A program and its arguments; never empty.
    Argv(Vec<String>),
    /// Content of a file to execute: by the interpreter of its first line (`#!`), else by `sh`.
    Script(String),
}

/// A kernel to boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kernel {
    /// Name of a known kernel, or a path in the workspace if it contains a `/`.
    pub name: String,
    /// Words to add to its command line.
    pub args: Vec<String>,
    /// The end that counts as success.
    pub expect: KernelEnd,
}

/// How a boot ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KernelEnd {
    /// By the end of the command, whose exit code counts.
    #[default]
    Exit,
    /// By a panic.
    Panic,
    /// With an oops on the console.
    Oops,
    /// By a reboot.
    Reboot,
    /// By switching itself off.
    Poweroff,
    /// By running out of memory.
    Oom,
    /// Not at all, until the time-out.
    Hang,
}

/// How a test is kept apart from others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TestIsolation {
    /// Fresh namespaces and a file system overlay inside a warm sandbox.
    #[default]
    Test,
    /// A new sandbox for each test.
    Sandbox,
    /// None: tests share the sandbox as it is.
    None,
}

/// What network a test sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TestNetwork {
    /// Nothing but a loopback of its own.
    #[default]
    None,
    /// That of its sandbox.
    Sandbox,
}

/// Bounds for the artifacts of one test; `None` is the server's default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ArtifactLimits {
    /// Most files.
    pub max_files: Option<u32>,
    /// Most bytes, of all files together.
    pub max_bytes: Option<u64>,
}

/// A report that a test writes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Where it is.
    pub source: ReportSource,
    /// Its format; `None` is to be recognised by content.
    pub format: Option<ReportFormat>,
}

/// Where a report is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReportSource {
    /// On standard output.
    Stdout,
    /// On the console of the virtual machine.
    Console,
    /// In the files that this glob, relative to the workspace, matches.
    Files(String),
}

/// Formats of reports that can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReportFormat {
    /// JUnit XML.
    Junit,
    /// TAP 13 or 14.
    Tap,
    /// The kernel's TAP.
    Ktap,
    /// JSON lines of Rust's libtest.
    Libtest,
    /// JSON lines of cargo-nextest.
    Nextest,
}

impl Plan {
    /// Reads a plan and expands it. The same text gives the same plan, test by test.
    ///
    /// # Errors
    /// Everything that is wrong with it. Limits: [`crate::limits`].
    pub fn parse(text: &str, format: Format) -> Result<Self, PlanErrors> {
        crate::expand::parse(text, format)
    }
}

/// The identity of a test for history: 32 hexadecimal digits from the plan's name and the test's expanded name.
pub fn test_key(plan: &str, test: &str) -> String {
    // The length keeps ("ab", "c") and ("a", "bc") apart.
    let hash = Sha256::new()
        .chain_update((plan.len() as u64).to_be_bytes())
        .chain_update(plan)
        .chain_update(test)
        .finalize();
    let (high, _) = hash.split_at(16);
    let number = high
        .iter()
        .fold(0_u128, |sum, byte| (sum << 8) | u128::from(*byte));
    format!("{number:032x}")
}
