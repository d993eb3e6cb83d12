//! The binary, a server, and how a command went.

use ostler_test_kit::TestServer;
use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, ChildStderr, ChildStdout, Command, Output, Stdio};
use std::time::{Duration, Instant};

pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// The binary, with nothing of the environment's settings.
pub(crate) fn binary(data: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ostler"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("OSTLER_") {
            command.env_remove(name);
        }
    }
    command.env("OSTLER_DATA", data).stdin(Stdio::null());
    command
}

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Done {
    pub(crate) fn of(command: &mut Command) -> Self {
        command.output().unwrap().into()
    }
}

impl From<Output> for Done {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

/// A command that has not ended yet.
pub(crate) struct Started {
    child: Child,
    out: BufReader<ChildStdout>,
    err: BufReader<ChildStderr>,
    done: Done,
}

impl Started {
    /// Reads its standard output until it says this.
    pub(crate) fn until_prints(&mut self, text: &str) {
        read_until(&mut self.out, &mut self.done.out, text);
    }

    /// Reads its standard error until it says this.
    pub(crate) fn until_notes(&mut self, text: &str) {
        read_until(&mut self.err, &mut self.done.err, text);
    }

    pub(crate) fn interrupt(&self) {
        let pid = self.child.id().to_string();
        let status = Command::new("kill").args(["-INT", &pid]).status();
        assert!(status.unwrap().success());
    }

    /// What it prints is small enough for a pipe, so that one can be read after the other.
    pub(crate) fn wait(mut self) -> Done {
        drop(self.child.stdin.take());
        self.out.read_to_string(&mut self.done.out).unwrap();
        self.err.read_to_string(&mut self.done.err).unwrap();
        self.done.code = self.child.wait().unwrap().code().unwrap();
        self.done
    }
}

pub(crate) fn read_until(from: &mut impl BufRead, seen: &mut String, text: &str) {
    while !seen.contains(text) {
        assert_ne!(
            from.read_line(seen).unwrap(),
            0,
            "it ended without `{text}`: {seen}"
        );
    }
}

/// A server, and the command line that finds it in its data directory.
pub(crate) struct Cli(pub(crate) TestServer);

impl Cli {
    /// With the simulated driver only, and thus with one pool of it, `default`.
    pub(crate) async fn simulated(data: &Path, settings: &[(&str, &str)]) -> Self {
        let mut server = TestServer::new(env!("CARGO_BIN_EXE_ostler"), data)
            .env("OSTLER_DRIVERS__SIM", "true")
            .env("OSTLER_DRIVERS__PROCESS", "false")
            .env("OSTLER_DRIVERS__DOCKER", "false");
        for (name, value) in settings {
            server = server.env(name, value);
        }
        Self(server.start().await)
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = binary(self.0.data());
        command.args(arguments);
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Done {
        Done::of(&mut self.command(arguments))
    }

    pub(crate) fn start(&self, arguments: &[&str]) -> Started {
        let mut command = self.command(arguments);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        Started {
            out: BufReader::new(child.stdout.take().unwrap()),
            err: BufReader::new(child.stderr.take().unwrap()),
            child,
            done: Done {
                code: -1,
                out: String::new(),
                err: String::new(),
            },
        }
    }

    pub(crate) fn run_with(&self, arguments: &[&str], input: &str) -> Done {
        let mut started = self.start(arguments);
        let stdin = started.child.stdin.as_mut().unwrap();
        stdin.write_all(input.as_bytes()).unwrap();
        started.wait()
    }

    /// A command that succeeds; what it printed.
    pub(crate) fn ok(&self, arguments: &[&str]) -> String {
        let done = self.run(arguments);
        assert_eq!(done.code, 0, "{arguments:?}: {done:?}");
        done.out
    }

    /// The same with `--json`.
    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.ok(&[&["--json"], arguments].concat())).unwrap()
    }

    /// Repeats a command until its answer is as wanted.
    pub(crate) fn until(&self, arguments: &[&str], wanted: impl Fn(&Value) -> bool) -> Value {
        let end = Instant::now() + LIMIT;
        loop {
            let value = self.json(arguments);
            if wanted(&value) {
                return value;
            }
            assert!(Instant::now() < end, "{arguments:?}: {value:#}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

pub(crate) fn lines(text: &str) -> Vec<Value> {
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

pub(crate) fn id(text: &str, prefix: &str) -> String {
    let id = text.strip_suffix('\n').unwrap();
    assert!(
        id.starts_with(prefix) && !id.contains(char::is_whitespace),
        "{id}"
    );
    id.to_owned()
}
