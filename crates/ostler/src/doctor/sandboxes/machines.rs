//! The drivers of virtual machines. Few hosts have them, so that one which nobody asked for is no more than told.

use super::{Look, said, started};
use crate::doctor::{Check, Status};
use crate::settings::Enabled;
use ostler_domain::DriverKind;
use ostler_driver_firecracker::FirecrackerDriver;
use ostler_driver_qemu::QemuDriver;
use ostler_sandbox::{Driver, DriverError, Finding};
use std::path::Path;
use std::time::Duration;

/// Longest wait for all that is looked at: finding out whether KVM works takes some seconds, once for each boot of a host.
const PROBE: Duration = Duration::from_secs(60);
/// Longest wait for a machine, which is slow without KVM.
const START: Duration = Duration::from_secs(60);
/// What the qemu driver has found out about KVM.
const KNOWN: &str = "qemu/accelerator.json";

/// Looks at the qemu driver. Whether it can be used.
pub(super) async fn qemu(look: &Look<'_>, checks: &mut Vec<Check>) -> bool {
    let settings = &look.settings.drivers.qemu;
    let options = match look.place.qemu(settings) {
        Ok(options) => options,
        Err(error) => {
            let meaning = "the server does not start";
            checks.push(Check::new(
                Status::Failure,
                "qemu driver",
                error.to_string(),
                meaning,
                "",
            ));
            return false;
        }
    };
    // What the server has found out holds here, too, and the other way round.
    let (servers, own) = (
        look.data.join("sandboxes").join(KNOWN),
        look.place.sandboxes.join(KNOWN),
    );
    hand_on(&servers, &own);
    let opened = QemuDriver::open(options).await;
    let usable = driver(look, DriverKind::Qemu, settings.enabled, opened, checks).await;
    if !servers.exists() && servers.parent().is_some_and(Path::exists) {
        hand_on(&own, &servers);
    }
    usable
}

/// Without it things take longer, that is all.
fn hand_on(from: &Path, to: &Path) {
    let copy = || {
        std::fs::create_dir_all(to.parent()?).ok()?;
        std::fs::copy(from, to).ok()
    };
    if from.exists() {
        let _ = copy();
    }
}

/// Looks at the firecracker driver. Whether it can be used.
pub(super) async fn firecracker(look: &Look<'_>, checks: &mut Vec<Check>) -> bool {
    let settings = &look.settings.drivers.firecracker;
    let opened = FirecrackerDriver::open(look.place.firecracker(settings)).await;
    driver(look, DriverKind::Firecracker, settings.enabled, opened, checks).await
}

async fn driver<D: Driver>(
    look: &Look<'_>,
    kind: DriverKind,
    enabled: Enabled,
    opened: Result<D, DriverError>,
    checks: &mut Vec<Check>,
) -> bool {
    let subject = format!("{kind} driver");
    let missing = match enabled {
        Enabled::Yes => Status::Failure,
        _ if look.pools(kind).next().is_some() => Status::Warning,
        _ => Status::Info,
    };
    let meaning = if missing == Status::Info {
        "nothing asks for it; other drivers are enough"
    } else {
        "its pools cannot be filled"
    };
    let driver = match opened {
        Ok(driver) => driver,
        Err(error) => {
            checks.push(Check::new(missing, &subject, said(error), meaning, ""));
            return false;
        }
    };
    let Ok(findings) = tokio::time::timeout(PROBE, driver.probe()).await else {
        let found = format!("it could not be looked at within {PROBE:?}");
        checks.push(Check::new(missing, &subject, found, meaning, ""));
        return false;
    };
    let absent: Vec<&Finding> = findings.iter().filter(|finding| !finding.ok).collect();
    if !absent.is_empty() && missing == Status::Info {
        let all: Vec<String> = absent
            .iter()
            .map(|finding| format!("{}: {}", finding.subject, finding.detail))
            .collect();
        checks.push(Check::info(&subject, all.join("; "), meaning));
        return false;
    }
    for finding in &findings {
        let subject = format!("{kind} {}", finding.subject);
        checks.push(if finding.ok {
            Check::ok(&subject, finding.detail.as_str())
        } else {
            Check::new(missing, &subject, finding.detail.as_str(), meaning, "")
        });
    }
    if !absent.is_empty() {
        return false;
    }
    let subject = format!("{kind} sandbox");
    // A machine needs a root drive, and only pools name some.
    let mut templates = look
        .pools(kind)
        .map(|pool| &pool.template)
        .filter(|template| template.snapshot.is_none());
    let Some(template) = templates.find(|template| driver.check(template).is_ok()) else {
        checks.push(Check::ok(
            &subject,
            format!(
                "none was tried: that takes a pool with a root drive (`ostler image export`, `ostler pool set NAME \
                 --driver {kind} --root-drive FILE`)"
            ),
        ));
        return true;
    };
    started(&driver, &subject, template.clone(), START, missing, checks).await
}
