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
    let version = output(Command::new(&program).arg("--version")).await?;
    let version = String::from_utf8_lossy(&version.stdout).into_owned();
    let root = nix::unistd::geteuid().is_root();
    // Seen from inside, where only /usr is there for certain.
    let setpriv = on_path("setpriv").and_then(|p| p.canonicalize().ok());
    if root && !setpriv.as_ref().is_some_and(|p| p.starts_with("/usr")) {
        return Err(
            "the server is root, so `setpriv` is needed to give up its rights: install util-linux".into(),
        );
    }
    let found = Bubblewrap {
        program,
        setpriv: setpriv.filter(|_| root),
        disables_userns: at_least(&version, (0, 8)),
    };
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

/// Whether a text like `bubblewrap 0.8.0` names at least this version.
fn at_least(text: &str, wanted: (u32, u32)) -> bool {
    let number = text.split_whitespace().last().unwrap_or_default();
    let mut parts = number.split('.').map_while(|p| p.parse::<u32>().ok());
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0)) >= wanted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_as_numbers() {
        assert!(at_least("bubblewrap 0.11.0\n", (0, 8)));
        assert!(at_least("bubblewrap 0.8.0", (0, 8)));
        assert!(!at_least("bubblewrap 0.6.1", (0, 8)));
        assert!(!at_least("", (0, 8)));
    }
}
