//! The server's address, git, and the clock.

use super::{Check, Status, find_program, first_line};
use crate::serve::{CONNECTION_FILE, LOCK_FILE};
use ostler_client::Client;
use std::fs::TryLockError;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The oldest git with `merge-tree --write-tree`.
const GIT: (u32, u32) = (2, 38);

/// Longest wait for a server on this host.
const ANSWER: Duration = Duration::from_secs(5);

/// A moment that has passed: 2026-01-01 in UTC, in seconds of the epoch.
const PAST: u64 = 1_767_225_600;
/// How far in the future a file may seem to be.
const AHEAD: Duration = Duration::from_secs(300);

/// Whether a server runs on this data directory and is well, or else whether its address is free.
pub(super) async fn server(listen: SocketAddr, data: &Path, checks: &mut Vec<Check>) {
    const SUBJECT: &str = "server";
    if let Some((url, health)) = running(data).await {
        let found = format!(
            "version {} at {url} is {}, since {} s",
            health.version, health.status, health.uptime_seconds
        );
        checks.push(if health.status != "ok" || !health.database {
            Check::new(
                Status::Failure,
                SUBJECT,
                found,
                "it cannot do its work",
                "look at its log; most often the database cannot be reached or its disk is full",
            )
        } else if health.version != env!("CARGO_PKG_VERSION") {
            Check::new(
                Status::Warning,
                SUBJECT,
                found,
                format!("this program is version {}", env!("CARGO_PKG_VERSION")),
                "start the server again with the newer one",
            )
        } else {
            Check::ok(SUBJECT, found)
        });
        return;
    }
    if in_use(data) {
        checks.push(Check::new(
            Status::Warning,
            SUBJECT,
            "one uses the data directory and does not answer",
            "it is starting, or is stopping and waits for its runs; another one cannot be started meanwhile",
            "wait for `executor.shutdown_seconds`, then look at its log",
        ));
        return;
    }
    let free = match TcpListener::bind(listen) {
        Ok(_) => Check::ok(SUBJECT, format!("none runs here; {listen} is free")),
        Err(error) => Check::new(
            Status::Failure,
            SUBJECT,
            format!("none runs here, and {listen} cannot be listened on: {error}"),
            "the server does not start",
            "end the program that listens there, or choose another address with --listen or the setting `listen`",
        ),
    };
    checks.push(free);
}

/// Whether a server has the lock of the data directory.
fn in_use(data: &Path) -> bool {
    let file = std::fs::File::open(data.join(LOCK_FILE));
    file.is_ok_and(|file| matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)))
}

async fn running(data: &Path) -> Option<(String, ostler_contracts::Health)> {
    let text = std::fs::read_to_string(data.join(CONNECTION_FILE)).ok()?;
    let value: serde_json::Value = serde_json::from_str(&text).ok()?;
    let url = value["url"].as_str()?;
    // Without the token: how a server is doing is no secret, and another program may listen there by now.
    let client = Client::new(url, None).ok()?;
    let health = tokio::time::timeout(ANSWER, client.health()).await.ok()?.ok()?;
    Some((url.to_owned(), health))
}

/// git and its version.
pub(super) async fn git(checks: &mut Vec<Check>) {
    const SUBJECT: &str = "git";
    let (meaning, advice) = (
        "no project can be added or worked on",
        format!("install git {}.{} or later", GIT.0, GIT.1),
    );
    let refused = |found: String| Check::new(Status::Failure, SUBJECT, found, meaning, advice.as_str());
    let check = match find_program("git") {
        None => refused("not on the path".to_owned()),
        Some(program) => match first_line(&program, "--version").await {
            Err(error) => refused(format!("{}: {error}", program.display())),
            Ok(line) if version(&line).is_some_and(|v| v >= GIT) => Check::ok(SUBJECT, line),
            Ok(line) => refused(format!("{line} is too old")),
        },
    };
    checks.push(check);
}

/// The first two numbers of the first word that is a version.
fn version(line: &str) -> Option<(u32, u32)> {
    line.split_whitespace().find_map(|word| {
        let mut parts = word.split('.');
        Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
    })
}

/// Whether the clock can be right: leases, tokens and the order of ids depend on it.
pub(super) fn clock(data: &Path, checks: &mut Vec<Check>) {
    let newest = ["ostler.db", "ostler.db-wal", "server.json", "server-id"]
        .iter()
        .filter_map(|name| data.join(name).metadata().ok()?.modified().ok())
        .max();
    checks.push(clock_at(SystemTime::now(), newest));
}

fn clock_at(now: SystemTime, newest: Option<SystemTime>) -> Check {
    const SUBJECT: &str = "clock";
    let advice = "set it, and let it be kept right (`timedatectl set-ntp true`)";
    if now < UNIX_EPOCH + Duration::from_secs(PAST) {
        return Check::new(
            Status::Failure,
            SUBJECT,
            "it is before the time at which this program was made",
            "connections by TLS are refused, and tokens and leases end wrongly",
            advice,
        );
    }
    if let Some(ahead) = newest
        .and_then(|newest| newest.duration_since(now).ok())
        .filter(|d| *d > AHEAD)
    {
        return Check::new(
            Status::Warning,
            SUBJECT,
            format!(
                "files of the data directory are {} s in the future",
                ahead.as_secs()
            ),
            "the clock went back: waiting times last longer until it has caught up",
            advice,
        );
    }
    Check::ok(SUBJECT, "plausible")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read() {
        assert_eq!(version("git version 2.39.5"), Some((2, 39)));
        assert_eq!(version("git version 2.50.1 (Apple Git-155)"), Some((2, 50)));
        assert_eq!(version("git"), None);
        assert!(version("git version 2.9.1").unwrap() < GIT);
    }

    #[test]
    fn a_clock_that_went_back_is_seen() {
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        assert_eq!(clock_at(at(5), None).status, Status::Failure);
        let now = at(PAST + 1000);
        assert_eq!(clock_at(now, Some(at(PAST + 1100))).status, Status::Ok);
        assert_eq!(clock_at(now, Some(at(PAST + 2000))).status, Status::Warning);
    }

    #[tokio::test]
    async fn an_address_in_use_is_a_failure() {
        let dir = tempfile::tempdir().unwrap();
        let taken = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let mut checks = Vec::new();
        server(taken.local_addr().unwrap(), dir.path(), &mut checks).await;
        assert_eq!(checks[0].status, Status::Failure, "{checks:?}");
        // A file of a server that is gone misleads nobody.
        std::fs::write(
            dir.path().join(CONNECTION_FILE),
            format!("{{\"url\":\"http://{}\"}}", SocketAddr::from(([127, 0, 0, 1], 1))),
        )
        .unwrap();
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        server(any, dir.path(), &mut checks).await;
        assert_eq!(checks[1].status, Status::Ok, "{checks:?}");
        // One that is stopping does not answer.
        let lock = std::fs::File::create(dir.path().join(LOCK_FILE)).unwrap();
        lock.lock().unwrap();
        server(any, dir.path(), &mut checks).await;
        assert_eq!(checks[2].status, Status::Warning, "{checks:?}");
    }
}
