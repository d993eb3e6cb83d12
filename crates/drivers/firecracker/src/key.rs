//! What is baked into a machine, and therefore into every snapshot of it.
//!
//! A restored machine has the processors, memory, drives and environment of the one that the snapshot was taken of,
//! whatever a template says. So a template that says something else is refused.

use ostler_domain::SandboxTemplate;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// What is baked in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Key {
    /// Version of Firecracker; its snapshots are of one version.
    pub(crate) firecracker: String,
    /// Which build of the guest program.
    pub(crate) guest: String,
    /// Model of the host's processor.
    pub(crate) processor: String,
    pub(crate) cpus: u32,
    pub(crate) memory_mb: u64,
    pub(crate) root_drive: Option<String>,
    pub(crate) data_drive_mb: Option<u64>,
    pub(crate) kernel: Option<String>,
    pub(crate) kernel_args: Option<String>,
    pub(crate) env: BTreeMap<String, String>,
}

impl Key {
    /// Of a machine that is booted.
    pub(crate) fn of(
        template: &SandboxTemplate,
        kernel: Option<String>,
        firecracker: &str,
        guest: &Path,
    ) -> Self {
        Self {
            firecracker: firecracker.to_owned(),
            guest: build(guest),
            processor: ostler_sandbox::processor(),
            cpus: template.cpus,
            memory_mb: template.memory_mb,
            root_drive: template.root_drive.clone(),
            data_drive_mb: template.data_drive_mb,
            kernel,
            kernel_args: template.kernel_args.clone(),
            env: template.env.clone(),
        }
    }

    /// In what a template differs from a snapshot of this key, one sentence each. Drives and kernels that it does not name
    /// are those of the snapshot.
    pub(crate) fn differences(
        &self,
        template: &SandboxTemplate,
        firecracker: &str,
        guest: &Path,
    ) -> Vec<String> {
        let mut found = Vec::new();
        let mut differ = |what: &str, has: String, wanted: String| {
            if has != wanted {
                found.push(format!(
                    "the snapshot has {what} {has} and not {wanted}: take a new one"
                ));
            }
        };
        differ("the version", self.firecracker.clone(), firecracker.to_owned());
        differ("the guest program", self.guest.clone(), build(guest));
        differ(
            "the processor",
            self.processor.clone(),
            ostler_sandbox::processor(),
        );
        differ("CPUs:", self.cpus.to_string(), template.cpus.to_string());
        differ(
            "memory in MiB:",
            self.memory_mb.to_string(),
            template.memory_mb.to_string(),
        );
        let shown = |value: &Option<String>| value.clone().unwrap_or_else(|| "none".to_owned());
        let megabytes = |value: Option<u64>| value.map(|mb| mb.to_string());
        for (what, has, wanted) in [
            (
                "the root drive",
                self.root_drive.clone(),
                template.root_drive.clone(),
            ),
            (
                "a data drive in MiB:",
                megabytes(self.data_drive_mb),
                megabytes(template.data_drive_mb),
            ),
            ("the kernel", self.kernel.clone(), template.kernel.clone()),
            (
                "the kernel arguments",
                self.kernel_args.clone(),
                template.kernel_args.clone(),
            ),
        ] {
            if wanted.is_some() {
                differ(what, shown(&has), shown(&wanted));
            }
        }
        // Values may be secret.
        let names = |env: &BTreeMap<String, String>| {
            let names: Vec<&str> = env.keys().map(String::as_str).collect();
            format!("[{}]", names.join(", "))
        };
        if self.env != template.env {
            let (has, wanted) = (names(&self.env), names(&template.env));
            found.push(format!(
                "the snapshot has another environment: {has} and not {wanted}, or other values"
            ));
        }
        found
    }
}

/// Names a build without reading all of it: the program is replaced only when it changes.
fn build(guest: &Path) -> String {
    std::fs::metadata(guest)
        .map(|m| {
            format!(
                "of {} bytes, written at {}.{:09}",
                m.len(),
                m.mtime(),
                m.mtime_nsec()
            )
        })
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ostler_domain::DriverKind;

    #[test]
    fn a_template_may_leave_out_drives_but_not_change_anything() {
        let mut template = SandboxTemplate::new(DriverKind::Firecracker);
        let guest = Path::new("/bin/sh");
        template.root_drive = Some("/images/a".into());
        template.env.insert("TOKEN".into(), "secret value".into());
        let key = Key::of(&template, Some("/kernel".into()), "1.13.0", guest);
        assert_eq!(key.differences(&template, "1.13.0", guest), Vec::<String>::new());
        template.root_drive = None;
        assert_eq!(key.differences(&template, "1.13.0", guest), Vec::<String>::new());
        template.root_drive = Some("/images/b".into());
        template.memory_mb += 1;
        template.env.insert("TOKEN".into(), "another".into());
        let all = key.differences(&template, "1.14.0", guest).join("\n");
        for part in ["/images/a and not /images/b", "1.13.0", "memory", "[TOKEN]"] {
            assert!(all.contains(part), "no {part}: {all}");
        }
        assert!(!all.contains("secret") && !all.contains("another:"), "{all}");
    }
}
