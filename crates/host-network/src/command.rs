//! Running `ip` and `nft`.

use crate::NetworkError;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// How long a program may take. The kernel serialises changes of interfaces, so a busy host needs patience.
const LIMIT: Duration = Duration::from_secs(30);
/// What of a program's complaint is kept, bytes.
const COMPLAINT: usize = 600;

/// The programs, and the lock that their processes share.
#[derive(Debug)]
pub(crate) struct Programs {
    ip: PathBuf,
    nft: PathBuf,
    lock: File,
}

impl Programs {
    /// Finds the programs. `lock` is a file on which this instance holds a lock: it is given to every program as its
    /// output, so that the lock lasts until the last program of a killed server has ended.
    pub(crate) fn find(lock: File) -> Result<Self, NetworkError> {
        Ok(Self {
            ip: find("ip", "iproute2")?,
            nft: find("nft", "nftables")?,
            lock,
        })
    }

    /// Changes interfaces, addresses and routes: one command of `ip` a line, all or an error. Commands before the one
    /// that fails have been done.
    pub(crate) async fn ip(
        &self,
        action: &str,
        namespace: Option<&str>,
        lines: &str,
    ) -> Result<(), NetworkError> {
        let mut command = Command::new(&self.ip);
        if let Some(namespace) = namespace {
            command.args(["-netns", namespace]);
        }
        command.args(["-batch", "-"]);
        self.change(action, command, lines).await
    }

    /// Changes the packet filter, all or nothing.
    pub(crate) async fn nft(&self, action: &str, script: &str) -> Result<(), NetworkError> {
        let mut command = Command::new(&self.nft);
        command.args(["-f", "-"]);
        self.change(action, command, script).await
    }

    /// What `ip -json` says; an empty list when it says nothing.
    pub(crate) async fn ip_json(&self, arguments: &[&str]) -> Result<serde_json::Value, NetworkError> {
        let mut command = Command::new(&self.ip);
        command.arg("-json").args(arguments);
        json("looking at interfaces", command).await
    }

    /// What `nft -j` says of a table; `None` when there is none.
    pub(crate) async fn nft_table(&self, table: &str) -> Result<Option<serde_json::Value>, NetworkError> {
        let mut command = Command::new(&self.nft);
        command.args(["-j", "list", "table", "inet", table]);
        match json("looking at the packet filter", command).await {
            Ok(value) => Ok(Some(value)),
            Err(NetworkError::Failed { message, .. }) if message.contains("No such file or directory") => {
                Ok(None)
            }
            Err(e) => Err(e),
        }
    }

    async fn change(&self, action: &str, mut command: Command, input: &str) -> Result<(), NetworkError> {
        let lock = self.lock.try_clone().map_err(NetworkError::io(action))?;
        command.stdin(Stdio::piped()).stdout(lock);
        run(action, command, Some(input)).await.map(|_| ())
    }
}

async fn json(action: &str, mut command: Command) -> Result<serde_json::Value, NetworkError> {
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let text = run(action, command, None).await?;
    if text.iter().all(u8::is_ascii_whitespace) {
        return Ok(serde_json::Value::Array(Vec::new()));
    }
    serde_json::from_slice(&text).map_err(|e| NetworkError::Failed {
        action: action.to_owned(),
        message: e.to_string(),
    })
}

async fn run(action: &str, mut command: Command, input: Option<&str>) -> Result<Vec<u8>, NetworkError> {
    command
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .env("LC_ALL", "C");
    let work = async {
        let mut child = command.spawn()?;
        if let (Some(mut stdin), Some(input)) = (child.stdin.take(), input) {
            match stdin.write_all(input.as_bytes()).await {
                // A program that ends early says why.
                Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => {}
                other => other?,
            }
        }
        child.wait_with_output().await
    };
    let done = tokio::time::timeout(LIMIT, work)
        .await
        .map_err(|_| NetworkError::TimedOut {
            action: action.to_owned(),
            limit: LIMIT,
        })?
        .map_err(NetworkError::io(action))?;
    if done.status.success() {
        return Ok(done.stdout);
    }
    let said = String::from_utf8_lossy(&done.stderr);
    let said = said.trim();
    Err(NetworkError::Failed {
        action: action.to_owned(),
        message: if said.is_empty() {
            done.status.to_string()
        } else {
            said.chars().take(COMPLAINT).collect()
        },
    })
}

/// Beside the path, the directories of administrators' programs, which services often lack.
fn find(name: &str, package: &str) -> Result<PathBuf, NetworkError> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|dir| dir.join(name))
        .find(|file| file.is_file())
        .ok_or_else(|| {
            NetworkError::Cannot(format!(
                "the program `{name}` is missing: install the package {package}"
            ))
        })
}

/// Writes a setting below /proc/sys/net of this thread's namespace. A setting that the kernel does not have needs no
/// change.
pub(crate) fn set(name: &str, value: &str) -> std::io::Result<()> {
    match std::fs::write(Path::new("/proc/sys/net").join(name), value) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(std::io::Error::new(e.kind(), format!("setting net/{name}: {e}"))),
        Ok(()) => Ok(()),
    }
}

/// Reads a file of /proc/net of this thread's namespace. (`/proc/net` is that of the process's first thread.)
pub(crate) fn proc_net(name: &str) -> std::io::Result<String> {
    let mut text = String::new();
    File::open(Path::new("/proc/thread-self/net").join(name))?.read_to_string(&mut text)?;
    Ok(text)
}
