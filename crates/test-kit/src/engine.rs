//! Docker Engines apart from any other on this machine, with the image that sandboxes of tests are made from.
//!
//! They run as in containers of their own, in namespaces for processes and mounts: when one ends, in whatever way, the
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
    Authority, CLAUDE_VERSION, Part, cache_dir, in_path,
    service::{Plan, Service, shared_dir},
};

/// For how long the engine without users waits for the next one.
const LINGER: Duration = Duration::from_secs(10);

/// The repository of the image that tests use, in the engine.
const REPOSITORY: &str = "ostler-test";

/// An engine. It has no networks besides a container's own loopback.
pub struct DockerEngine {
    service: Service,
    dir: PathBuf,
    /// For an engine of this test alone; removed after it has ended.
    own: Option<tempfile::TempDir>,
}

/// Years that certificates of engines and their clients are valid for, from now on: none ends during a test.
const LAST_YEAR: i32 = 2099;

impl DockerEngine {
    /// The engine that all test processes of this user share, started if nobody uses it yet, and ended when nobody does any
    /// more. Images are kept from run to run; containers are not.
    pub fn start() -> Self {
        Self::shared("docker", false)
    }

    /// Another such engine, which also listens at a port of the loopback, with TLS: see [`Self::tcp`].
    pub fn remote() -> Self {
        Self::shared("docker-tls", true)
    }

    /// An engine of this test alone, without images; the test may stop and start it.
    pub fn private() -> Self {
        Part::Docker.demand();
        let own = tempfile::Builder::new()
            .prefix("ostler-engine-")
            .tempdir()
            .unwrap_or_else(|error| panic!("cannot make a temporary directory: {error}"));
        let dir = own.path().to_owned();
        let plan = private_plan(&dir);
        Self {
            service: Service::private(&dir, &plan, || answers(&dir.join("sock"))),
            dir,
            own: Some(own),
        }
    }

    /// Stops an engine of this test alone, and its containers with it.
    pub fn down(&mut self) {
        assert!(self.own.is_some(), "a shared engine is not to be stopped");
        self.service.down();
    }

    /// Starts it again.
    pub fn up(&mut self) {
        let plan = private_plan(&self.dir);
        self.service.up(&plan, || answers(&self.dir.join("sock")));
    }

    fn shared(name: &str, tls: bool) -> Self {
        Part::Docker.demand();
        let dir = shared_dir(name);
        let images = cache_dir().join(name);
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
            let mut plan = plan(&dir, &images, LINGER);
            if tls {
                plan.command.extend(listen(&dir));
            }
            plan
        };
        let (answers, first) = (|| answers(&dir.join("sock")), || remove_containers(&dir));
        Self {
            service: Service::shared(&dir, plan, answers, first),
            dir,
            own: None,
        }
    }

    /// The address with TLS of an engine that has one.
    pub fn tcp(&self) -> String {
        fs::read_to_string(self.dir.join("tcp")).unwrap_or_else(|error| panic!("it has no port: {error}"))
    }

    /// The directory with what its clients need there: `ca.pem`, `cert.pem` and `key.pem`.
    pub fn certificates(&self) -> PathBuf {
        self.dir.join("client")
    }

    /// Name of an image with nothing in it, in which a static program can run.
    pub fn empty_image(&self) -> String {
        let image = format!("{REPOSITORY}-empty:1");
        let file = self.dir.join("empty.tar");
        // The end of an archive.
        fs::write(&file, [0; 1024]).unwrap_or_else(|error| panic!("cannot write a file: {error}"));
        self.docker(&["import", &file.to_string_lossy(), &image])
            .unwrap_or_else(|error| panic!("cannot import an image: {error}"));
        image
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
pub(crate) fn hash(bytes: &[u8]) -> String {
    use sha2::Digest;
    let digest = sha2::Sha256::digest(bytes);
    digest[..16]
        .iter()
        .fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}

fn private_plan(dir: &Path) -> Plan {
    let images = dir.join("data");
    for file in ["sock", "dockerd.pid"] {
        let _ = fs::remove_file(dir.join(file));
    }
    fs::create_dir_all(&images)
        .and_then(|()| fs::write(dir.join("daemon.json"), "{}"))
        .unwrap_or_else(|error| panic!("cannot prepare the Docker Engine: {error}"));
    let mut plan = plan(dir, &images, Duration::ZERO);
    plan.remove = Some(dir.to_owned());
    plan
}

/// What makes it listen at a free port with TLS, and believe only clients with a certificate of the same CA.
fn listen(dir: &Path) -> Vec<String> {
    let names = ["127.0.0.1", "localhost"];
    let authority = Authority::new();
    let server = dir.join("server");
    authority.write(&server, &authority.issue(&names, LAST_YEAR));
    authority.write(&dir.join("client"), &authority.issue(&["client"], LAST_YEAR));
    let port = std::net::TcpListener::bind(("127.0.0.1", 0))
        .and_then(|listener| listener.local_addr())
        .unwrap_or_else(|error| panic!("no free port: {error}"))
        .port();
    let url = format!("tcp://127.0.0.1:{port}");
    fs::write(dir.join("tcp"), &url).unwrap_or_else(|error| panic!("cannot write a file: {error}"));
    let file = |name| server.join(name).display().to_string();
    vec![
        format!("--host={url}"),
        "--tlsverify".to_owned(),
        format!("--tlscacert={}", file("ca.pem")),
        format!("--tlscert={}", file("cert.pem")),
        format!("--tlskey={}", file("key.pem")),
    ]
}

fn plan(dir: &Path, images: &Path, linger: Duration) -> Plan {
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
        linger,
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
