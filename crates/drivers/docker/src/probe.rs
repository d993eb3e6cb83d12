//! What the engine can do, and what its operator should know.

use crate::driver::Inner;
use crate::engine::{CALL_LIMIT, CallError, Engine, call, distrust, tls_cause};
use crate::options::TlsFiles;
use crate::{container, expiry, transport};
use bollard::models::{ContainerCreateBody, HostConfig, SystemInfo};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, ListImagesOptions, RemoveContainerOptionsBuilder,
};
use jiff::Timestamp;
use ostler_domain::NetworkPolicy;
use ostler_sandbox::Finding;
use std::collections::HashMap;

/// Certificates that end sooner than this are worth a word.
const SOON_DAYS: i64 = 14;

/// Why containers of this engine cannot run the guest program.
pub(crate) fn foreign(info: &SystemInfo) -> Option<String> {
    let own = std::env::consts::ARCH;
    let (system, machine) = (
        info.os_type.as_deref().unwrap_or("linux"),
        info.architecture.as_deref().unwrap_or(own),
    );
    if system != "linux" {
        return Some(format!(
            "runs containers of {system}: switch it to Linux containers"
        ));
    }
    (machine != own).then(|| {
        format!("is on a machine of {machine}, and the guest program of this server is for {own}: run a server there")
    })
}

/// Why disk use cannot be limited; `None` if it can. Storage drivers that may be able to are tried, with a container that
/// is never started.
pub(crate) async fn disk_limit(
    engine: &Engine,
    instance: &str,
    info: &SystemInfo,
) -> Result<Option<String>, CallError> {
    if let Some(why) = never_limits(info) {
        return Ok(Some(why));
    }
    let images = call(CALL_LIMIT, engine.api.list_images(None::<ListImagesOptions>)).await?;
    let Some(image) = images.into_iter().next() else {
        return Ok(Some(
            "the engine has no image to try it with: get one and start again".into(),
        ));
    };
    let name = format!("ostler-{instance}-probe");
    remove(engine, &name).await?;
    let options = CreateContainerOptionsBuilder::default().name(&name).build();
    let body = ContainerCreateBody {
        image: Some(image.id),
        cmd: Some(vec!["never".into()]),
        labels: Some(HashMap::from([(
            container::INSTANCE.to_owned(),
            instance.to_owned(),
        )])),
        host_config: Some(HostConfig {
            storage_opt: Some(HashMap::from([("size".to_owned(), "64m".to_owned())])),
            ..HostConfig::default()
        }),
        ..ContainerCreateBody::default()
    };
    let tried = call(CALL_LIMIT, engine.api.create_container(Some(options), body)).await;
    remove(engine, &name).await?;
    match tried {
        Ok(_) => Ok(None),
        Err(CallError::Refused(why) | CallError::Missing(why) | CallError::Conflict(why)) => Ok(Some(why)),
        Err(e) => Err(e),
    }
}

async fn remove(engine: &Engine, name: &str) -> Result<(), CallError> {
    let options = RemoveContainerOptionsBuilder::default()
        .force(true)
        .v(true)
        .build();
    match call(CALL_LIMIT, engine.api.remove_container(name, Some(options))).await {
        Ok(()) | Err(CallError::Missing(_) | CallError::Conflict(_)) => Ok(()),
        Err(e) => Err(e),
    }
}

/// Why the storage driver is one that limits nothing, whatever it is asked.
fn never_limits(info: &SystemInfo) -> Option<String> {
    let driver = info.driver.as_deref().unwrap_or("unknown");
    let below = info
        .driver_status
        .iter()
        .flatten()
        .find(|pair| pair.first().is_some_and(|name| name == "Backing Filesystem"))
        .and_then(|pair| pair.get(1))
        .map_or("unknown", String::as_str);
    match driver {
        "btrfs" | "zfs" => None,
        "overlay2" if below == "xfs" => None,
        "overlay2" => Some(format!(
            "storage driver overlay2 on {below}: disk limits need its data on xfs that is mounted with `pquota`"
        )),
        other => Some(format!(
            "storage driver {other}: disk limits need overlay2 on xfs that is mounted with `pquota`, btrfs or zfs"
        )),
    }
}

/// Looks at everything.
pub(crate) async fn findings(inner: &Inner) -> Vec<Finding> {
    let engine = &inner.engine;
    let can = &inner.capabilities;
    let version = call(CALL_LIMIT, engine.api.version()).await;
    let info = call(CALL_LIMIT, engine.api.info()).await.unwrap_or_default();
    let mut findings = vec![finding(
        "engine",
        version
            .map(|version| {
                format!(
                    "version {}, API {}, at {}{}",
                    version.version.as_deref().unwrap_or("unknown"),
                    version.api_version.as_deref().unwrap_or("unknown"),
                    engine.url,
                    if engine.remote { ", on another machine" } else { "" }
                )
            })
            .map_err(|e| engine.unavailable(e).to_string()),
    )];
    let cgroups = format!(
        "cgroup driver {}, cgroups {}",
        info.cgroup_driver
            .map_or_else(|| "unknown".to_owned(), |d| d.to_string()),
        info.cgroup_version
            .map_or_else(|| "unknown".to_owned(), |v| format!("version {v}")),
    );
    findings.push(finding(
        "limits",
        if can.cpu_limit && can.memory_limit {
            Ok(format!("CPU time and memory can be limited ({cgroups})"))
        } else {
            Err(format!(
                "the engine cannot limit CPU time or memory ({cgroups}): give it cgroups (see `docker info`)"
            ))
        },
    ));
    // Not a fault: only templates with a limit need it.
    findings.push(finding(
        "storage",
        Ok(match &inner.no_disk_limit {
            None => format!(
                "disk use can be limited ({})",
                info.driver.as_deref().unwrap_or("unknown")
            ),
            Some(why) => format!("disk use cannot be limited ({why})"),
        }),
    ));
    findings.push(finding(
        "network",
        if can.networks.contains(&NetworkPolicy::Open) {
            Ok("policies none, filtered and open".into())
        } else {
            Err(
                "policies none and filtered only: the engine has no network `bridge` (it runs with `--bridge=none`)"
                    .into(),
            )
        },
    ));
    let unknown: Vec<&str> = inner
        .options
        .devices
        .keys()
        .filter(|name| !can.devices.contains(*name))
        .map(String::as_str)
        .collect();
    if !unknown.is_empty() {
        findings.push(finding(
            "devices",
            Err(format!(
                "this host has no {}: load their modules, or take them out of the settings",
                unknown.join(", ")
            )),
        ));
    }
    if let (Some(port), Some(files)) = (&engine.port, &inner.options.tls) {
        let shown = match port.certificate().await {
            Ok(shown) => ends("the engine's", shown.as_deref()),
            Err(e) => Err(match tls_cause(&e) {
                Some(cause) => distrust(cause),
                None => format!("the engine's certificate cannot be seen: {e}"),
            }),
        };
        findings.push(finding("engine's certificate", shown));
        findings.push(finding("own certificate", own_certificate(files)));
    }
    findings
}

fn own_certificate(files: &TlsFiles) -> Result<String, String> {
    let certificates = transport::certificates(&files.cert)?;
    ends(
        &files.cert.display().to_string(),
        certificates.first().map(AsRef::as_ref),
    )
}

fn ends(whose: &str, certificate: Option<&[u8]>) -> Result<String, String> {
    let Some(end) = certificate.and_then(expiry::not_after) else {
        return Err(format!(
            "{whose}: it is not told until when it is valid: make it anew"
        ));
    };
    until(whose, end, Timestamp::now())
}

fn until(whose: &str, end: Timestamp, now: Timestamp) -> Result<String, String> {
    let days = (end.as_second() - now.as_second()).div_euclid(24 * 3600);
    let date = end.strftime("%Y-%m-%d");
    if days < 0 {
        Err(format!("{whose} has expired on {date}: renew it"))
    } else if days < SOON_DAYS {
        Err(format!("{whose} expires on {date}, in {days} days: renew it"))
    } else {
        Ok(format!("{whose} is valid until {date}"))
    }
}

fn finding(subject: &str, found: Result<String, String>) -> Finding {
    let ok = found.is_ok();
    Finding {
        subject: subject.into(),
        ok,
        detail: found.unwrap_or_else(|why| why),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn storage(driver: &str, below: &str) -> Option<String> {
        never_limits(&SystemInfo {
            driver: Some(driver.into()),
            driver_status: Some(vec![vec!["Backing Filesystem".into(), below.into()]]),
            ..SystemInfo::default()
        })
    }

    #[test]
    fn storage_that_limits_nothing_is_known_and_said_with_what_would() {
        assert_eq!(storage("overlay2", "xfs"), None);
        assert_eq!(storage("btrfs", "btrfs"), None);
        for (driver, below) in [("overlay2", "extfs"), ("vfs", "xfs"), ("overlayfs", "xfs")] {
            let why = storage(driver, below).unwrap();
            assert!(why.contains(driver) && why.contains("pquota"), "{why}");
        }
    }

    #[test]
    fn engines_that_cannot_run_the_guest_are_refused() {
        let engine = |system: &str, machine: &str| {
            foreign(&SystemInfo {
                os_type: Some(system.into()),
                architecture: Some(machine.into()),
                ..SystemInfo::default()
            })
        };
        assert_eq!(engine("linux", std::env::consts::ARCH), None);
        assert!(
            engine("windows", std::env::consts::ARCH)
                .unwrap()
                .contains("Linux")
        );
        assert!(engine("linux", "sparc").unwrap().contains("sparc"));
    }

    #[test]
    fn certificates_that_end_soon_are_told() {
        let now: Timestamp = "2030-01-01T12:00:00Z".parse().unwrap();
        let end = |text: &str| until("it", text.parse().unwrap(), now);
        assert_eq!(
            end("2030-06-01T00:00:00Z").unwrap(),
            "it is valid until 2030-06-01"
        );
        let soon = end("2030-01-04T00:00:00Z").unwrap_err();
        assert!(soon.contains("in 2 days: renew"), "{soon}");
        let over = end("2029-12-31T00:00:00Z").unwrap_err();
        assert!(over.contains("has expired on 2029-12-31"), "{over}");
    }
}
