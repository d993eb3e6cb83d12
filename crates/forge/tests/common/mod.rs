//! Real repositories in temporary directories.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "each test program uses its part, and a test may panic"
)]

use ostler_domain::TenantId;
use ostler_forge::git::Git;
use ostler_forge::{ForgeOptions, MergeStrategy, Repositories, Repository, Source};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;

/// A data directory, an origin with one commit on `main`, and the means to work on both.
pub struct Bench {
    pub dir: TempDir,
    pub origin: PathBuf,
    pub repositories: Repositories,
}

/// Runs plain git, as a person would, and gives its output.
pub fn sh(dir: &Path, args: &[&str]) -> String {
    let output = Command::new("git")
        .args([
            "-c",
            "user.name=Ann",
            "-c",
            "user.email=ann@example.org",
            "-c",
            "init.defaultBranch=main",
        ])
        .args(["-c", "protocol.file.allow=always"])
        .args(args)
        .current_dir(dir)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "git {args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// Writes a file and commits it; gives the commit.
pub fn commit(dir: &Path, file: &str, text: &str, message: &str) -> String {
    let path = dir.join(file);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
    sh(dir, &["add", "-A"]);
    sh(dir, &["commit", "-q", "-m", message]);
    sh(dir, &["rev-parse", "HEAD"])
}

pub fn options() -> ForgeOptions {
    ForgeOptions {
        retry_delays: vec![Duration::from_millis(5); 3],
        ..ForgeOptions::default()
    }
}

impl Bench {
    pub fn new() -> Self {
        Self::with(options())
    }

    pub fn squash() -> Self {
        Self::with(ForgeOptions {
            strategy: MergeStrategy::Squash,
            ..options()
        })
    }

    pub fn with(options: ForgeOptions) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let origin = dir.path().canonicalize().unwrap().join("origin");
        std::fs::create_dir(&origin).unwrap();
        sh(&origin, &["init", "-q"]);
        commit(&origin, "README", "one\ntwo\nthree\n", "first");
        let repositories =
            Repositories::open(&dir.path().join("data/repositories"), Git::new(), options).unwrap();
        Self {
            dir,
            origin,
            repositories,
        }
    }

    pub fn repository(&self) -> Repository {
        let source = Source::parse(self.origin.to_str().unwrap()).unwrap();
        self.repositories.repository(TenantId::DEFAULT, &source)
    }

    pub async fn cloned(&self) -> Repository {
        let repository = self.repository();
        repository.clone_source(None, None).await.unwrap();
        repository
    }

    /// Does what a sandbox does: clones the branch from a bundle, lets `work` change it, gives the bundle that comes
    /// out.
    pub async fn in_sandbox(
        &self,
        repository: &Repository,
        branch: &str,
        work: impl FnOnce(&Path),
    ) -> PathBuf {
        let bundle = repository.bundle_create(branch, "main").await.unwrap();
        let name = format!("box-{}", std::fs::read_dir(self.dir.path()).unwrap().count());
        let workspace = self.dir.path().join(name);
        sh(
            self.dir.path(),
            &[
                "clone",
                "-q",
                "-b",
                branch,
                bundle.path().to_str().unwrap(),
                workspace.to_str().unwrap(),
            ],
        );
        work(&workspace);
        let out = workspace.join("out.bundle");
        sh(
            &workspace,
            &["bundle", "create", "-q", out.to_str().unwrap(), branch],
        );
        out
    }
}

/// Everything below `path` that is left of unfinished work.
pub fn leftovers(repository: &Repository) -> Vec<PathBuf> {
    let root = repository
        .path()
        .ancestors()
        .find(|p| p.ends_with("repositories"))
        .unwrap();
    std::fs::read_dir(root.join(".tmp"))
        .into_iter()
        .flatten()
        .map(|e| e.unwrap().path())
        .collect()
}
