//! Running programs of the host to their end.

use crate::error::Error;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;
use tokio::process::Command;

/// `PATH` with the directories where some distributions put programs for root only.
pub(crate) fn search_path() -> OsString {
    let mut path = std::env::var_os("PATH").unwrap_or_default();
    path.push(":/usr/local/sbin:/usr/sbin:/sbin");
    path
}

/// The program of this name or path, if it is there.
pub(crate) fn find(program: &Path) -> Option<PathBuf> {
    if program.components().count() > 1 {
        return program.is_file().then(|| program.to_owned());
    }
    std::env::split_paths(&search_path())
        .map(|dir| dir.join(program))
        .find(|file| file.is_file())
}

/// Runs a program to its end and returns what it wrote, whether it succeeded or not.
pub(crate) async fn output(command: &mut Command, limit: Duration) -> Result<Output, Error> {
    let program = command.as_std().get_program().to_string_lossy().into_owned();
    command
        .env("PATH", search_path())
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .kill_on_drop(true);
    match tokio::time::timeout(limit, command.output()).await {
        Ok(Ok(output)) => Ok(output),
        Ok(Err(e)) => Err(Error::Other(format!("{program}: {e}"))),
        Err(_) => Err(Error::Other(format!("{program} did not end within {limit:?}"))),
    }
}

/// Runs a program that must succeed.
pub(crate) async fn run(command: &mut Command, limit: Duration) -> Result<Output, Error> {
    let program = command.as_std().get_program().to_string_lossy().into_owned();
    let output = output(command, limit).await?;
    if output.status.success() {
        return Ok(output);
    }
    Err(Error::Other(format!(
        "{program} failed ({}): {}",
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    )))
}
