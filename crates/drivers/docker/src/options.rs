//! What the driver is made with.

use std::path::PathBuf;

/// What the driver is made with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DockerOptions {
    /// Separates installations at one engine: 1 to 40 of `a-z`, `0-9`, `-` and `_`. Part of the containers' names.
    pub instance: String,
    /// Directory of this instance alone, made if missing, mode 0700. The engine must see it under the same path.
    pub state_dir: PathBuf,
    /// The static guest program; the engine must see it under the same path.
    pub guest: PathBuf,
    /// The engine, as in `DOCKER_HOST`: `unix://PATH`.
    pub engine: String,
    /// Most processes and threads in one sandbox.
    pub max_processes: u32,
}

impl DockerOptions {
    /// Options with defaults: the engine of `DOCKER_HOST` or else the usual socket, 4096 processes.
    pub fn new(
        instance: impl Into<String>,
        state_dir: impl Into<PathBuf>,
        guest: impl Into<PathBuf>,
    ) -> Self {
        Self {
            instance: instance.into(),
            state_dir: state_dir.into(),
            guest: guest.into(),
            engine: std::env::var("DOCKER_HOST").unwrap_or_else(|_| "unix:///var/run/docker.sock".into()),
            max_processes: 4096,
        }
    }

    /// Whether the instance name can be part of a container's name and of a file name everywhere.
    pub(crate) fn instance_is_valid(&self) -> bool {
        (1..=40).contains(&self.instance.len())
            && self
                .instance
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_')
    }
}
