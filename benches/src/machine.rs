//! The machine and the versions, as they go into the report.

use crate::servers::version;
use std::path::Path;
use std::process::Command;

/// Lines of `name: value`.
pub(crate) fn describe(directory: &Path, peers: Option<&Path>) -> Vec<(&'static str, String)> {
    let mut lines = vec![
        ("Processor", processor()),
        ("Memory", memory()),
        ("Kernel", kernel()),
        ("File system of the databases", file_system(directory)),
        ("Ostler", ostler()),
        ("PostgreSQL", version("postgres", "--version")),
        ("SQLite, inside Ostler", rusqlite::version().to_owned()),
        ("Rust", version("rustc", "--version")),
    ];
    if let Some(peers) = peers {
        lines.push(("Redis", version("redis-server", "--version")));
        let node = peers.join("lib/node");
        lines.push(("Node.js", version(&node.to_string_lossy(), "--version")));
        let python = peers.join(".venv/bin/python");
        lines.push(("Python", version(&python.to_string_lossy(), "--version")));
    }
    lines
}

/// What the processors have done since the machine was started.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Usage {
    busy: f64,
    total: f64,
}

impl Usage {
    pub(crate) fn now() -> Self {
        let text = std::fs::read_to_string("/proc/stat").unwrap_or_default();
        let line = text.lines().next().unwrap_or_default();
        let times: Vec<f64> = line
            .split_whitespace()
            .skip(1)
            .take(8)
            .flat_map(str::parse)
            .collect();
        let total: f64 = times.iter().sum();
        // The fourth and fifth: idle, and idle while the disk works.
        let idle: f64 = times.iter().skip(3).take(2).sum();
        Self {
            busy: total - idle,
            total,
        }
    }

    pub(crate) fn busy_percent_since(self, before: Self) -> f64 {
        (self.busy - before.busy) / (self.total - before.total).max(1.0) * 100.0
    }
}

fn field(file: &str, name: &str) -> Option<String> {
    let text = std::fs::read_to_string(file).ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

fn processor() -> String {
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let model = field("/proc/cpuinfo", "model name").unwrap_or_else(|| std::env::consts::ARCH.to_owned());
    let guest = field("/proc/cpuinfo", "flags").is_some_and(|flags| flags.contains("hypervisor"));
    let kind = if guest { ", virtual machine" } else { "" };
    format!("{model}, {cores} cores{kind}")
}

fn memory() -> String {
    let kilobytes = field("/proc/meminfo", "MemTotal")
        .and_then(|text| text.split(' ').next()?.parse::<f64>().ok())
        .unwrap_or(f64::NAN);
    format!("{:.0} GiB", kilobytes / f64::from(1 << 20))
}

/// Without what the one who built it added.
fn kernel() -> String {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let number: String = release
        .chars()
        .take_while(|c| c.is_ascii_digit() || *c == '.')
        .collect();
    format!("Linux {number}")
}

fn file_system(directory: &Path) -> String {
    let done = Command::new("stat")
        .args(["-f", "-c", "%T"])
        .arg(directory)
        .output();
    done.map(|done| String::from_utf8_lossy(&done.stdout).trim().to_owned())
        .unwrap_or_default()
}

fn ostler() -> String {
    let git = |arguments: &[&str]| {
        let done = Command::new("git").args(arguments).output().ok()?;
        done.status
            .success()
            .then(|| String::from_utf8_lossy(&done.stdout).trim().to_owned())
    };
    let package = env!("CARGO_PKG_VERSION");
    match git(&["rev-parse", "--short=10", "HEAD"]) {
        Some(commit) => {
            let changed = git(&[
                "status",
                "--porcelain",
                "--untracked-files=no",
                "--",
                "crates",
                "benches/src",
            ])
            .is_none_or(|text| !text.is_empty());
            let changed = if changed { " with changes" } else { "" };
            format!("{package}, commit {commit}{changed}")
        }
        None => package.to_owned(),
    }
}
