//! The test environment: real parts that tests start for themselves, and checks that nothing is left behind.
//!
//! Everything here panics when it cannot do its work, since that is how a test fails.

mod cache;
mod certificates;
mod claude;
mod engine;
mod git;
mod leak;
mod machine;
pub mod model;
mod postgres;
mod require;
mod server;
mod service;
mod ssh;
mod suites;

pub use cache::{cache_dir, in_path};
pub use certificates::{Authority, Identity};
pub use claude::{CLAUDE_VERSION, ClaudeCode};
pub use engine::DockerEngine;
pub use git::{git, repository};
pub use leak::LeakGuard;
pub use machine::{MachineKernels, MachineParts};
pub use model::{FakeModel, Planned, Step, Story};
pub use postgres::Postgres;
pub use require::{Part, has};
pub use server::TestServer;
pub use ssh::SshMachine;
pub use suites::suites_dir;
