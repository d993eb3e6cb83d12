//! Templates that no machine can be made of here, beyond what the capabilities say.

use crate::driver::Inner;
use crate::machine;
use crate::snapshot::Store;
use ostler_domain::SandboxTemplate;
use std::path::Path;

/// Most virtual CPUs of one machine.
const CPUS: u32 = 32;

impl Inner {
    /// One sentence per reason.
    pub(crate) fn own_refusals(&self, template: &SandboxTemplate) -> Vec<String> {
        let mut reasons = Vec::new();
        if template.cpus > CPUS {
            reasons.push(format!("{} CPUs: a machine has at most {CPUS}", template.cpus));
        }
        if self.jailed(template) {
            if !nix::unistd::geteuid().is_root() {
                reasons.push("the jailer, which needs root: run the server as root or ask for none".into());
            }
            if self.jailer.is_none() {
                reasons.push(format!(
                    "the jailer, which is not installed: {} is absent",
                    self.options.jailer.display()
                ));
            }
        }
        if let Some(name) = &template.snapshot {
            reasons.extend(self.snapshot_refusals(template, name));
        } else {
            reasons.extend(self.boot_refusals(template));
        }
        reasons
    }

    fn snapshot_refusals(&self, template: &SandboxTemplate, name: &str) -> Vec<String> {
        let mut reasons: Vec<String> = Store::refuses(name).into_iter().collect();
        let Ok(program) = &self.program else {
            return reasons;
        };
        reasons.extend(program.version.refuses_snapshots());
        if reasons.is_empty() {
            match self.snapshots.key(name) {
                Some(key) => reasons.extend(key.differences(
                    template,
                    &program.version.to_string(),
                    &self.options.guest,
                )),
                None => reasons.push(format!("the snapshot {name}, which is not there")),
            }
        }
        reasons
    }

    fn boot_refusals(&self, template: &SandboxTemplate) -> Vec<String> {
        let mut reasons = Vec::new();
        let mut drives = template.data_drive_mb.unwrap_or(0);
        match &template.root_drive {
            None => reasons.push("a machine without a root drive: name a file with the guest in it".into()),
            Some(path) => match file(Path::new(path)) {
                Ok(bytes) => drives = drives.saturating_add(bytes.div_ceil(1 << 20)),
                Err(why) => reasons.push(format!("the root drive {path}: {why}")),
            },
        }
        match self.kernel(template) {
            None => {
                reasons
                    .push("a machine without a kernel: name one in the template or in the settings".into());
            }
            Some(path) => {
                let why = file(&path).err();
                reasons.extend(why.map(|why| format!("the kernel {}: {why}", path.display())));
            }
        }
        if template.data_drive_mb == Some(0) {
            reasons.push("a data drive of no size".into());
        }
        // Drives are as large as they are from the beginning, so this is what keeps the limit.
        if let Some(limit) = template.disk_mb.filter(|limit| *limit < drives) {
            reasons.push(format!(
                "a disk limit of {limit} MiB: its drives have {drives} MiB"
            ));
        }
        let line = machine::command_line(template.kernel_args.as_deref());
        reasons.extend(line.err());
        reasons
    }
}

/// The size of a regular file, or what is wrong with it.
fn file(path: &Path) -> Result<u64, String> {
    if !path.is_absolute() {
        return Err("its path must be absolute".to_owned());
    }
    match std::fs::metadata(path) {
        Ok(meta) if meta.is_file() && meta.len() > 0 => Ok(meta.len()),
        Ok(_) => Err("not a regular file with something in it".to_owned()),
        Err(e) => Err(e.to_string()),
    }
}
