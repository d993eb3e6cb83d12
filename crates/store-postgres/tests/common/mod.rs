//! A PostgreSQL server of one's own, on a Unix socket in a temporary directory.

#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "test support; not every test uses all of it"
)]

use sqlx::{AssertSqlSafe, Connection};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

pub(crate) struct Server {
    dir: tempfile::TempDir,
    child: Option<Child>,
    made: u32,
}

fn program(name: &str) -> Command {
    let bin = std::fs::read_dir("/usr/lib/postgresql")
        .unwrap()
        .filter_map(|entry| Some(entry.ok()?.path().join("bin")))
        .max()
        .unwrap_or_else(|| PathBuf::from("/usr/bin"));
    // SAFETY: geteuid has no preconditions.
    let root = unsafe { libc::geteuid() } == 0;
    if root {
        // The server refuses to run as root.
        let mut command = Command::new("setpriv");
        command.args([
            "--reuid=postgres",
            "--regid=postgres",
            "--clear-groups",
            "--pdeathsig=INT",
        ]);
        command.arg(bin.join(name));
        return command;
    }
    Command::new(bin.join(name))
}

impl Server {
    pub(crate) fn start() -> Self {
        let dir = tempfile::Builder::new().prefix("pg").tempdir().unwrap();
        // SAFETY: geteuid has no preconditions.
        if unsafe { libc::geteuid() } == 0 {
            assert!(
                Command::new("chown")
                    .arg("postgres")
                    .arg(dir.path())
                    .status()
                    .unwrap()
                    .success()
            );
        }
        let done = program("initdb")
            .args(["-N", "-U", "postgres", "-A", "trust", "--locale=C.UTF-8", "-D"])
            .arg(dir.path().join("data"))
            .stdout(Stdio::null())
            .status()
            .unwrap();
        assert!(done.success());
        let mut server = Self {
            dir,
            child: None,
            made: 0,
        };
        server.up();
        server
    }

    fn socket(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn url(&self, database: &str) -> String {
        let host = self.socket().to_str().unwrap().replace('/', "%2F");
        format!("postgres://postgres@{host}/{database}")
    }

    pub(crate) fn up(&mut self) {
        let child = program("postgres")
            .arg("-D")
            .arg(self.dir.path().join("data"))
            .arg("-k")
            .arg(self.socket())
            .args([
                "-c",
                "listen_addresses=",
                "-c",
                "max_connections=200",
                "-c",
                "shared_buffers=512MB",
            ])
            .args(["-c", "max_wal_size=4GB"])
            .stdout(Stdio::null())
            .stderr(Stdio::from(
                std::fs::File::create(self.dir.path().join("log")).unwrap(),
            ))
            .spawn()
            .unwrap();
        self.child = Some(child);
        let start = Instant::now();
        while !program("pg_isready")
            .arg("-q")
            .arg("-h")
            .arg(self.socket())
            .status()
            .unwrap()
            .success()
        {
            assert!(
                start.elapsed() < Duration::from_secs(60),
                "the server does not start"
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    pub(crate) fn down(&mut self) {
        if let Some(mut child) = self.child.take() {
            // Fast shutdown.
            // SAFETY: the process is our own child and has not been waited for.
            unsafe { libc::kill(child.id() as i32, libc::SIGINT) };
            let _ = child.wait();
        }
    }

    pub(crate) async fn database(&mut self) -> String {
        self.made += 1;
        let name = format!("db{}", self.made);
        let mut admin = sqlx::PgConnection::connect(&self.url("postgres")).await.unwrap();
        sqlx::query(AssertSqlSafe(format!("CREATE DATABASE {name}")))
            .execute(&mut admin)
            .await
            .unwrap();
        self.url(&name)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.down();
    }
}
