//! The plan after expansion: what is stored and scheduled.

use crate::{Format, PlanErrors};
use ostler_domain::{ArtifactLimits, Kernel, Requirements, Shard, TestIsolation, TestNetwork, TestReport};
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
    /// What the parts of a sharded test share: all of it, in every part. Who executes them divides it.
    pub items: Vec<String>,
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
    /// What its sandbox must have; a runner other than `auto`, an image and a running kernel are part of it.
    pub requires: Requirements,
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
    pub reports: Vec<TestReport>,
    /// Whether its failure is known and counts for nothing.
    pub quarantined: bool,
    /// Whether its failure is told but does not fail the plan.
    pub allow_failure: bool,
    /// Words for filters.
    pub tags: Vec<String>,
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
