//! P3: virtual machines, beside QEMU with nothing but a kernel and a program that says that it is there.

use crate::bench::Results;
use crate::probe::milliseconds;
use crate::sandboxes::has;
use crate::service::{Refill, Service};
use anyhow::{Context, Result, ensure};
use ostler_test_kit::{MachineParts, Part};
use reqwest::Method;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

pub(crate) const BOOT: &str = "cold start (qemu) until the guest is ready";
pub(crate) const RESTORE: &str = "start from a snapshot (qemu) until the guest is ready";
pub(crate) const BARE: &str = "bare QEMU to the first line of /init";

const POOL: &str = "machines";
const MEMORY_MB: u32 = 256;
const LIMIT: Duration = Duration::from_secs(60);
/// What the first program of the bare machine says.
const WORD: &str = "here I am";
/// The machine of the QEMU driver, and what it tells its kernel.
const MACHINE: &str = "q35,hpet=off,smbus=off,sata=off,usb=off,i8042=off,vmport=off,dump-guest-core=off";
const TOLD: &str = "console=ttyS0 quiet panic=-1 net.ifnames=0 random.trust_cpu=on";

/// A server with the QEMU driver.
pub(crate) struct Machines {
    service: Service,
    parts: MachineParts,
    initrd: PathBuf,
    template: Value,
    snapshots: u32,
}

impl Machines {
    /// `None`, with a note, where there can be no machines.
    pub(crate) async fn start(program: &Path, data: &Path, notes: &mut Vec<String>) -> Result<Option<Self>> {
        if !has(Part::Qemu, "virtual machines", notes) {
            return Ok(None);
        }
        if cfg!(not(target_arch = "x86_64")) {
            notes.push("virtual machines: the bare machine to compare with is for x86-64".to_owned());
            return Ok(None);
        }
        let parts = MachineParts::find().context("the parts of machines are not there")?;
        std::fs::create_dir_all(data)?;
        let initrd = data.join("bare-initrd");
        std::fs::write(&initrd, archive(&first_program(WORD)))?;
        // Without a trial of what runs the processors at the first start.
        let settings = format!(
            "[drivers]\nprocess = false\ndocker = false\nfirecracker = false\n\
             [drivers.qemu]\nenabled = true\nkernel = '{}'\nmodules = '{}'\naccelerator = \"tcg\"\n",
            parts.kernel.display(),
            parts.modules.display()
        );
        let service = Service::start(program, data, &settings).await?;
        let template = json!({ "driver": "qemu", "memory_mb": MEMORY_MB, "network": "none", "root_drive": parts.root_drive });
        Ok(Some(Self {
            service,
            parts,
            initrd,
            template,
            snapshots: 0,
        }))
    }

    pub(crate) async fn stop(self) -> Result<()> {
        self.service.stop().await
    }

    /// Machines by turns: booted, bare, and from a snapshot.
    pub(crate) async fn round(&mut self, samples: usize, results: &mut Results) -> Result<()> {
        self.snapshots += 1;
        let name = format!("bench-{}", self.snapshots);
        let snapshot = self.snapshot(&name).await?;
        let (mut boots, mut bare, mut restores) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..samples {
            boots.push(self.ready(&self.template).await?);
            bare.push(self.bare().await?);
            restores.push(self.ready(&snapshot).await?);
        }
        results.sandbox(BOOT, boots);
        results.sandbox(RESTORE, restores);
        results.sandbox(BARE, bare);
        Ok(())
    }

    /// Keeps a machine that has just booted, and returns the template that goes on from there.
    async fn snapshot(&self, name: &str) -> Result<Value> {
        self.set(&self.template).await?;
        let id = self.service.claim(POOL, false).await?;
        let path = format!("/agents/{id}/snapshot");
        let body = Some(json!({ "name": name }));
        let (status, answer) = self.service.call(Method::POST, &path, body).await?;
        ensure!(status.is_success(), "no snapshot: {status} {answer}");
        self.service.end(&id).await?;
        let mut template = self.template.clone();
        template["snapshot"] = name.into();
        Ok(template)
    }

    async fn set(&self, template: &Value) -> Result<()> {
        self.service.pool(POOL, template, (0, 2), Refill::AtOnce).await
    }

    /// Milliseconds until a machine of a template can be worked in.
    async fn ready(&self, template: &Value) -> Result<f64> {
        self.set(template).await?;
        let start = Instant::now();
        let id = self.service.claim(POOL, false).await?;
        let took = milliseconds(start.elapsed());
        self.service.end(&id).await?;
        Ok(took)
    }

    /// Milliseconds until the first program of a machine without any devices but its console has said something.
    async fn bare(&self) -> Result<f64> {
        let start = Instant::now();
        let mut qemu = Command::new(format!("qemu-system-{}", std::env::consts::ARCH))
            .args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"])
            .args(["-machine", MACHINE, "-accel", "tcg", "-cpu", "max", "-smp", "1"])
            .args([
                "-m",
                &format!("{MEMORY_MB}M"),
                "-serial",
                "stdio",
                "-append",
                TOLD,
            ])
            .arg("-kernel")
            .arg(&self.parts.kernel)
            .arg("-initrd")
            .arg(&self.initrd)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let mut lines = BufReader::new(qemu.stdout.take().context("no console")?).lines();
        let said = async {
            while let Some(line) = lines.next_line().await? {
                if line.contains(WORD) {
                    return Ok(());
                }
            }
            anyhow::bail!("QEMU ended without a word of its first program")
        };
        tokio::time::timeout(LIMIT, said)
            .await
            .context("the bare machine says nothing")??;
        let took = milliseconds(start.elapsed());
        qemu.kill().await?;
        Ok(took)
    }
}

/// A program for Linux on x86-64 that says a word and then waits for ever, as an ELF file of one segment.
fn first_program(word: &str) -> Vec<u8> {
    const ADDRESS: u64 = 0x40_0000;
    const HEADERS: u64 = 64 + 56;
    let said = format!("{word}\n");
    let mut code = vec![0xb8, 1, 0, 0, 0, 0xbf, 1, 0, 0, 0]; // mov eax, write; mov edi, 1
    code.extend([0x48, 0x8d, 0x35, 16, 0, 0, 0]); // lea rsi, [rip + 16]
    code.push(0xba); // mov edx, length
    code.extend((said.len() as u32).to_le_bytes());
    code.extend([0x0f, 0x05]); // syscall
    code.extend([0xb8, 34, 0, 0, 0, 0x0f, 0x05, 0xeb, 0xf7]); // again: mov eax, pause; syscall; jmp again
    code.extend(said.as_bytes());
    let size = HEADERS + code.len() as u64;
    let mut file = b"\x7fELF\x02\x01\x01".to_vec();
    file.resize(16, 0);
    for half in [2u16, 62] {
        file.extend(half.to_le_bytes()); // an executable, for x86-64
    }
    file.extend(1u32.to_le_bytes());
    for long in [ADDRESS + HEADERS, 64, 0] {
        file.extend(long.to_le_bytes()); // entry, program headers, section headers
    }
    file.extend(0u32.to_le_bytes());
    for half in [64u16, 56, 1, 64, 0, 0] {
        file.extend(half.to_le_bytes()); // sizes and counts
    }
    for word in [1u32, 5] {
        file.extend(word.to_le_bytes()); // to be loaded, to be read and executed
    }
    for long in [0, ADDRESS, ADDRESS, size, size, 0x1000] {
        file.extend(long.to_le_bytes());
    }
    file.extend(code);
    file
}

/// An archive in the format `newc` of cpio with a console and `/init`.
fn archive(init: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let none: &[u8] = &[];
    for (number, name, mode, (major, minor), content) in [
        (1, "dev", 0o040_755, (0, 0), none),
        (2, "dev/console", 0o020_600, (5, 1), none),
        (3, "init", 0o100_755, (0, 0), init),
        (4, "TRAILER!!!", 0, (0, 0), none),
    ] {
        let (size, length) = (content.len() as u32, name.len() as u32 + 1);
        bytes.extend(b"070701");
        // Number, mode, user, group, links, time, size, device, device of a special file, length of the name, check sum.
        for field in [number, mode, 0, 0, 1, 0, size, 0, 0, major, minor, length, 0] {
            bytes.extend(format!("{field:08x}").bytes());
        }
        bytes.extend(name.bytes());
        bytes.push(0);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes.extend(content);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }
    bytes
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn the_first_program_says_its_word() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("init");
        std::fs::write(&path, first_program(WORD)).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        let mut init = std::process::Command::new(&path)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = vec![0; WORD.len() + 1];
        init.stdout.take().unwrap().read_exact(&mut said).unwrap();
        assert_eq!(said, format!("{WORD}\n").as_bytes());
        assert!(init.try_wait().unwrap().is_none(), "it must wait");
        init.kill().unwrap();
        init.wait().unwrap();
    }
}
