//! A machine that is reached by ssh: a server of OpenSSH on the loopback, with keys of its own, in front of an engine.

use crate::{DockerEngine, Part};
use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The program, which wants to be called by its whole path.
const SERVER: &str = "/usr/sbin/sshd";
/// Longest wait for it.
const LIMIT: Duration = Duration::from_secs(30);

/// Whether a machine can be made here.
pub(crate) fn can_run() -> bool {
    nix::unistd::geteuid().is_root() && Path::new(SERVER).is_file() && crate::in_path("ssh").is_some()
}

/// A machine named `machine` to the `ssh` of [`Self::path`]. Ends when it is dropped, and with the test.
pub struct SshMachine {
    dir: tempfile::TempDir,
    child: Child,
}

impl SshMachine {
    /// A machine with this engine.
    pub fn start(engine: &DockerEngine) -> Self {
        Part::Ssh.demand();
        let dir = tempfile::Builder::new()
            .prefix("ostler-ssh-")
            .tempdir()
            .unwrap_or_else(|error| panic!("cannot make a temporary directory: {error}"));
        let file = |name: &str| dir.path().join(name);
        for key in ["host", "user"] {
            make_key(&file(key));
        }
        let read = |name: &str| {
            fs::read_to_string(file(name)).unwrap_or_else(|error| panic!("cannot read {name}: {error}"))
        };
        let port = TcpListener::bind(("127.0.0.1", 0))
            .and_then(|listener| listener.local_addr())
            .unwrap_or_else(|error| panic!("no free port: {error}"))
            .port();
        let write = |name: &str, text: String, mode: u32| {
            fs::write(file(name), text)
                .and_then(|()| fs::set_permissions(file(name), fs::Permissions::from_mode(mode)))
                .unwrap_or_else(|error| panic!("cannot write {name}: {error}"));
        };
        let at = dir.path().display();
        write("authorized", read("user.pub"), 0o600);
        write("known", format!("[127.0.0.1]:{port} {}", read("host.pub")), 0o600);
        write(
            "sshd_config",
            format!(
                "ListenAddress 127.0.0.1:{port}\nHostKey {at}/host\nAuthorizedKeysFile {at}/authorized\nPidFile none\n\
                 StrictModes no\nUsePAM no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n\
                 PermitRootLogin prohibit-password\nSetEnv DOCKER_HOST={}\n",
                engine.url()
            ),
            0o600,
        );
        write(
            "config",
            format!(
                "Host machine\n  HostName 127.0.0.1\n  Port {port}\n  User root\n  IdentityFile {at}/user\n  \
                 IdentitiesOnly yes\n  UserKnownHostsFile {at}/known\n  GlobalKnownHostsFile none\n"
            ),
            0o600,
        );
        let ssh = crate::in_path("ssh").unwrap_or_else(|| panic!("there is no ssh"));
        write(
            "bin-ssh",
            format!("#!/bin/sh\nexec {} -F {at}/config \"$@\"\n", ssh.display()),
            0o755,
        );
        fs::create_dir(file("bin"))
            .and_then(|()| fs::rename(file("bin-ssh"), file("bin/ssh")))
            // Where it gives up its rights.
            .and_then(|()| fs::create_dir_all("/run/sshd"))
            .unwrap_or_else(|error| panic!("cannot prepare the machine: {error}"));
        let child = Command::new("setpriv")
            .args(["--pdeathsig=TERM", "--", SERVER, "-D", "-E"])
            .arg(file("log"))
            .arg("-f")
            .arg(file("sshd_config"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {SERVER}: {error}"));
        let mut machine = Self { dir, child };
        let end = Instant::now() + LIMIT;
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            let ended = machine.child.try_wait().ok().flatten();
            let log = fs::read_to_string(machine.dir.path().join("log")).unwrap_or_default();
            assert!(
                ended.is_none() && Instant::now() < end,
                "the ssh server does not answer: {log}"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        machine
    }

    /// A value for `PATH` with an `ssh` whose user has a configuration with this machine, and has met it before.
    pub fn path(&self) -> String {
        let others = std::env::var("PATH").unwrap_or_default();
        format!("{}:{others}", self.dir.path().join("bin").display())
    }

    /// The file with the keys of the machines that this user knows.
    pub fn known_hosts(&self) -> PathBuf {
        self.dir.path().join("known")
    }

    /// The process ids of clients that go on.
    pub fn clients(&self) -> Vec<String> {
        let config = self.dir.path().join("config").display().to_string();
        let uses = |pid: &String| {
            fs::read(format!("/proc/{pid}/cmdline"))
                .is_ok_and(|line| String::from_utf8_lossy(&line).contains(&config))
        };
        fs::read_dir("/proc")
            .into_iter()
            .flatten()
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(uses)
            .collect()
    }
}

impl Drop for SshMachine {
    fn drop(&mut self) {
        // Both fail only if it has ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn make_key(path: &Path) {
    let made = Command::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-C", "test", "-f"])
        .arg(path)
        .stdin(Stdio::null())
        .status();
    assert!(
        made.as_ref().is_ok_and(std::process::ExitStatus::success),
        "cannot make a key: {made:?}"
    );
}
