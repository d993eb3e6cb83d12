//! In place of a machine: the real guest program in namespaces, behind the vsock socket.

use crate::{Whim, schema};
use serde::{Deserialize, Serialize};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::process::Command;
use tokio::sync::watch;

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Config {
    pub(crate) cpus: u64,
    pub(crate) memory_mb: u64,
    pub(crate) arguments: Option<String>,
    pub(crate) initrd: Option<String>,
    /// What was booted: the memory of this machine.
    pub(crate) booted: Option<Booted>,
    pub(crate) drives: Vec<Drive>,
    pub(crate) vsock: Option<String>,
}

/// What a machine knows once it runs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Booted {
    program: Vec<u8>,
    env: std::collections::BTreeMap<String, String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Drive {
    pub(crate) path: String,
    pub(crate) root: bool,
    pub(crate) writable: bool,
}

impl Config {
    /// The files of a snapshot, which its user must be able to make.
    pub(crate) fn write(&self, state: &str, memory: &str) -> Result<(), String> {
        let text = |e: std::io::Error| e.to_string();
        schema::inside(state)?;
        schema::inside(memory)?;
        std::fs::write(state, serde_json::to_vec(self).map_err(|e| e.to_string())?).map_err(text)?;
        let file = std::fs::File::create(memory).map_err(text)?;
        file.set_len(self.memory_mb << 20).map_err(text)
    }

    pub(crate) fn read(state: &str, memory: &str) -> Result<Self, String> {
        schema::openable(state, false)?;
        schema::openable(memory, false)?;
        let bytes = std::fs::read(state).map_err(|e| e.to_string())?;
        let config: Self = serde_json::from_slice(&bytes).map_err(|e| e.to_string())?;
        let length = std::fs::metadata(memory).map_err(|e| e.to_string())?.len();
        if length != config.memory_mb << 20 {
            return Err("the memory is not that of the state".to_owned());
        }
        Ok(config)
    }
}

pub(crate) struct Machine {
    paused: watch::Sender<bool>,
    guest: Option<u32>,
}

impl Machine {
    pub(crate) fn boot(id: &str, config: &mut Config, whim: &Whim) -> Result<Self, String> {
        let arguments = config.arguments.as_deref().ok_or("there is no boot source")?;
        if config.memory_mb == 0 {
            return Err("the machine has no memory, in these tests".to_owned());
        }
        for drive in &config.drives {
            schema::openable(&drive.path, drive.writable)?;
        }
        if !config.drives.iter().any(|d| d.root) {
            return Err("there is no root drive".to_owned());
        }
        let socket = config.vsock.clone().ok_or("there is no vsock device")?;
        if !arguments.split(' ').any(|a| a == "console=ttyS0") {
            return Err("nobody would see what the kernel says".to_owned());
        }
        let booted = match config.booted.clone() {
            Some(booted) => booted,
            None => boot(config)?,
        };
        config.booted = Some(booted.clone());
        let listener = UnixListener::bind(&socket).map_err(|e| format!("{socket}: {e}"))?;
        println!("booting {arguments}");
        let paused = watch::Sender::new(false);
        let place = place(id)?;
        let guest = match whim {
            Whim::Mute | Whim::Lonely => None,
            _ => Some(start(&place, &booted)?),
        };
        let (sender, mute) = (paused.clone(), *whim == Whim::Mute);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(connection(
                    stream,
                    place.join("run/guest.sock"),
                    mute,
                    sender.subscribe(),
                ));
            }
        });
        Ok(Self { paused, guest })
    }

    pub(crate) fn paused(&self) -> bool {
        *self.paused.borrow()
    }

    pub(crate) fn pause(&self, paused: bool) {
        self.paused.send_replace(paused);
    }

    /// As the first process of a machine does when the three keys are pressed.
    pub(crate) fn end(&self) {
        if let Some(pid) = self.guest {
            // bubblewrap itself would not hand it on to the guest, its child.
            let children = format!("/proc/{pid}/task/{pid}/children");
            let children = std::fs::read_to_string(children).unwrap_or_default();
            for child in children.split_ascii_whitespace().filter_map(|c| c.parse().ok()) {
                let _gone_is_fine = nix::sys::signal::kill(
                    nix::unistd::Pid::from_raw(child),
                    nix::sys::signal::Signal::SIGTERM,
                );
            }
        }
    }
}

/// A directory beside the state of the driver under test, where this user may reach what it mounts.
fn place(id: &str) -> Result<PathBuf, String> {
    let here = std::env::current_dir().map_err(|e| e.to_string())?;
    let state = here
        .ancestors()
        .find(|dir| dir.file_name().is_some_and(|n| n == "state"))
        .ok_or("the tests keep the state in a directory of that name")?;
    let place = state.with_file_name("guests").join(id);
    std::fs::create_dir_all(place.join("run")).map_err(|e| format!("{}: {e}", place.display()))?;
    Ok(place)
}

/// What the kernel and the guest do with the initial RAM disk.
fn boot(config: &Config) -> Result<Booted, String> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Description {
        hostname: String,
        data: bool,
        env: std::collections::BTreeMap<String, String>,
        vsock: u32,
    }
    let initrd = config.initrd.as_deref().ok_or("there is no initial RAM disk")?;
    let bytes = std::fs::read(initrd).map_err(|e| format!("{initrd}: {e}"))?;
    let mut files = crate::archive::files(&bytes)?;
    let description = files.get("ostler.json").ok_or("no description of the machine")?;
    let told: Description = serde_json::from_slice(description).map_err(|e| e.to_string())?;
    if told.vsock != ostler_driver_firecracker::GUEST_PORT
        || told.data != (config.drives.len() == 2)
        || told.hostname.is_empty()
    {
        return Err("the guest is told of another machine".to_owned());
    }
    let program = files.remove("init").filter(|p| p.starts_with(b"\x7fELF"));
    Ok(Booted {
        program: program.ok_or("there is nothing to start")?,
        env: told.env,
    })
}

fn start(place: &Path, booted: &Booted) -> Result<u32, String> {
    let text = |e: std::io::Error| e.to_string();
    let guest = place.join("guest");
    std::fs::write(&guest, &booted.program).map_err(text)?;
    std::fs::set_permissions(&guest, std::fs::Permissions::from_mode(0o755)).map_err(text)?;
    let mut command = Command::new("bwrap");
    command.args([
        "--unshare-user",
        "--uid",
        "1000",
        "--gid",
        "1000",
        "--unshare-pid",
    ]);
    command.args([
        "--unshare-ipc",
        "--unshare-uts",
        "--unshare-net",
        "--cap-drop",
        "ALL",
    ]);
    command.args([
        "--die-with-parent",
        "--new-session",
        "--as-pid-1",
        "--ro-bind",
        "/usr",
        "/usr",
    ]);
    for name in ["/bin", "/sbin", "/lib", "/lib64"] {
        if let Ok(target) = std::fs::read_link(name) {
            command.arg("--symlink").arg(target).arg(name);
        } else if Path::new(name).exists() {
            command.args(["--ro-bind", name, name]);
        }
    }
    command.args([
        "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", "--dir", "/var/tmp",
    ]);
    command
        .args(["--dir", "/workspace", "--bind"])
        .arg(place.join("run"))
        .arg("/run/ostler");
    command
        .arg("--ro-bind")
        .arg(&guest)
        .args(["/ostler/guest", "--chdir", "/workspace", "--clearenv"]);
    command.args([
        "--setenv",
        "PATH",
        "/usr/local/bin:/usr/bin:/bin",
        "--setenv",
        "HOME",
        "/workspace",
    ]);
    for (name, value) in &booted.env {
        command.arg("--setenv").arg(name).arg(value);
    }
    command.args([
        "--",
        "/ostler/guest",
        "--run",
        "/run/ostler",
        "--workspace",
        "/workspace",
    ]);
    let mut child = command
        .stdin(Stdio::null())
        .spawn()
        .map_err(|e| format!("bwrap: {e}"))?;
    let pid = child.id().ok_or("bwrap ended at once")?;
    tokio::spawn(async move {
        // A machine that has switched itself off is the end of its Firecracker.
        let ended = child.wait().await;
        println!("the machine is off: {ended:?}");
        std::process::exit(0);
    });
    Ok(pid)
}

async fn connection(stream: UnixStream, guest: PathBuf, mute: bool, paused: watch::Receiver<bool>) {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    let _broken = (&mut stream).take(32).read_line(&mut line).await;
    if mute {
        std::future::pending::<()>().await;
    }
    let mut hold = paused.clone();
    // A paused machine neither accepts nor refuses.
    let _ = hold.wait_for(|paused| !paused).await;
    if line.trim_end_matches('\n') != format!("CONNECT {}", ostler_driver_firecracker::GUEST_PORT) {
        return;
    }
    let Ok(guest) = UnixStream::connect(guest).await else {
        return;
    };
    let (mut from_guest, mut to_guest) = guest.into_split();
    let (mut from_host, mut to_host) = tokio::io::split(stream);
    if to_host.write_all(b"OK 1073741824\n").await.is_err() {
        return;
    }
    let back = paused.clone();
    tokio::select! {
        () = carry(&mut from_host, &mut to_guest, paused) => {}
        () = carry(&mut from_guest, &mut to_host, back) => {}
    }
}

async fn carry(
    from: &mut (impl AsyncReadExt + Unpin),
    to: &mut (impl AsyncWriteExt + Unpin),
    mut paused: watch::Receiver<bool>,
) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        let _ = paused.wait_for(|paused| !paused).await;
        if to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}
