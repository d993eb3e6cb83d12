//! PostgreSQL servers on Unix sockets in temporary directories.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use crate::{
    Part,
    service::{Plan, Service, shared_dir},
};

/// For how long a shared server without users waits for the next one.
const LINGER: Duration = Duration::from_secs(5);

/// A PostgreSQL server.
pub struct Postgres {
    service: Service,
    socket: PathBuf,
    /// For a server of this test alone; removed after the server has ended.
    dir: Option<tempfile::TempDir>,
}

impl Postgres {
    /// The server that all tests of this user share. It does not wait for the disk. Roles and settings are not to be
    /// changed.
    pub fn shared() -> Self {
        Part::Postgres.demand();
        let dir = shared_dir("postgres");
        let home = dir.join("server");
        let plan = |_| {
            let _ = fs::remove_dir_all(&home);
            fs::create_dir(&home).unwrap_or_else(|error| panic!("cannot make {}: {error}", home.display()));
            init(&home);
            let mut plan = plan(&home, LINGER, Some(home.clone()));
            for setting in ["fsync=off", "synchronous_commit=off", "full_page_writes=off"] {
                plan.command.extend(["-c", setting].map(str::to_owned));
            }
            plan
        };
        Self {
            service: Service::shared(&dir, plan, || is_ready(&home), || ()),
            socket: home.clone(),
            dir: None,
        }
    }

    /// A server of this test alone with PostgreSQL's own care for its data; the test may stop and start it.
    pub fn start() -> Self {
        Part::Postgres.demand();
        let dir = tempfile::Builder::new()
            .prefix("ostler-pg-")
            .tempdir()
            .unwrap_or_else(|error| panic!("cannot make a temporary directory: {error}"));
        // The server's user must reach its own directory within.
        set_mode(dir.path(), 0o711);
        let home = dir.path().join("server");
        fs::create_dir(&home).unwrap_or_else(|error| panic!("cannot make {}: {error}", home.display()));
        init(&home);
        let plan = plan(&home, Duration::ZERO, Some(dir.path().to_owned()));
        Self {
            service: Service::private(dir.path(), &plan, || is_ready(&home)),
            socket: home,
            dir: Some(dir),
        }
    }

    /// Stops a server of this test alone: fast, connections are ended.
    pub fn down(&mut self) {
        assert!(self.dir.is_some(), "the shared server is not to be stopped");
        self.service.down();
    }

    /// Starts it again.
    pub fn up(&mut self) {
        let dir = self.dir.as_ref().map(|dir| dir.path().to_owned());
        let plan = plan(&self.socket, Duration::ZERO, dir);
        self.service.up(&plan, || is_ready(&self.socket));
    }

    /// Makes an empty database; its URL.
    pub fn database(&self) -> String {
        let name = format!("t{}", uuid::Uuid::now_v7().simple());
        let made = client("createdb")
            .arg("-h")
            .arg(&self.socket)
            .args(["-U", "postgres", &name])
            .status();
        assert!(made.is_ok_and(|status| status.success()), "createdb failed");
        self.url(&name)
    }

    /// URL of a database of that name.
    pub fn url(&self, database: &str) -> String {
        let host = self.socket.to_string_lossy().replace('/', "%2F");
        format!("postgres://postgres@{host}/{database}")
    }
}

/// Where the newest installed server's programs are.
pub(crate) fn programs() -> Option<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").ok();
    let newest = versions.and_then(|dirs| {
        let mut dirs: Vec<PathBuf> = dirs
            .filter_map(|entry| Some(entry.ok()?.path().join("bin")))
            .collect();
        dirs.retain(|dir| dir.join("initdb").is_file());
        dirs.sort_by_key(|dir| version(dir));
        dirs.pop()
    });
    newest.or_else(|| Some(crate::in_path("initdb")?.parent()?.to_owned()))
}

fn version(bin: &Path) -> u32 {
    let name = bin.parent().and_then(Path::file_name).unwrap_or_default();
    name.to_string_lossy().parse().unwrap_or(0)
}

/// A server program with its first words: the server refuses to run as root.
fn server(name: &str) -> Vec<String> {
    let program = programs()
        .unwrap_or_default()
        .join(name)
        .to_string_lossy()
        .into_owned();
    let mut words = vec!["setpriv".to_owned(), "--pdeathsig=INT".to_owned()];
    if nix::unistd::geteuid().is_root() {
        words.extend(["--reuid=postgres", "--regid=postgres", "--clear-groups"].map(str::to_owned));
    }
    words.extend(["--".to_owned(), program]);
    words
}

fn client(name: &str) -> Command {
    Command::new(programs().unwrap_or_default().join(name))
}

fn init(home: &Path) {
    if nix::unistd::geteuid().is_root() {
        let user = nix::unistd::User::from_name("postgres").ok().flatten();
        let user = user.unwrap_or_else(|| panic!("there is no user postgres"));
        std::os::unix::fs::chown(home, Some(user.uid.as_raw()), Some(user.gid.as_raw()))
            .unwrap_or_else(|error| panic!("cannot give {} away: {error}", home.display()));
    }
    let words = server("initdb");
    let output = Command::new(&words[0])
        .args(&words[1..])
        .args([
            "--no-sync",
            "-U",
            "postgres",
            "-A",
            "trust",
            "--locale=C.UTF-8",
            "-D",
        ])
        .arg(home.join("data"))
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("cannot start initdb: {error}"));
    assert!(
        output.status.success(),
        "initdb failed: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

fn plan(home: &Path, linger: Duration, remove: Option<PathBuf>) -> Plan {
    let mut command = server("postgres");
    let data = home.join("data");
    command.extend(["-D", &data.to_string_lossy(), "-k", &home.to_string_lossy()].map(str::to_owned));
    for setting in [
        "listen_addresses=",
        "max_connections=300",
        "shared_buffers=256MB",
        "max_wal_size=4GB",
    ] {
        command.extend(["-c".to_owned(), setting.to_owned()]);
    }
    Plan {
        command,
        linger,
        signal: nix::sys::signal::Signal::SIGINT as i32,
        remove,
        alone: false,
    }
}

fn is_ready(home: &Path) -> bool {
    home.join(".s.PGSQL.5432").exists()
        && client("pg_isready")
            .arg("-q")
            .arg("-h")
            .arg(home)
            .status()
            .is_ok_and(|status| status.success())
}

fn set_mode(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .unwrap_or_else(|error| panic!("cannot change {}: {error}", path.display()));
}
