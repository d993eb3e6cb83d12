//! The docker driver: every engine, the images that pools name, and what builds images.

use super::{Look, required, said, started};
use crate::doctor::{Check, LIMIT, Status, find_program};
use crate::drivers::{self, template};
use crate::images;
use ostler_domain::DriverKind;
use ostler_driver_docker::{DockerDriver, DockerOptions};
use ostler_sandbox::Driver;
use std::collections::BTreeSet;

/// Looks at all engines. Whether sandboxes can be containers of one of them.
pub(super) async fn look(look: &Look<'_>, checks: &mut Vec<Check>) -> bool {
    let settings = &look.settings.drivers.docker;
    let mut usable = false;
    if let Some(driver) = engine(look, "docker", look.place.docker(settings), checks).await {
        building(look, &driver, checks).await;
        usable |= containers(look, "docker", &driver, checks).await;
    }
    for (name, further) in &settings.hosts {
        let on = format!("docker on {name}:");
        let options = look.place.remote_docker(settings, name, further);
        if let Some(driver) = engine(look, &on, options, checks).await {
            usable |= containers(look, &on, &driver, checks).await;
        }
    }
    usable
}

/// Reaches an engine and tells of it.
async fn engine(
    look: &Look<'_>,
    on: &str,
    options: DockerOptions,
    checks: &mut Vec<Check>,
) -> Option<DockerDriver> {
    let missing = required(look.settings.drivers.docker.enabled);
    let subject = format!("{on} engine");
    let driver = match drivers::docker(options, LIMIT).await {
        Ok(driver) => driver,
        Err(error) => {
            let (meaning, off) = if on == "docker" {
                (
                    "sandboxes cannot be containers; pools of them wait",
                    "if no engine is wanted, set `drivers.docker.enabled = false`",
                )
            } else {
                (
                    "nothing is started on that host; the server tries it again by itself",
                    "if it is not wanted any more, take it out of `drivers.docker.hosts`",
                )
            };
            let advice = if missing == Status::Failure { "" } else { off };
            checks.push(Check::new(missing, &subject, said(error), meaning, advice));
            return None;
        }
    };
    for finding in driver.probe().await {
        checks.push(match (finding.subject.as_str(), finding.ok) {
            ("engine", true) => Check::ok(&subject, finding.detail),
            (other, true) => Check::ok(&format!("{on} {other}"), finding.detail),
            (other, false) => {
                let meaning = if other.ends_with("certificate") {
                    "the engine cannot be used from then on"
                } else {
                    "pools that ask for it are refused"
                };
                Check::new(
                    Status::Warning,
                    &format!("{on} {other}"),
                    finding.detail,
                    meaning,
                    "",
                )
            }
        });
    }
    Some(driver)
}

/// Looks for the images of the pools, and starts a container.
async fn containers(look: &Look<'_>, on: &str, driver: &DockerDriver, checks: &mut Vec<Check>) -> bool {
    let settings = &look.settings.drivers.docker;
    let missing = required(settings.enabled);
    let of_pools = look.pools(DriverKind::Docker);
    let images: BTreeSet<String> = of_pools
        .filter_map(|pool| pool.template.image.clone())
        .chain(settings.image.clone())
        .collect();
    let subject = format!("{on} image");
    let mut present = None;
    for image in &images {
        match driver.has_image(image).await {
            Ok(true) => {
                checks.push(Check::ok(&subject, format!("{image} is at the engine")));
                present = Some(image.as_str());
            }
            Ok(false) if settings.pull => checks.push(Check::ok(
                &subject,
                format!("{image} is not at the engine yet; it is pulled when it is first needed"),
            )),
            Ok(false) => checks.push(Check::new(
                Status::Warning,
                &subject,
                format!("the engine has no image {image}"),
                "sandboxes of it do not start",
                format!(
                    "get it with `docker pull {image}`, load it with `docker load -i FILE`, or build one with `ostler \
                     image build`"
                ),
            )),
            Err(error) => checks.push(Check::new(missing, &subject, said(error), "", "")),
        }
    }
    match present {
        Some(image) => {
            let template = template(driver, Some(image));
            started(driver, &format!("{on} sandbox"), template, LIMIT, missing, checks).await
        }
        None if images.is_empty() => {
            checks.push(Check::ok(
                &subject,
                "none is named: containers need a pool with an image, or `drivers.docker.image`",
            ));
            false
        }
        None => false,
    }
}

/// Whether images can be built at this engine, and root drives made of them.
async fn building(look: &Look<'_>, driver: &DockerDriver, checks: &mut Vec<Check>) {
    const SUBJECT: &str = "image building";
    let options = images::options(&look.settings.images, look.place, &look.place.sandboxes);
    if let Err(error) = driver.images(options).await {
        let meaning = "images cannot be built";
        checks.push(Check::new(
            Status::Warning,
            SUBJECT,
            error.to_string(),
            meaning,
            "",
        ));
        return;
    }
    let programs = [
        (
            "mmdebstrap",
            "mmdebstrap, which makes the base of images",
            "mmdebstrap",
        ),
        ("mke2fs", "mke2fs, which makes root drives of images", "e2fsprogs"),
    ];
    let absent: Vec<String> = programs
        .iter()
        .filter(|(program, ..)| {
            find_program(program).is_none() && find_program(&format!("/usr/sbin/{program}")).is_none()
        })
        .map(|(_, what, package)| format!("{what}, is missing: `apt-get install {package}`"))
        .collect();
    checks.push(if absent.is_empty() {
        Check::ok(
            SUBJECT,
            "with this engine, mmdebstrap and mke2fs (`ostler image build`)",
        )
    } else {
        Check::info(
            SUBJECT,
            absent.join("; "),
            "sandboxes start all the same, from images that are there",
        )
    });
}
