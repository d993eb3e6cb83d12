//! Tests: what a test's run is told besides its commands, and what becomes known of it.

use crate::state::text_enum;
use crate::{ArtifactId, PlanId, ProjectId, RunId, RunStatus, TenantId, Timestamp, UserId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

text_enum! {
    /// How a test is kept apart from others.
    #[derive(Default)]
    TestIsolation {
        /// Fresh namespaces and a file system overlay inside a warm sandbox.
        #[default]
        Test = "test",
        /// A new sandbox for each test.
        Sandbox = "sandbox",
        /// None: tests share the sandbox as it is.
        None = "none",
    }
}

text_enum! {
    /// What network a test sees.
    #[derive(Default)]
    TestNetwork {
        /// Nothing but a loopback of its own.
        #[default]
        None = "none",
        /// That of its sandbox.
        Sandbox = "sandbox",
    }
}

text_enum! {
    /// How a boot ends.
    #[derive(Default)]
    KernelEnd {
        /// By the end of the command, whose exit code counts.
        #[default]
        Exit = "exit",
        /// By a panic.
        Panic = "panic",
        /// With an oops on the console.
        Oops = "oops",
        /// By a reboot.
        Reboot = "reboot",
        /// By switching itself off.
        Poweroff = "poweroff",
        /// By running out of memory.
        Oom = "oom",
        /// Not at all, until the time-out.
        Hang = "hang",
    }
}

text_enum! {
    /// Formats of reports that can be read.
    ReportFormat {
        /// JUnit XML.
        Junit = "junit",
        /// TAP 13 or 14.
        Tap = "tap",
        /// The kernel's TAP.
        Ktap = "ktap",
        /// JSON lines of Rust's libtest.
        Libtest = "libtest",
        /// JSON lines of cargo-nextest.
        Nextest = "nextest",
    }
}

text_enum! {
    /// Whose fault a failure is. Only one of the infrastructure is tried again by itself.
    FailureClass {
        /// A sandbox, host or server: the test says nothing about what it tests.
        Infrastructure = "infrastructure",
        /// What the job asks for cannot be had: a missing program, an image that is not there, a full workspace.
        Job = "job",
        /// The test itself.
        Test = "test",
        /// Ostler.
        Bug = "bug",
    }
}

text_enum! {
    /// What of a test is compared with its history.
    Measure {
        /// Wall time, microseconds.
        Duration = "duration",
        /// Processor time, microseconds.
        Cpu = "cpu",
        /// Most memory in use at a time, bytes.
        PeakMemory = "peak_memory",
    }
}

/// One part of several.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shard {
    /// From 1, as `OSTLER_SHARD_INDEX`.
    pub index: u32,
    /// How many there are, as `OSTLER_SHARD_COUNT`.
    pub count: u32,
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

/// Bounds for the artifacts of one test; `None` is the server's default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ArtifactLimits {
    /// Most files.
    pub max_files: Option<u32>,
    /// Most bytes, of all files together.
    pub max_bytes: Option<u64>,
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

/// A report that a test writes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TestReport {
    /// Where it is.
    pub source: ReportSource,
    /// Its format; `None` is to be recognised by content.
    pub format: Option<ReportFormat>,
}

/// What makes a run a test: the part of its specification that no other kind has.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct TestSpec {
    /// Name of its plan.
    pub plan: String,
    /// Unique in its plan.
    pub name: String,
    /// Identity across plans of the same name, for history.
    pub key: String,
    /// Its place in the plan, from 0; what it needs stands before it.
    pub index: u32,
    /// Which part of a sharded test this is.
    pub shard: Option<Shard>,
    /// Names of the tests of the plan that must have passed before.
    pub needs: Vec<String>,
    /// How often it may be tried again after a failure of its own.
    pub retries: u32,
    /// Pause before that, milliseconds.
    pub retry_delay_ms: u64,
    /// The kernel to boot for it.
    pub kernel: Option<Kernel>,
    /// How it is kept apart.
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

/// What a test used. Times in microseconds, sizes in bytes; zero where nothing measures it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct TestMetrics {
    /// From its start to its end, by a clock that only goes forward.
    pub wall_us: u64,
    /// Processor time in user mode, of all its processes.
    pub cpu_user_us: u64,
    /// Processor time in kernel mode.
    pub cpu_system_us: u64,
    /// Most memory in use at a time.
    pub peak_memory_bytes: u64,
    /// Read from block devices.
    pub read_bytes: u64,
    /// Written to block devices.
    pub written_bytes: u64,
    /// Context switches because it waited.
    pub voluntary_switches: u64,
    /// Context switches because others had to run.
    pub involuntary_switches: u64,
}

/// Cases of the reports of a test, counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct CaseCounts {
    /// Passed.
    pub passed: u32,
    /// Failed.
    pub failed: u32,
    /// Not executed.
    pub skipped: u32,
    /// Could not be executed.
    pub errors: u32,
}

/// What became known of a test by one run of it, besides the run's own end.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct TestResult {
    /// What it used; `None` when it never ran.
    pub metrics: Option<TestMetrics>,
    /// Cases of its reports; `None` when it has none.
    pub cases: Option<CaseCounts>,
    /// Whose fault its failure is.
    pub failure: Option<FailureClass>,
    /// How its kernel ended, for a test that boots one.
    pub kernel_end: Option<KernelEnd>,
    /// Files that were kept.
    pub artifacts: u32,
    /// What is not as it should be although it does not change the outcome: a report that is not well-formed, an artifact
    /// that is too large. At most a few.
    pub problems: Vec<String>,
    /// Whether another run of the same test takes the place of this one.
    pub superseded: bool,
    /// In what it was clearly worse than it usually is.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub regressions: Vec<Measure>,
}

impl TestSpec {
    /// Whether its failure neither fails the plan nor keeps back what needs it.
    pub const fn is_tolerated(&self) -> bool {
        self.quarantined || self.allow_failure
    }
}

/// The end of one run of a test, for the history of the test. It outlives the run, and there is one for each run of a
/// test that ended in whatever way: that it is there means that the end was told and what follows from it was begun.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TestRecord {
    /// The run.
    pub run_id: RunId,
    /// Owner.
    pub tenant_id: TenantId,
    /// Identity of the test across plans: [`TestSpec::key`].
    pub key: String,
    /// The plan.
    pub plan_id: PlanId,
    /// Name of the plan.
    pub plan: String,
    /// Name of the test.
    pub name: String,
    /// Which run of the test in its plan, from 1.
    pub ordinal: u32,
    /// How it ended.
    pub status: RunStatus,
    /// Whether its failure counts for nothing.
    pub tolerated: bool,
    /// Whether another run of the same test takes its place.
    pub superseded: bool,
    /// Whether it passed after an earlier run of it in the same plan had failed.
    pub flaky: bool,
    /// Wall time, microseconds; 0 if it never ran.
    pub duration_us: i64,
    /// Processor time, microseconds; 0 where nothing measured it.
    pub cpu_us: i64,
    /// Most memory in use at a time, bytes; 0 where nothing measured it.
    pub peak_memory_bytes: i64,
    /// The commit of its project that it ran on, if any.
    pub revision: Option<String>,
    /// When it ended.
    pub created_at: Timestamp,
}

impl TestRecord {
    /// What it used; 0 where nothing measured it.
    pub fn measured(&self, what: Measure) -> u64 {
        let value = match what {
            Measure::Duration => self.duration_us,
            Measure::Cpu => self.cpu_us,
            Measure::PeakMemory => self.peak_memory_bytes,
        };
        u64::try_from(value).unwrap_or_default()
    }
}

/// A test that is known to be unreliable: in plans that are submitted while it is on this list, its failures count for
/// nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuarantinedTest {
    /// Owner.
    pub tenant_id: TenantId,
    /// Identity of the test across plans: [`TestSpec::key`].
    pub key: String,
    /// Name of its plan.
    pub plan: String,
    /// Name of the test.
    pub name: String,
    /// Why, for people; may be empty.
    pub reason: String,
    /// Who put it there.
    pub created_by: Option<UserId>,
    /// Since when.
    pub created_at: Timestamp,
}

/// A file that a test left and that is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Artifact {
    /// Id.
    pub id: ArtifactId,
    /// Owner.
    pub tenant_id: TenantId,
    /// The run that left it.
    pub run_id: RunId,
    /// The plan of that run, if any.
    pub plan_id: Option<PlanId>,
    /// Where it was, relative to the workspace. Unique in its run.
    pub path: String,
    /// Size.
    pub bytes: i64,
    /// SHA-256 of its content, 64 hexadecimal digits.
    pub sha256: String,
    /// Where its content is, `KEY@START`: an object that holds files of this run and no other, and the byte at which this
    /// one begins.
    pub object: String,
    /// When it was kept.
    pub created_at: Timestamp,
    /// From when on it may be removed; `None` for never.
    pub expires_at: Option<Timestamp>,
}

/// A plan as it is kept: the tests themselves are runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TestPlan {
    /// Id.
    pub id: PlanId,
    /// Owner.
    pub tenant_id: TenantId,
    /// Name; part of the identity of its tests.
    pub name: String,
    /// The project whose workspace its tests get, if any.
    pub project_id: Option<ProjectId>,
    /// The branch of that project.
    pub branch: Option<String>,
    /// Whether the first failure cancels what did not begin.
    pub fail_fast: bool,
    /// How many of its tests may run at a time; `None` leaves it to the queue.
    pub max_parallel: Option<u32>,
    /// Words about the plan.
    pub labels: BTreeMap<String, String>,
    /// How many tests it has.
    pub tests: u32,
    /// Whether some of its tests wait for others.
    pub ordered: bool,
    /// Whether its end was requested.
    pub cancel_requested: bool,
    /// Who submitted it.
    pub created_by: Option<UserId>,
    /// When it was submitted.
    pub created_at: Timestamp,
    /// When its last test ended.
    pub finished_at: Option<Timestamp>,
    /// The newest event when it was submitted: all events about it are later.
    pub first_event: i64,
    /// Counted up by every change.
    pub version: i64,
}
