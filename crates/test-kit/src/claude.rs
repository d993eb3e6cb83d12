//! Finding the real Claude Code program, and the environment in which it works without a network or an account.

use std::path::{Path, PathBuf};

use crate::cache::{cache_dir, in_path, is_executable};

/// The version tests are written against; `scripts/install-test-deps` installs it.
pub const CLAUDE_VERSION: &str = "2.1.329";

/// The Claude Code program on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaudeCode {
    /// The executable itself, never a link. It is a native program: it needs glibc but no Node.
    pub program: PathBuf,
}

impl ClaudeCode {
    /// The pinned version in the cache directory, or else whatever `claude` in `PATH` is.
    pub fn find() -> Option<Self> {
        let modules = cache_dir().join(format!("claude-{CLAUDE_VERSION}/node_modules/@anthropic-ai"));
        let arch = if cfg!(target_arch = "aarch64") {
            "arm64"
        } else {
            "x64"
        };
        let pinned = modules.join(format!("claude-code-linux-{arch}/claude"));
        let found = if is_executable(&pinned) {
            pinned
        } else {
            in_path("claude")?
        };
        Some(Self {
            program: found.canonicalize().ok()?,
        })
    }

    /// The directory that a sandbox must show read-only, at the same path or any other.
    pub fn dir(&self) -> &Path {
        self.program.parent().unwrap_or(Path::new("/"))
    }

    /// Environment for a headless call against a [`crate::FakeModel`], or anything else that speaks its API.
    ///
    /// `IS_SANDBOX` lets root skip permission questions. Set `HOME` to an empty directory beside these.
    pub fn env(base_url: &str, token: &str) -> Vec<(String, String)> {
        let pairs = [
            ("ANTHROPIC_BASE_URL", base_url),
            ("ANTHROPIC_AUTH_TOKEN", token),
            ("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1"),
            ("DISABLE_AUTOUPDATER", "1"),
            ("IS_SANDBOX", "1"),
        ];
        pairs
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .to_vec()
    }

    /// Arguments for one headless turn with a stream of JSON events, as tests run it.
    pub fn headless(prompt: &str) -> Vec<String> {
        let args = [
            "-p",
            prompt,
            "--output-format",
            "stream-json",
            "--verbose",
            "--dangerously-skip-permissions",
        ];
        args.map(str::to_owned).to_vec()
    }
}
