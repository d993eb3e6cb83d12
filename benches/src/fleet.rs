//! P9: what a server needs to look after many sandboxes that do nothing.

use crate::service::{Refill, Service};
use crate::startup::resident;
use anyhow::{Context, Result, ensure};
use reqwest::Method;
use serde_json::json;
use std::path::Path;
use std::time::{Duration, Instant};

/// Sandboxes of the two measurements.
pub(crate) const FEW: usize = 1_000;
pub(crate) const MANY: usize = 10_000;
/// Of a health check, by default.
const HEALTH: f64 = 10.0;
/// After the pool was filled.
const SETTLE: Duration = Duration::from_secs(5);

/// What was seen of a server with so many sandboxes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fleet {
    pub(crate) sandboxes: usize,
    /// Of one core.
    pub(crate) cpu_percent: f64,
    pub(crate) resident_mb: f64,
    pub(crate) seconds: f64,
}

/// Fills a pool of the sim driver and leaves the server alone for `window`, in which every sandbox is checked again and
/// again, and sampled.
pub(crate) async fn watch(program: &Path, data: &Path, count: usize, window: Duration) -> Result<Fleet> {
    let settings =
        "[drivers]\nsim = true\nprocess = false\ndocker = false\nqemu = false\nfirecracker = false\n";
    let service = Service::start(program, data, settings).await?;
    let watched = watched(&service, count, window).await;
    service.stop().await?;
    watched
}

async fn watched(service: &Service, count: usize, window: Duration) -> Result<Fleet> {
    let sim = json!({ "driver": "sim" });
    let filling = Instant::now();
    service.pool("sim", &sim, (count, count), Refill::AtOnce).await?;
    eprintln!(
        "    {count} sandboxes after {:.1} s",
        filling.elapsed().as_secs_f64()
    );
    tokio::time::sleep(SETTLE).await;
    let pid = service.process()?;
    let (before, start) = (cpu_seconds(pid)?, Instant::now());
    tokio::time::sleep(window).await;
    let (used, seconds) = (cpu_seconds(pid)? - before, start.elapsed().as_secs_f64());
    let resident_mb = resident(pid)?;
    // That they were looked at is part of the measurement.
    let now = jiff::Timestamp::now();
    let (_, all) = service.call(Method::GET, "/sandboxes", None).await?;
    let all = all.as_array().context("no list of sandboxes")?;
    let lately = |sandbox: &serde_json::Value| -> Option<bool> {
        let checked: jiff::Timestamp = sandbox["checked_at"].as_str()?.parse().ok()?;
        Some(now.duration_since(checked).as_secs_f64() < 1.5 * HEALTH)
    };
    let ours = all.iter().filter(|sandbox| sandbox["pool"] == "sim");
    let checked = ours.filter(|sandbox| lately(sandbox) == Some(true)).count();
    ensure!(
        checked == count,
        "{checked} of {count} sandboxes were checked within the last {} seconds",
        1.5 * HEALTH
    );
    Ok(Fleet {
        sandboxes: count,
        cpu_percent: used / seconds * 100.0,
        resident_mb,
        seconds,
    })
}

/// Processor time of a process so far, in user and in kernel mode.
fn cpu_seconds(pid: u32) -> Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name of the program, in brackets, may hold anything.
    let (_, fields) = stat.rsplit_once(") ").context("no process")?;
    let ticks: f64 = fields
        .split(' ')
        .skip(11)
        .take(2)
        .filter_map(|field| field.parse::<f64>().ok())
        .sum();
    let second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)?.context("no clock ticks")?;
    Ok(ticks / second as f64)
}
