//! Checks that a test leaves nothing on the machine, and a broom for tests that failed.
//!
//! Tests run beside each other, so "what was not there before" says nothing about whose it is. Instead everything is
//! recognised by words that only this test has: the path of its temporary directory, and the ids of the servers that
//! kept their data there. The drivers put these into the environment of processes and the names of cgroups and
//! containers.

mod find;

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use crate::DockerEngine;
use find::{Finding, Words};

/// How long something may still take to end by itself before it counts as left.
const PATIENCE: Duration = Duration::from_secs(10);

/// Asserts that nothing of a test is left: processes, cgroups, mounts, network namespaces, containers.
///
/// Dropping it removes what is left, so that a test that failed harms no other.
pub struct LeakGuard {
    dir: PathBuf,
    words: Words,
    engine: Option<String>,
}

impl LeakGuard {
    /// Watches over a test that keeps its files in `dir`, a directory with a name that no other test has. Drop the
    /// guard before the directory: make it after that.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        let dir = dir.into();
        let guard = Self {
            words: Words::of(&dir),
            dir,
            engine: None,
        };
        let before = guard.find();
        assert!(before.is_empty(), "there before the test began:{}", list(&before));
        guard
    }

    /// Looks for containers in this engine as well.
    #[must_use]
    pub fn with_engine(mut self, engine: &DockerEngine) -> Self {
        self.engine = Some(engine.url());
        self
    }

    /// Adds a word that names the test in cgroups, containers or processes, such as a driver's instance.
    #[must_use]
    pub fn with_word(mut self, word: impl Into<String>) -> Self {
        self.words.add(word.into());
        self
    }

    /// Panics with a list of what is left, if anything is after some seconds. Blocks its thread.
    pub fn check(&mut self) {
        let end = Instant::now() + PATIENCE;
        loop {
            let left = self.left();
            if left.is_empty() {
                return;
            }
            assert!(Instant::now() < end, "left over:{}", list(&left));
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// What there is now, in words.
    pub fn left(&mut self) -> Vec<String> {
        self.words.add_servers(&self.dir);
        self.find().iter().map(ToString::to_string).collect()
    }

    fn find(&self) -> Vec<Finding> {
        find::all(&self.words, self.engine.as_deref())
    }
}

impl Drop for LeakGuard {
    fn drop(&mut self) {
        self.words.add_servers(&self.dir);
        sweep(&self.words, self.engine.as_deref());
    }
}

/// Removes everything that belongs to the server with this data directory, except the directory.
pub(crate) fn sweep_server(data: &Path, engine: Option<&str>) {
    let mut words = Words::of(data);
    words.add_servers(data);
    sweep(&words, engine);
}

fn sweep(words: &Words, engine: Option<&str>) {
    let end = Instant::now() + PATIENCE;
    loop {
        let found = find::all(words, engine);
        if found.is_empty() {
            return;
        }
        if Instant::now() > end {
            let found: Vec<String> = found.iter().map(ToString::to_string).collect();
            eprintln!("cannot be removed:{}", list(&found));
            return;
        }
        for finding in &found {
            finding.remove(engine);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn list(items: &[impl std::fmt::Display]) -> String {
    items.iter().fold(String::new(), |mut text, item| {
        let _ = write!(text, "\n  {item}");
        text
    })
}
