//! Parts of the test environment that a machine may lack.

use crate::{ClaudeCode, engine, in_path, machine, postgres, ssh, suites};

/// A part of the test environment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The server programs of PostgreSQL.
    Postgres,
    /// The Docker Engine, and the right to run one (root).
    Docker,
    /// The Docker Engine with the image that `scripts/base-image` builds.
    BaseImage,
    /// The real Claude Code program.
    ClaudeCode,
    /// bubblewrap.
    Bubblewrap,
    /// Network namespaces and nftables, and the right to change them (root).
    HostNetwork,
    /// The client and the server of OpenSSH, and the right to run the latter (root).
    Ssh,
    /// QEMU, with the kernel and the root drive that `scripts/vm-kernel` builds.
    Qemu,
    /// Test suites from the registries of Rust and Python, which `scripts/real-suites` fetches and builds.
    Suites,
}

impl Part {
    /// Whether it is here; otherwise what is missing.
    pub fn check(self) -> Result<(), String> {
        let found = match self {
            Self::Postgres => postgres::programs().is_some(),
            Self::Docker => engine::can_run(),
            Self::BaseImage => engine::can_run() && engine::base_image_file().is_file(),
            Self::ClaudeCode => ClaudeCode::find().is_some(),
            Self::Bubblewrap => in_path("bwrap").is_some(),
            Self::Ssh => ssh::can_run(),
            Self::Qemu => machine::can_run(),
            Self::Suites => suites::dir().join("complete").is_file(),
            Self::HostNetwork => {
                nix::unistd::geteuid().is_root() && in_path("ip").is_some() && in_path("nft").is_some()
            }
        };
        if found {
            return Ok(());
        }
        let root = if matches!(
            self,
            Self::Docker | Self::BaseImage | Self::HostNetwork | Self::Qemu | Self::Ssh
        ) {
            ", as root"
        } else {
            ""
        };
        Err(format!(
            "this test needs {self:?}, which this machine does not have: run scripts/install-test-deps{root}"
        ))
    }

    /// For tests that cannot be skipped, and those that forgot to ask.
    pub(crate) fn demand(self) {
        self.check().unwrap_or_else(|missing| panic!("{missing}"));
    }
}

/// Whether a test can go on. A missing part is a panic where `OSTLER_TEST_REQUIRE=all`, and a printed note elsewhere.
pub fn has(parts: &[Part]) -> bool {
    let missing: Vec<String> = parts.iter().filter_map(|part| part.check().err()).collect();
    if missing.is_empty() {
        return true;
    }
    let missing = missing.join("; ");
    assert!(
        std::env::var("OSTLER_TEST_REQUIRE").as_deref() != Ok("all"),
        "{missing}"
    );
    eprintln!("skipped: {missing}");
    false
}

/// Ends the test here, as skipped, if the machine lacks one of the named [`Part`]s: `require!(Postgres, Docker);`
#[macro_export]
macro_rules! require {
    ($($part:ident),+) => {
        if !$crate::has(&[$($crate::Part::$part),+]) {
            return;
        }
    };
}
