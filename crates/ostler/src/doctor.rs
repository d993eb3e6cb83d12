//! `ostler doctor`: looks at everything that a server needs on this host.
//!
//! What can be tried is tried: a database is made, a sandbox is started. Nothing of it stays, and a running server is not
//! disturbed: trials have a directory and an instance name of their own.

mod agents;
mod artifacts;
mod data;
mod host;
mod sandboxes;

use crate::settings::Settings;
use serde::Serialize;
use std::fmt::Write;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;
use tokio::process::Command;

/// Longest wait for any one answer.
const LIMIT: Duration = Duration::from_secs(15);

/// Beginning of the names of trial directories; the process id follows. Short, since the paths of sockets are limited.
const TRIAL: &str = ".doctor-";

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Status {
    Ok,
    /// Something that is not there and that nobody has asked for.
    Info,
    Warning,
    Failure,
}

impl Status {
    const fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Failure => "failure",
        }
    }
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Check {
    subject: String,
    status: Status,
    /// What was found.
    found: String,
    /// What that means for the user; empty when all is well.
    #[serde(skip_serializing_if = "String::is_empty")]
    meaning: String,
    /// What to do; empty when all is well, or when what was found says it.
    #[serde(skip_serializing_if = "String::is_empty")]
    advice: String,
}

impl Check {
    fn ok(subject: &str, found: impl Into<String>) -> Self {
        Self::new(Status::Ok, subject, found, "", "")
    }

    fn info(subject: &str, found: impl Into<String>, meaning: &str) -> Self {
        Self::new(Status::Info, subject, found, meaning, "")
    }

    fn new(
        status: Status,
        subject: &str,
        found: impl Into<String>,
        meaning: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        Self {
            subject: subject.to_owned(),
            status,
            found: found.into(),
            meaning: meaning.into(),
            advice: advice.into(),
        }
    }
}

/// Looks at everything and prints what was found. Fails with 1 if anything is a failure.
pub(crate) async fn run(
    settings: anyhow::Result<Settings>,
    data: &Path,
    json: bool,
) -> anyhow::Result<ExitCode> {
    let mut checks = Vec::new();
    let settings = settings.unwrap_or_else(|error| {
        checks.push(Check::new(
            Status::Failure,
            "settings",
            format!("{error:#}"),
            "the server does not start; what follows was looked at with the default settings",
            "mend what is named; `ostler config print` explains every setting",
        ));
        Settings::default()
    });
    let place = data::directory(data, &mut checks);
    let trial = match &place {
        Some(place) => data::trial(place, settings.database.is_none(), &mut checks).await,
        None => None,
    };
    let pools = data::database(settings.database.as_deref(), data, &mut checks).await;
    checks.push(artifacts::store(&settings.artifacts, data).await);
    host::server(settings.listen, data, &mut checks).await;
    let usable = sandboxes::drivers(&settings, data, trial.as_ref(), &pools, &mut checks).await;
    host::git(&mut checks).await;
    agents::programs(&settings, usable.host_programs(), &mut checks).await;
    agents::keys(&settings, &mut checks);
    host::clock(data, &mut checks);
    report(&checks, json)
}

fn report(checks: &[Check], json: bool) -> anyhow::Result<ExitCode> {
    let count = |status| checks.iter().filter(|check| check.status == status).count();
    let (warnings, failures) = (count(Status::Warning), count(Status::Failure));
    if json {
        let value = serde_json::json!({ "ok": failures == 0, "checks": checks });
        crate::print(&format!("{value:#}\n"))?;
    } else {
        crate::print(&text(checks)?)?;
        eprintln!(
            "{} checks: {warnings} warnings, {failures} failures",
            checks.len()
        );
    }
    Ok(if failures == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn text(checks: &[Check]) -> Result<String, std::fmt::Error> {
    let mut text = String::new();
    for check in checks {
        writeln!(
            text,
            "{:8} {}: {}",
            check.status.word(),
            check.subject,
            check.found
        )?;
        for (label, said) in [("meaning", &check.meaning), ("to do", &check.advice)] {
            if !said.is_empty() {
                writeln!(text, "{:9}{label}: {said}", "")?;
            }
        }
    }
    Ok(text)
}

/// The first line that a program prints, on whichever stream; an error says why there is none.
async fn first_line(program: &Path, argument: &str) -> Result<String, String> {
    let mut command = Command::new(program);
    command
        .arg(argument)
        .stdin(std::process::Stdio::null())
        .kill_on_drop(true);
    let done = match tokio::time::timeout(LIMIT, command.output()).await {
        Ok(Ok(done)) => done,
        Ok(Err(error)) => return Err(error.to_string()),
        Err(_) => return Err(format!("it did not end within {LIMIT:?}")),
    };
    let stdout = String::from_utf8_lossy(&done.stdout);
    let stderr = String::from_utf8_lossy(&done.stderr);
    let line = stdout
        .lines()
        .chain(stderr.lines())
        .map(str::trim)
        .find(|l| !l.is_empty());
    // A program may say anything: it must not fill the screen.
    let line: String = line
        .unwrap_or_default()
        .chars()
        .filter(|c| !c.is_control())
        .take(200)
        .collect();
    if done.status.success() {
        Ok(line)
    } else {
        Err(format!("{} ({line})", done.status))
    }
}

/// The first executable of this name on the path; a name with a slash is one itself.
fn find_program(name: &str) -> Option<std::path::PathBuf> {
    use std::os::unix::fs::PermissionsExt;
    let executable = |file: &std::path::PathBuf| {
        file.metadata()
            .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
    };
    if name.contains('/') {
        return Some(name.into()).filter(executable);
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|dir| dir.join(name))
        .find(executable)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_decides_the_exit_and_says_what_to_do() {
        let warning = Check::new(Status::Warning, "a", "found", "means", "do");
        let mut checks = vec![Check::ok("b", "well"), warning];
        assert_eq!(
            text(&checks).unwrap(),
            "ok       b: well\nwarning  a: found\n         meaning: means\n         to do: do\n"
        );
        assert_eq!(report(&checks, false).unwrap(), ExitCode::SUCCESS);
        checks[0].status = Status::Failure;
        assert_eq!(report(&checks, false).unwrap(), ExitCode::FAILURE);
    }

    #[tokio::test]
    async fn a_program_that_fails_or_is_absent_is_no_version() {
        let run = |name: &'static str, argument| async move {
            first_line(&find_program(name).unwrap(), argument).await
        };
        assert_eq!(run("echo", "1.2").await.unwrap(), "1.2");
        assert!(run("false", "--version").await.unwrap_err().contains('1'));
        assert_eq!(find_program("/nowhere/git"), None);
        assert_eq!(find_program("no-such-program"), None);
    }
}
