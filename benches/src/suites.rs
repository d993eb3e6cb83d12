//! P8: many tests that do nothing. Ostler executes each in namespaces of its own, keeps what it writes and measures it;
//! beside it are programs that run tests, which do less of that, on the same two processors in the same round.

use crate::bench::Results;
use crate::contender::run;
use crate::sandboxes::has;
use crate::service::{Refill, Service};
use anyhow::{Context, Result, ensure};
use ostler_test_kit::Part;
use reqwest::Method;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};
use tokio::process::Command;

pub(crate) const OURS: &str = "Ostler, process driver";
pub(crate) const NEXTEST: &str = "cargo-nextest";
pub(crate) const XDIST: &str = "pytest-xdist";
pub(crate) const XARGS: &str = "xargs -P2";
pub(crate) const BUILDBOT: &str = "Buildbot";

/// Tests at a time.
const SLOTS: usize = 2;
/// Builds of Buildbot for each thousand tests of the others: it takes that much longer.
const BUILDS: usize = 25;
const LIMIT: Duration = Duration::from_secs(600);

const PYTHON: &str = "import subprocess
import pytest


@pytest.mark.parametrize('n', range(COUNT))
def test_true(n):
    subprocess.run(['true'], check=True, capture_output=True)
";

/// The server, and what the peers run.
pub(crate) struct Suites {
    service: Service,
    count: usize,
    directory: PathBuf,
    /// The folder of the peers, where they take part.
    peers: Option<PathBuf>,
    nextest: bool,
}

impl Suites {
    /// Starts the server with a warm sandbox for each slot, and prepares the peers. `None`, with a note, where this
    /// machine has no sandboxes.
    pub(crate) async fn start(
        server: &Path,
        data: &Path,
        peers: Option<&Path>,
        count: usize,
        notes: &mut Vec<String>,
    ) -> Result<Option<Self>> {
        if !has(Part::Bubblewrap, "tests on the process driver", notes) {
            return Ok(None);
        }
        let settings = format!(
            "[executor]\nslots = {SLOTS}\n[drivers]\nprocess = true\ndocker = false\nqemu = false\nfirecracker = false\n"
        );
        let service = Service::start(server, &data.join("server"), &settings).await?;
        let template = json!({ "driver": "process", "memory_mb": 256 });
        service
            .pool("default", &template, (SLOTS, SLOTS), Refill::AtOnce)
            .await?;
        let mut suites = Self {
            service,
            count,
            directory: data.to_owned(),
            peers: peers.map(std::path::absolute).transpose()?,
            nextest: false,
        };
        if suites.peers.is_some() {
            suites.nextest = match suites.prepare().await {
                Ok(()) => true,
                Err(error) => {
                    notes.push(format!("{NEXTEST}: {error:#}"));
                    false
                }
            };
        }
        Ok(Some(suites))
    }

    pub(crate) async fn stop(self) -> Result<()> {
        self.service.stop().await
    }

    /// All of them, one after the other.
    pub(crate) async fn round(&self, results: &mut Results) -> Result<()> {
        let took = self.ours().await?;
        results.suite(OURS, took, self.count);
        let Some(peers) = &self.peers else {
            return Ok(());
        };
        let count = self.count.to_string();
        if self.nextest {
            let took = timed(self.cargo().args(["--test-threads", &SLOTS.to_string()])).await?;
            results.suite(NEXTEST, took, self.count);
        }
        let file = self.directory.join("test_true.py");
        std::fs::write(&file, PYTHON.replace("COUNT", &count))?;
        let mut pytest = Command::new(peers.join(".venv-tests/bin/python"));
        pytest.args([
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "-n",
            &SLOTS.to_string(),
        ]);
        results.suite(XDIST, timed(pytest.arg(&file)).await?, self.count);
        let pipe = format!("seq {count} | xargs -P{SLOTS} -n1 true");
        results.suite(
            XARGS,
            timed(Command::new("sh").args(["-c", &pipe])).await?,
            self.count,
        );
        let builds = (self.count * BUILDS / 1000).max(5);
        let mut buildbot = Command::new(peers.join("buildbot/run"));
        buildbot.arg(builds.to_string());
        let line = run(buildbot, LIMIT).await?;
        ensure!(line["count"] == builds && line["bad"] == 0, "{BUILDBOT}: {line}");
        let seconds = line["seconds"].as_f64().context("a result without a time")?;
        results.suite(BUILDBOT, Duration::from_secs_f64(seconds), builds);
        Ok(())
    }

    /// From the request to the end of the last test, with everything that is promised of each.
    async fn ours(&self) -> Result<Duration> {
        let tests: Vec<Value> = (0..self.count)
            .map(|n| json!({ "name": format!("t{n}"), "run": ["true"] }))
            .collect();
        let body = json!({ "name": "nothing", "tests": tests });
        let begun = Instant::now();
        let (status, plan) = self.service.call(Method::POST, "/plans", Some(body)).await?;
        ensure!(status.is_success(), "the plan was refused: {status} {plan}");
        let path = format!("/plans/{}", plan["id"].as_str().context("a plan without an id")?);
        let end = begun + LIMIT;
        let (took, plan) = loop {
            let (_, plan) = self.service.call(Method::GET, &path, None).await?;
            if plan["status"] != "running" {
                break (begun.elapsed(), plan);
            }
            ensure!(Instant::now() < end, "the plan does not end: {plan}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        ensure!(plan["counters"]["succeeded"] == self.count, "{plan}");
        self.check(&path).await?;
        Ok(took)
    }

    /// That the tests were measured, and shared few sandboxes, which only such can do that are kept apart.
    async fn check(&self, plan: &str) -> Result<()> {
        let mut sandboxes = BTreeSet::new();
        let (mut seen, mut before) = (0, String::new());
        loop {
            let path = format!("{plan}/tests?limit=500{before}");
            let (_, tests) = self.service.call(Method::GET, &path, None).await?;
            let tests = tests.as_array().with_context(|| format!("{path}: {tests}"))?;
            for test in tests {
                let measured = test["metrics"]["peak_memory_bytes"].as_u64() > Some(0);
                ensure!(measured && test["exit_code"] == 0, "not measured: {test}");
                sandboxes.insert(test["sandbox_id"].to_string());
            }
            seen += tests.len();
            match tests.last() {
                Some(last) if seen < self.count => before = format!("&before_seq={}", last["seq"]),
                _ => break,
            }
        }
        ensure!(seen == self.count, "{seen} tests of {}", self.count);
        let most = SLOTS + self.count / 20;
        ensure!(sandboxes.len() <= most, "{} sandboxes", sandboxes.len());
        Ok(())
    }

    /// A crate with as many tests, compiled before anything is measured.
    async fn prepare(&self) -> Result<()> {
        let source = self.crate_directory().join("src");
        std::fs::create_dir_all(&source)?;
        let manifest =
            "[package]\nname = \"nothing\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\n[workspace]\n";
        std::fs::write(self.crate_directory().join("Cargo.toml"), manifest)?;
        let mut text = String::new();
        for n in 0..self.count {
            writeln!(text, "#[test]\nfn t{n}() {{}}")?;
        }
        std::fs::write(source.join("lib.rs"), text)?;
        timed(self.cargo().arg("--no-run")).await.map(drop)
    }

    fn crate_directory(&self) -> PathBuf {
        self.directory.join("crate")
    }

    fn cargo(&self) -> Command {
        let mut cargo = Command::new("cargo");
        cargo
            .args([
                "nextest",
                "run",
                "--status-level",
                "none",
                "--final-status-level",
                "none",
            ])
            .current_dir(self.crate_directory())
            .env("CARGO_TARGET_DIR", self.crate_directory().join("target"));
        cargo
    }
}

/// How long a program takes that must succeed.
async fn timed(command: &mut Command) -> Result<Duration> {
    let begun = Instant::now();
    let done = command
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .with_context(|| command.as_std().get_program().display().to_string())?;
    let took = begun.elapsed();
    let said = String::from_utf8_lossy(&done.stderr);
    ensure!(done.status.success(), "{:?}: {said}", command.as_std());
    Ok(took)
}
