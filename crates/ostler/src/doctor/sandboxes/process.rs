//! The process driver.

use super::{Look, required, said, started};
use crate::doctor::{Check, LIMIT, Status};
use crate::drivers::template;
use crate::settings::Separation;
use ostler_driver_process::{Mode, ProcessDriver, ProcessOptions};
use ostler_sandbox::Driver;

/// Looks at what it needs and starts a sandbox. Whether it can be used.
pub(super) async fn look(look: &Look<'_>, checks: &mut Vec<Check>) -> bool {
    let settings = &look.settings.drivers.process;
    let missing = required(settings.enabled);
    let apart = settings.separation == Separation::Namespaces;
    // Opened even without bubblewrap, so that everything that is missing is told at once.
    let options = ProcessOptions {
        mode: match settings.separation {
            Separation::Plain => Mode::Plain,
            Separation::Namespaces | Separation::Auto => Mode::Auto,
        },
        ..look.place.process(settings)
    };
    let driver = match ProcessDriver::open(options).await {
        Ok(driver) => driver,
        Err(error) => {
            checks.push(Check::new(
                missing,
                "process driver",
                said(error),
                "it cannot be used",
                "",
            ));
            return false;
        }
    };
    let mut complete = true;
    for finding in driver.probe().await {
        let (subject, needed, meaning) = match finding.subject.as_str() {
            "namespaces" => (
                "bubblewrap",
                apart,
                "the process driver cannot keep sandboxes apart, so it is not used",
            ),
            "cgroups" => (
                "cgroups",
                settings.limits,
                "CPU time and memory of sandboxes cannot be limited, so the process driver starts none unless \
                 `drivers.process.limits = false`",
            ),
            // Looked at for all drivers together.
            "filtered network" => continue,
            "disk limits" if !finding.ok => {
                let meaning = "pools of the process driver with a disk limit are refused";
                checks.push(Check::info("process disk limits", finding.detail, meaning));
                continue;
            }
            "disk limits" => ("process disk limits", false, ""),
            other => (other, true, "the process driver cannot be used"),
        };
        complete &= finding.ok || !needed;
        if subject == "bubblewrap" && !finding.ok && !needed {
            let meaning = "agents can read and change all that this user can";
            checks.push(Check::new(Status::Warning, subject, finding.detail, meaning, ""));
            continue;
        }
        checks.push(if finding.ok || !needed {
            Check::ok(subject, finding.detail)
        } else {
            Check::new(missing, subject, finding.detail, meaning, "")
        });
    }
    let template = template(&driver, None);
    complete && started(&driver, "process sandbox", template, LIMIT, missing, checks).await
}
