//! What is baked into a machine: one that goes on from a snapshot must not differ in it.

use crate::error::{At, Error};
use crate::kernel::hash;
use crate::options::Accelerator;
use ostler_domain::{NetworkPolicy, SandboxTemplate};
use serde::{Deserialize, Serialize};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// To be counted up when the devices of machines change.
const DEVICES: u32 = 2;

/// Everything that a machine cannot change when it goes on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Key {
    /// What devices it has: the number of their list, which changes with it.
    #[serde(default)]
    pub(crate) devices: u32,
    pub(crate) qemu: String,
    pub(crate) accelerator: Accelerator,
    pub(crate) processor: String,
    pub(crate) kernel: String,
    pub(crate) kernel_args: Option<String>,
    pub(crate) cpus: u32,
    pub(crate) memory_mb: u64,
    pub(crate) disk_mb: Option<u64>,
    pub(crate) root_drive: String,
    pub(crate) data_drive_mb: Option<u64>,
    /// Whether there is a network interface.
    pub(crate) network: bool,
    /// Hash of the environment, whose values may be secret.
    pub(crate) env: String,
}

impl Key {
    /// Of a machine that is started from `template` on this host. `kernel` is the hash of the kernel.
    pub(crate) fn of(
        template: &SandboxTemplate,
        qemu: &str,
        accelerator: Accelerator,
        kernel: &str,
    ) -> Result<Self, Error> {
        let root = Path::new(template.root_drive.as_deref().unwrap_or_default());
        let meta = std::fs::metadata(root).at(root)?;
        let env = serde_json::to_vec(&template.env).map_err(|e| Error::Other(e.to_string()))?;
        Ok(Self {
            devices: DEVICES,
            qemu: qemu.to_owned(),
            accelerator,
            processor: ostler_sandbox::processor(),
            kernel: kernel.to_owned(),
            kernel_args: template.kernel_args.clone(),
            cpus: template.cpus,
            memory_mb: template.memory_mb,
            disk_mb: template.disk_mb,
            root_drive: format!(
                "{} of {} bytes, changed at {}.{:09}",
                root.display(),
                meta.len(),
                meta.mtime(),
                meta.mtime_nsec()
            ),
            data_drive_mb: template.data_drive_mb,
            network: template.network == NetworkPolicy::Open,
            env: hash(&env),
        })
    }

    /// In what a machine differs from the one that this snapshot was taken of, one sentence each.
    pub(crate) fn differences(&self, wanted: &Self) -> Vec<String> {
        let number = |value: &Option<u64>| value.map_or("none".to_owned(), |v| v.to_string());
        let text = |value: &Option<String>| value.clone().unwrap_or("none".to_owned());
        let pairs = [
            (
                "devices of the list",
                self.devices.to_string(),
                wanted.devices.to_string(),
            ),
            ("QEMU", self.qemu.clone(), wanted.qemu.clone()),
            (
                "the accelerator",
                self.accelerator.as_str().into(),
                wanted.accelerator.as_str().into(),
            ),
            ("the processor", self.processor.clone(), wanted.processor.clone()),
            ("the kernel", self.kernel.clone(), wanted.kernel.clone()),
            (
                "kernel arguments",
                text(&self.kernel_args),
                text(&wanted.kernel_args),
            ),
            ("CPUs:", self.cpus.to_string(), wanted.cpus.to_string()),
            (
                "MiB of memory:",
                self.memory_mb.to_string(),
                wanted.memory_mb.to_string(),
            ),
            ("MiB of disk:", number(&self.disk_mb), number(&wanted.disk_mb)),
            (
                "the root drive",
                self.root_drive.clone(),
                wanted.root_drive.clone(),
            ),
            (
                "MiB of data drive:",
                number(&self.data_drive_mb),
                number(&wanted.data_drive_mb),
            ),
            (
                "a network interface:",
                self.network.to_string(),
                wanted.network.to_string(),
            ),
            (
                "an environment with the hash",
                self.env.clone(),
                wanted.env.clone(),
            ),
        ];
        pairs
            .into_iter()
            .filter(|(_, has, wants)| has != wants)
            .map(|(what, has, wants)| format!("it has {what} {has} and not {wants}"))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ostler_domain::DriverKind;

    #[test]
    fn every_difference_is_told_and_no_secret_is() {
        let dir = tempfile::tempdir().unwrap();
        let drive = dir.path().join("drive");
        std::fs::write(&drive, "drive").unwrap();
        let mut template = SandboxTemplate::new(DriverKind::Qemu);
        template.root_drive = Some(drive.display().to_string());
        let of = |t: &SandboxTemplate| Key::of(t, "7.2", Accelerator::Tcg, "abc").unwrap();
        let key = of(&template);
        assert_eq!(key.differences(&of(&template)), Vec::<String>::new());
        template.memory_mb += 1;
        template.network = NetworkPolicy::Open;
        template.env.insert("TOKEN".into(), "secret".into());
        std::fs::write(&drive, "another").unwrap();
        let told = key.differences(&of(&template));
        assert_eq!(told.len(), 4, "{told:?}");
        assert!(!told.join("").contains("secret"));
    }
}
