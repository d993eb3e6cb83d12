//! The test environment: real parts that tests start for themselves, and checks that nothing is left behind.

mod cache;
mod claude;
pub mod model;

pub use cache::{cache_dir, in_path};
pub use claude::{CLAUDE_VERSION, ClaudeCode};
pub use model::FakeModel;
