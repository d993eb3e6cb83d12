//! Checks of the workspace itself: `cargo run -p xtask -- direction`.

use anyhow::{Context, bail};
use std::collections::{BTreeMap, BTreeSet};

/// Which room may depend on which: the arrows of ARCHITECTURE.md, without what follows from them. Dependencies of tests
/// are free.
const ARROWS: &[(&str, &[&str])] = &[
    ("domain", &[]),
    ("contracts", &["domain"]),
    ("guest-protocol", &[]),
    ("guest", &["guest-protocol"]),
    ("guest-binary", &[]),
    ("store", &["domain"]),
    ("store-sqlite", &["store"]),
    ("store-postgres", &["store"]),
    ("sandbox", &["domain", "guest-protocol"]),
    ("egress", &["domain"]),
    ("host-network", &["egress"]),
    ("driver-sim", &["sandbox"]),
    ("driver-process", &["sandbox", "host-network"]),
    ("driver-docker", &["sandbox", "host-network"]),
    ("driver-qemu", &["sandbox", "host-network"]),
    ("driver-firecracker", &["sandbox"]),
    ("agents", &["domain"]),
    ("forge", &["domain"]),
    ("reports", &[]),
    ("artifacts", &["domain"]),
    ("gateway", &["domain"]),
    ("plans", &["domain"]),
    (
        "control",
        &[
            "contracts",
            "artifacts",
            "store",
            "sandbox",
            "agents",
            "forge",
            "gateway",
            "egress",
            "plans",
            "reports",
        ],
    ),
    ("server", &["control"]),
    ("client", &["contracts"]),
    ("cli", &["client", "reports"]),
    ("ostler", &["*"]),
    ("test-kit", &["*"]),
    ("benches", &["*"]),
];

fn main() -> anyhow::Result<()> {
    match std::env::args().nth(1).as_deref() {
        Some("direction") => direction(),
        _ => bail!("usage: cargo run -p xtask -- direction"),
    }
}

/// Everything that a room may depend on, directly or through others.
fn reachable(arrows: &BTreeMap<&str, &[&str]>, room: &str) -> anyhow::Result<BTreeSet<String>> {
    let direct = arrows
        .get(room)
        .with_context(|| format!("the room {room} has no entry in xtask/src/main.rs"))?;
    let mut all = BTreeSet::new();
    for next in *direct {
        all.insert((*next).to_owned());
        if *next != "*" {
            all.extend(reachable(arrows, next)?);
        }
    }
    Ok(all)
}

fn direction() -> anyhow::Result<()> {
    let arrows: BTreeMap<&str, &[&str]> = ARROWS.iter().copied().collect();
    let metadata = cargo_metadata::MetadataCommand::new().no_deps().exec()?;
    let mut wrong = Vec::new();
    let mut seen = 0;
    for package in &metadata.packages {
        if package.name.as_str() == "xtask" {
            continue;
        }
        let room = package
            .name
            .strip_prefix("ostler-")
            .unwrap_or(package.name.as_str());
        let allowed = reachable(&arrows, room)?;
        for dependency in &package.dependencies {
            let Some(other) = dependency.name.strip_prefix("ostler-") else {
                continue;
            };
            seen += 1;
            let free = dependency.kind != cargo_metadata::DependencyKind::Normal;
            if !free && !allowed.contains("*") && !allowed.contains(other) {
                wrong.push(format!("{room} → {other}"));
            }
        }
    }
    if !wrong.is_empty() {
        bail!(
            "these arrows are not in the plan of the house (ARCHITECTURE.md): {}",
            wrong.join(", ")
        );
    }
    println!("{seen} arrows between rooms, all of them in the plan");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plan_has_no_circle_and_no_unknown_room() {
        let arrows: BTreeMap<&str, &[&str]> = ARROWS.iter().copied().collect();
        for room in arrows.keys() {
            let all = reachable(&arrows, room).unwrap();
            assert!(!all.contains(*room), "{room} depends on itself");
        }
    }
}
