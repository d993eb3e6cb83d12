//! Private PostgreSQL and Redis servers on free ports of the loopback, in a temporary directory.

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const START: Duration = Duration::from_secs(60);

/// What differs from a PostgreSQL as installed. Nothing of it trades durability for speed.
pub(crate) const POSTGRES_SETTINGS: &[&str] = &["max_connections=200"];
/// What differs from a Redis as installed.
pub(crate) const REDIS_SETTINGS: &[&str] = &["--save", "", "--appendonly", "yes"];

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// A child that is told to stop, and waited for, when this goes.
struct Server {
    child: Child,
    signal: Signal,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = kill(Pid::from_raw(self.child.id() as i32), self.signal);
        let _ = self.child.wait();
    }
}

/// The PostgreSQL that all use, ours and the peers.
pub(crate) struct Postgres {
    _server: Server,
    port: u16,
    made: u32,
}

/// A program of PostgreSQL. The server refuses to run as root, and is ended with the one who started it.
fn postgres_program(name: &str) -> Command {
    let bin = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path().join("bin")))
        .max_by_key(|bin| {
            let version = bin.parent().and_then(Path::file_name)?.to_str()?;
            version.parse::<u32>().ok()
        });
    let program = bin.map_or_else(|| PathBuf::from(name), |bin| bin.join(name));
    let mut command = Command::new("setpriv");
    command.arg("--pdeathsig=INT");
    if geteuid().is_root() {
        command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]);
    }
    command.arg(program);
    command.current_dir("/");
    command
}

fn succeed(command: &mut Command) -> Result<String> {
    let done = command
        .output()
        .with_context(|| format!("{} is not installed", command.get_program().display()))?;
    if !done.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&done.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&done.stdout).trim().to_owned())
}

impl Postgres {
    pub(crate) fn start(directory: &Path) -> Result<Self> {
        let home = directory.join("postgres");
        std::fs::create_dir(&home)?;
        if geteuid().is_root() {
            succeed(Command::new("chown").arg("postgres").arg(&home))?;
        }
        let data = home.join("data");
        succeed(
            postgres_program("initdb")
                .args(["-U", "postgres", "-A", "trust", "--locale=C.UTF-8", "-D"])
                .arg(&data),
        )?;
        let port = free_port()?;
        let mut command = postgres_program("postgres");
        command.arg("-D").arg(&data).arg("-k").arg(&home);
        command.args(["-h", "127.0.0.1", "-p", &port.to_string()]);
        for setting in POSTGRES_SETTINGS {
            command.args(["-c", setting]);
        }
        let log = home.join("log");
        let child = command
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(&log)?)
            .spawn()?;
        let server = Self {
            _server: Server {
                child,
                signal: Signal::SIGINT,
            },
            port,
            made: 0,
        };
        let end = Instant::now() + START;
        while server.sql("postgres", "SELECT 1").is_err() {
            if Instant::now() > end {
                let said = std::fs::read_to_string(&log).unwrap_or_default();
                bail!("PostgreSQL does not start: {}", said.trim());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(server)
    }

    /// The answer to a statement, unaligned.
    pub(crate) fn sql(&self, database: &str, sql: &str) -> Result<String> {
        succeed(
            postgres_program("psql")
                .args(["-qAtX", "-h", "127.0.0.1", "-U", "postgres"])
                .args(["-p", &self.port.to_string(), "-d", database, "-c", sql]),
        )
    }

    /// A database with nothing in it.
    pub(crate) fn database(&mut self) -> Result<String> {
        self.made += 1;
        let name = format!("bench{}", self.made);
        self.sql("postgres", &format!("CREATE DATABASE {name}"))?;
        // What others left to be written is not for the next to pay.
        self.sql("postgres", "CHECKPOINT")?;
        Ok(format!("postgres://postgres@127.0.0.1:{}/{name}", self.port))
    }

    pub(crate) fn drop_database(&self, url: &str) -> Result<()> {
        let name = url.rsplit('/').next().unwrap_or_default();
        self.sql("postgres", &format!("DROP DATABASE {name} WITH (FORCE)"))?;
        Ok(())
    }
}

/// A Redis with `appendfsync` as given.
pub(crate) struct Redis {
    _server: Server,
    port: u16,
}

impl Redis {
    pub(crate) fn start(directory: &Path, appendfsync: &str) -> Result<Self> {
        let home = directory.join(format!("redis-{appendfsync}"));
        std::fs::create_dir(&home)?;
        let port = free_port()?;
        let child = Command::new("setpriv")
            .args(["--pdeathsig=TERM", "redis-server"])
            .args(["--bind", "127.0.0.1", "--port", &port.to_string(), "--dir"])
            .arg(&home)
            .args(REDIS_SETTINGS)
            .args(["--appendfsync", appendfsync])
            .stdout(std::fs::File::create(home.join("log"))?)
            .spawn()
            .context("redis-server cannot be started")?;
        let server = Self {
            _server: Server {
                child,
                signal: Signal::SIGTERM,
            },
            port,
        };
        let end = Instant::now() + START;
        while server.command("PING").is_err() {
            ensure!(Instant::now() < end, "Redis does not start");
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(server)
    }

    fn command(&self, command: &str) -> Result<String> {
        succeed(Command::new("redis-cli").args(["-p", &self.port.to_string(), command]))
    }

    /// A database with nothing in it.
    pub(crate) fn database(&self) -> Result<String> {
        self.command("FLUSHALL")?;
        Ok(format!("redis://127.0.0.1:{}/0", self.port))
    }
}

/// First line that a program says about its version.
pub(crate) fn version(program: &str, argument: &str) -> String {
    let mut command = if program == "postgres" {
        postgres_program("postgres")
    } else {
        Command::new(program)
    };
    succeed(command.arg(argument))
        .ok()
        .and_then(|said| said.lines().next().map(str::to_owned))
        .unwrap_or_else(|| format!("{program}: not installed"))
}
