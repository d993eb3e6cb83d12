//! What works on this host, for `ostler doctor`.

use crate::error::Error;
use crate::options::QemuOptions;
use crate::programs;
use ostler_sandbox::Finding;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::process::Command;

const LIMIT: Duration = Duration::from_secs(10);

/// QEMU and its version, as one line.
pub(crate) async fn qemu(options: &QemuOptions) -> Result<(PathBuf, String), Error> {
    let missing = || {
        Error::Other(format!(
            "there is no {}: install qemu-system-x86 (Debian, Ubuntu), qemu-kvm (Fedora), or name the program in the \
             settings",
            options.qemu.display()
        ))
    };
    let program = programs::find(&options.qemu).ok_or_else(missing)?;
    let text = version(&program).await?;
    Ok((program, text))
}

async fn version(program: &Path) -> Result<String, Error> {
    let done = programs::run(Command::new(program).arg("--version"), LIMIT).await?;
    let text = String::from_utf8_lossy(&done.stdout);
    Ok(text.lines().next().unwrap_or_default().trim().to_owned())
}

/// The programs that make drives.
pub(crate) async fn tools(options: &QemuOptions) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (program, argument, package) in [
        (options.qemu_img.as_path(), "--version", "qemu-utils"),
        (Path::new("mke2fs"), "-V", "e2fsprogs"),
        (Path::new("cp"), "--version", "coreutils"),
    ] {
        let subject = program
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let done = match programs::find(program) {
            Some(found) => programs::run(Command::new(&found).arg(argument), LIMIT)
                .await
                .map(|_| found.display().to_string())
                .map_err(|e| e.to_string()),
            None => Err(format!("there is no {}", program.display())),
        };
        findings.push(Finding {
            subject,
            ok: done.is_ok(),
            detail: done.unwrap_or_else(|why| format!("{why}: apt-get install {package}")),
        });
    }
    findings
}
