//! What sandboxes with a filtered network need: the packet filter of this host and the egress filter of the server.

use super::{Look, required};
use crate::doctor::{Check, LIMIT, Status};
use crate::drivers::Place;
use crate::settings::Enabled;
use ostler_domain::{NetworkPolicy, SandboxId};
use ostler_egress::{Denials, Proxy};
use ostler_host_network::{HostNetwork, NetworkError, NetworkOptions};
use std::time::Instant;

fn options(place: &Place, range: &str) -> Result<NetworkOptions, String> {
    Ok(NetworkOptions {
        spare: 0,
        range: range.parse().map_err(|error: NetworkError| error.to_string())?,
        ..NetworkOptions::new(&place.instance, place.sandboxes.join("network"))
    })
}

/// Makes a network for a sandbox and removes it, and looks at what the proxy needs.
pub(super) async fn look(look: &Look<'_>, checks: &mut Vec<Check>) {
    let settings = &look.settings.egress;
    let asked = look
        .pools
        .iter()
        .any(|pool| pool.template.network == NetworkPolicy::Filtered);
    let proxy = settings.options().and_then(|options| {
        let made = Proxy::new(options, Denials::channel(1).0);
        made.map_err(anyhow::Error::from)
    });
    checks.push(match proxy {
        Ok(_) => Check::ok(
            "egress filter",
            "sandboxes with a filtered network reach what their pool allows",
        ),
        Err(error) => Check::new(
            if asked { Status::Warning } else { Status::Info },
            "egress filter",
            format!("{error:#}"),
            "sandboxes with a filtered network reach nothing",
            "",
        ),
    });
    let wanted = settings.interfaces;
    let tried = match options(look.place, &settings.range) {
        Ok(options) => tokio::time::timeout(LIMIT, trial(options))
            .await
            .unwrap_or_else(|_| Err(format!("a trial interface was not made within {LIMIT:?}"))),
        Err(error) => Err(error),
    };
    checks.push(match (tried, wanted) {
        (Ok(took), Enabled::No) => Check::ok(
            "host network",
            format!("not used; `egress.interfaces = true` would work here ({took})"),
        ),
        (Ok(took), _) => Check::ok("host network", took),
        (Err(why), _) => Check::new(
            match wanted {
                Enabled::Yes => required(wanted),
                _ => Status::Info,
            },
            "host network",
            why,
            "sandboxes have no interface: a filtered network is the proxy on their loopback alone",
            "",
        ),
    });
}

async fn trial(options: NetworkOptions) -> Result<String, String> {
    let network = HostNetwork::open(options)
        .await
        .map_err(|error| error.to_string())?;
    let begun = Instant::now();
    let id = SandboxId::new();
    let made = network.acquire(id, &[]).await;
    let took = begun.elapsed();
    let released = network.release(id).await;
    let closed = network.close().await;
    made.map(drop)
        .and(released)
        .and(closed)
        .map_err(|error| error.to_string())?;
    Ok(format!(
        "a trial interface behind the packet filter was made in {} ms",
        took.as_millis()
    ))
}

/// Removes what a doctor that was killed has left.
pub(super) async fn empty(place: &Place, range: &str) -> Result<(), String> {
    let options = options(place, range)?;
    if !options.state_dir.exists() {
        return Ok(());
    }
    let said = |error: NetworkError| error.to_string();
    let network = HostNetwork::open(options).await.map_err(said)?;
    for id in network.holders() {
        network.release(id).await.map_err(said)?;
    }
    network.close().await.map_err(said)
}
