//! What QEMU tells by itself: how the machine ended. Over a connection of its own, since the other one is made anew for
//! each piece of work.

use crate::error::{At, Error};
use crate::qmp::Qmp;
use ostler_sandbox::MachineEnd;
use ostler_sandbox::notes::save;
use serde_json::Value;
use std::path::Path;
use std::time::Duration;

/// Waits for the end of the machine and notes in `note` how it came about, until QEMU itself ends.
pub(crate) async fn follow(socket: &Path, limit: Duration, note: &Path) -> Result<(), Error> {
    let mut qmp = Qmp::connect(socket, limit).await?;
    while let Some(event) = qmp.event().await? {
        if let Some(end) = end(&event) {
            save(note, &end).at(note)?;
        }
    }
    Ok(())
}

fn end(event: &Value) -> Option<MachineEnd> {
    match (event["event"].as_str()?, event["data"]["reason"].as_str()) {
        ("GUEST_PANICKED", _) | ("SHUTDOWN", Some("guest-panic")) => Some(MachineEnd::Panic),
        ("SHUTDOWN", Some("guest-reset")) => Some(MachineEnd::Reboot),
        ("SHUTDOWN", Some("guest-shutdown")) => Some(MachineEnd::PowerOff),
        ("SHUTDOWN", _) => Some(MachineEnd::Host),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn ends_are_told_apart() {
        let told = |name: &str, reason: &str| {
            end(&json!({ "event": name, "data": { "guest": true, "reason": reason } }))
        };
        for (name, reason, expected) in [
            ("SHUTDOWN", "guest-panic", Some(MachineEnd::Panic)),
            ("GUEST_PANICKED", "", Some(MachineEnd::Panic)),
            ("SHUTDOWN", "guest-reset", Some(MachineEnd::Reboot)),
            ("SHUTDOWN", "guest-shutdown", Some(MachineEnd::PowerOff)),
            ("SHUTDOWN", "host-qmp-quit", Some(MachineEnd::Host)),
            ("SHUTDOWN", "host-signal", Some(MachineEnd::Host)),
            ("RESET", "guest-reset", None),
        ] {
            assert_eq!(told(name, reason), expected, "{name} {reason}");
        }
        assert_eq!(end(&json!({})), None);
    }
}
