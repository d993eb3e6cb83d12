//! What works on this host.

use crate::bubblewrap::{Arguments, Bubblewrap};
use crate::options::ProcessOptions;
use ostler_sandbox::Finding;
use std::path::PathBuf;
use std::process::{Output, Stdio};
use std::time::Duration;
use tokio::process::Command;

const TRIAL_LIMIT: Duration = Duration::from_secs(10);

/// Finds bubblewrap and tries it with the very options that sandboxes get; the error says why it cannot be used.
pub(crate) async fn bubblewrap() -> Result<Bubblewrap, String> {
    let program = on_path("bwrap").ok_or("bubblewrap is not installed: install the package `bubblewrap`")?;
    let root = nix::unistd::geteuid().is_root();
    let found = Bubblewrap { program, root };
    let mut trial = Arguments::default();
    trial.isolate(&found, true);
    trial.system(false);
    trial.add(["--remount-ro", "/", "--", "/usr/bin/true"]);
    let done = output(Command::new(&found.program).args(trial.0)).await?;
    if done.status.success() {
        return Ok(found);
    }
    Err(format!(
        "bubblewrap does not work here ({}): allow user namespaces for it, or run the server as root",
        String::from_utf8_lossy(&done.stderr).trim()
    ))
}

/// Whether the guest program can be run.
pub(crate) async fn guest(options: &ProcessOptions) -> Finding {
    let subject = "guest program".to_owned();
    let shown = options.guest.display();
    match output(Command::new(&options.guest).arg("--version")).await {
        Ok(done) if done.status.success() => Finding {
            subject,
            ok: true,
            detail: format!("{shown}: {}", String::from_utf8_lossy(&done.stdout).trim()),
        },
        Ok(done) => Finding {
            subject,
            ok: false,
            detail: format!("{shown} does not run ({}): install Ostler again", done.status),
        },
        Err(e) => Finding {
            subject,
            ok: false,
            detail: format!("{e}: install Ostler again"),
        },
    }
}

async fn output(command: &mut Command) -> Result<Output, String> {
    let program = command.as_std().get_program().to_string_lossy().into_owned();
    command.stdin(Stdio::null()).kill_on_drop(true);
    match tokio::time::timeout(TRIAL_LIMIT, command.output()).await {
        Ok(Ok(output)) => Ok(output),
        Ok(Err(e)) => Err(format!("{program}: {e}")),
        Err(_) => Err(format!("{program} did not end within {TRIAL_LIMIT:?}")),
    }
}

pub(crate) fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|dir| dir.join(name))
        .find(|file| file.is_file())
}
