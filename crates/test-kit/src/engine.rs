//! A Docker Engine apart from any other on this machine, with the image that sandboxes of tests are made from.
//!
//! It runs as in a container of its own, in namespaces for processes and mounts: when it ends, in whatever way, the
//! kernel ends its containers and takes back its mounts. The machine's network is left alone.

use std::{
    fs,
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use crate::{
    CLAUDE_VERSION, Part, cache_dir, in_path,
    service::{Plan, Service, shared_dir},
};

/// For how long the engine without users waits for the next one.
const LINGER: Duration = Duration::from_secs(10);

/// The repository of the image that tests use, in the engine.
const REPOSITORY: &str = "ostler-test";

/// The engine that all test processes of this user share. It has no networks besides a container's own loopback.
pub struct DockerEngine {
    _service: Service,
    dir: PathBuf,
}

impl DockerEngine {
    /// The engine, started if nobody uses it yet, and ended when nobody does any more. Images are kept from run to run;
    /// containers are not.
    pub fn start() -> Self {
        Part::Docker.demand();
        let dir = shared_dir("docker");
        let images = cache_dir().join("docker");
        let plan = |failures| {
            let _ = fs::remove_dir_all(dir.join("exec"));
            let _ = fs::remove_file(dir.join("sock"));
            let _ = fs::remove_file(dir.join("dockerd.pid"));
            if failures > 0 {
                // An engine that was killed may have spoilt it. Images are imported again.
                let _ = fs::remove_dir_all(&images);
            }
            fs::create_dir_all(&images)
                // The machine's own settings, in /etc, are not for this engine.
                .and_then(|()| fs::write(dir.join("daemon.json"), "{}"))
                .unwrap_or_else(|error| panic!("cannot prepare the Docker Engine: {error}"));
            plan(&dir, &images)
        };
        let (answers, first) = (|| answers(&dir.join("sock")), || remove_containers(&dir));
        Self {
            _service: Service::shared(&dir, plan, answers, first),
            dir,
        }
    }

    /// Its address, as in `DOCKER_HOST`.
    pub fn url(&self) -> String {
        url(&self.dir)
    }

    /// Name of the image with a shell, git, Python and Claude Code (in `PATH` as `claude`) that `scripts/base-image`
    /// builds. Imported when it is first asked for, which takes some seconds.
    pub fn base_image(&self) -> String {
        Part::BaseImage.demand();
        let file = base_image_file();
        let tag = file.file_stem().unwrap_or_default().to_string_lossy();
        let image = format!("{REPOSITORY}:{tag}");
        let lock = fs::File::create(self.dir.join("importing"))
            .unwrap_or_else(|error| panic!("cannot make a file: {error}"));
        lock.lock()
            .unwrap_or_else(|error| panic!("cannot lock a file: {error}"));
        if self.docker(&["image", "inspect", &image]).is_err() {
            for older in self
                .docker(&["images", "-q", REPOSITORY])
                .unwrap_or_default()
                .lines()
            {
                // In use by nobody but an engine that runs the tests of another checkout: then it stays.
                let _ = self.docker(&["rmi", older]);
            }
            let file = file.to_string_lossy().into_owned();
            self.docker(&["import", &file, &image])
                .unwrap_or_else(|error| panic!("cannot import {file}: {error}"));
        }
        image
    }

    /// Runs the `docker` command on this engine; what it printed, or what it printed as an error.
    pub fn docker(&self, arguments: &[&str]) -> Result<String, String> {
        docker(&self.dir, arguments)
    }
}

fn url(dir: &Path) -> String {
    format!("unix://{}", dir.join("sock").display())
}

fn docker(dir: &Path, arguments: &[&str]) -> Result<String, String> {
    let output = Command::new("docker")
        .args(["-H", &url(dir)])
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("cannot start docker: {error}"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() {
        Ok(text(&output.stdout))
    } else {
        Err(text(&output.stderr))
    }
}

/// Removes what tests that were killed have left in the engine's books. Their processes ended with the engine.
fn remove_containers(dir: &Path) {
    let stale = docker(dir, &["ps", "-aq"]).unwrap_or_default();
    let mut arguments = vec!["rm", "--force", "--volumes"];
    arguments.extend(stale.lines());
    if arguments.len() > 3 {
        docker(dir, &arguments).unwrap_or_else(|error| panic!("cannot remove old containers: {error}"));
    }
}

/// Whether this user can run an engine here.
pub(crate) fn can_run() -> bool {
    nix::unistd::geteuid().is_root() && PROGRAMS.iter().all(|program| in_path(program).is_some())
}

const PROGRAMS: [&str; 7] = [
    "containerd",
    "docker",
    "docker-init",
    "dockerd",
    "runc",
    "setpriv",
    "unshare",
];

/// Where `scripts/base-image` puts the image, by the script as it was when this was compiled.
pub(crate) fn base_image_file() -> PathBuf {
    let script = hash(include_bytes!("../../../scripts/base-image"));
    cache_dir().join(format!("base-{script}-claude-{CLAUDE_VERSION}.tar"))
}

/// The first half of SHA-256, in hexadecimal.
fn hash(bytes: &[u8]) -> String {
    use sha2::Digest;
    let digest = sha2::Sha256::digest(bytes);
    digest[..16]
        .iter()
        .fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}

fn plan(dir: &Path, images: &Path) -> Plan {
    let path = |path: &Path| path.to_string_lossy().into_owned();
    let mut command: Vec<String> = [
        &["setpriv", "--pdeathsig=TERM", "--"][..],
        &["unshare", "--mount", "--propagation=slave", "--mount-proc", "--"],
        // The first process of a namespace inherits all orphans, and dockerd does not wait for those.
        &[
            "docker-init",
            "--",
            "dockerd",
            "--bridge=none",
            "--exec-opt=native.cgroupdriver=cgroupfs",
        ],
        &[
            "--iptables=false",
            "--ip6tables=false",
            "--ip-forward=false",
            "--ip-masq=false",
            // Containers of killed tests need no time to end well.
            "--shutdown-timeout=1",
        ],
    ]
    .concat()
    .into_iter()
    .map(str::to_owned)
    .collect();
    for (option, value) in [
        ("config-file", path(&dir.join("daemon.json"))),
        ("data-root", path(images)),
        ("exec-root", path(&dir.join("exec"))),
        ("pidfile", path(&dir.join("dockerd.pid"))),
        ("host", url(dir)),
    ] {
        command.push(format!("--{option}={value}"));
    }
    Plan {
        command,
        linger: LINGER,
        signal: nix::sys::signal::Signal::SIGTERM as i32,
        remove: None,
        alone: true,
    }
}

fn answers(socket: &Path) -> bool {
    let ping = || -> std::io::Result<String> {
        let mut stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        stream.write_all(b"GET /_ping HTTP/1.0\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    ping().is_ok_and(|answer| answer.contains(" 200 "))
}
