//! The command line through the real binary: a server with the simulated driver, and every verb as a person uses it.

#![allow(clippy::unwrap_used, reason = "test code")]

use ostler_test_kit::{TestServer, git, repository, require};
use serde_json::{Value, json};
use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

const LIMIT: Duration = Duration::from_secs(60);

/// The binary, with nothing of the environment's settings.
fn binary(data: &Path) -> Command {
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
struct Done {
    code: i32,
    out: String,
    err: String,
}

impl Done {
    fn of(command: &mut Command) -> Self {
        command.output().unwrap().into()
    }

    /// Of one that was started with [`Cli::start`].
    fn wait(child: Child) -> Self {
        child.wait_with_output().unwrap().into()
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

/// A server, and the command line that finds it in its data directory.
struct Cli(TestServer);

impl Cli {
    /// With the simulated driver only, and thus with one pool of it, `default`.
    async fn simulated(data: &Path, settings: &[(&str, &str)]) -> Self {
        let mut server = TestServer::new(env!("CARGO_BIN_EXE_ostler"), data)
            .env("OSTLER_DRIVERS__SIM", "true")
            .env("OSTLER_DRIVERS__PROCESS", "false")
            .env("OSTLER_DRIVERS__DOCKER", "false");
        for (name, value) in settings {
            server = server.env(name, value);
        }
        Self(server.start().await)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = binary(self.0.data());
        command.args(arguments);
        command
    }

    fn run(&self, arguments: &[&str]) -> Done {
        Done::of(&mut self.command(arguments))
    }

    fn start(&self, arguments: &[&str]) -> Child {
        let mut command = self.command(arguments);
        let pipes = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        pipes.spawn().unwrap()
    }

    fn run_with(&self, arguments: &[&str], input: &str) -> Done {
        let mut child = self.start(arguments);
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        Done::wait(child)
    }

    /// A command that succeeds; what it printed.
    fn ok(&self, arguments: &[&str]) -> String {
        let done = self.run(arguments);
        assert_eq!(done.code, 0, "{arguments:?}: {done:?}");
        done.out
    }

    /// The same with `--json`.
    fn json(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.ok(&[&["--json"], arguments].concat())).unwrap()
    }

    /// Repeats a command until its answer is as wanted.
    fn until(&self, arguments: &[&str], wanted: impl Fn(&Value) -> bool) -> Value {
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

fn lines(text: &str) -> Vec<Value> {
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn id(text: &str, prefix: &str) -> String {
    let id = text.strip_suffix('\n').unwrap();
    assert!(
        id.starts_with(prefix) && !id.contains(char::is_whitespace),
        "{id}"
    );
    id.to_owned()
}

#[tokio::test]
async fn runs() {
    let dir = tempfile::tempdir().unwrap();
    let server = Cli::simulated(dir.path(), &[]).await;
    let pool = server.json(&["pool", "set", "default", "--target", "1", "--max", "4"]);
    assert_eq!((&pool["target"], &pool["max"]), (&1.into(), &4.into()), "{pool}");
    assert_eq!(
        pool["template"]["driver"], "sim",
        "what is not named stays: {pool}"
    );
    assert!(server.ok(&["pool", "list"]).contains("default"));
    assert_eq!(server.json(&["pool", "list"])[0]["name"], "default");

    // Followed: the program's output alone, and its code.
    assert_eq!(
        server.ok(&["run", "submit", "-f", "--", "echo", "hello"]),
        "hello\n"
    );
    let failed = server.run(&["run", "submit", "-f", "--", "exit", "7"]);
    assert_eq!((failed.code, failed.out.as_str()), (7, ""), "{failed:?}");
    let echoed = server.run_with(&["run", "submit", "-f", "--stdin", "--", "cat"], "words");
    assert_eq!((echoed.code, echoed.out.as_str()), (0, "words"), "{echoed:?}");
    let env = server.ok(&["run", "submit", "-f", "-e", "COLOUR=red", "--", "env"]);
    assert!(env.lines().any(|line| line == "COLOUR=red"), "{env}");
    let late = server.run(&["run", "submit", "-f", "--timeout", "1s", "--", "sleep", "60"]);
    assert!(late.code == 124 && late.err.contains("timed_out"), "{late:?}");
    let followed = lines(&server.ok(&["run", "submit", "-f", "--json", "--", "echo", "hello"]));
    assert_eq!(followed.first().unwrap()["run"]["kind"], "command");
    assert_eq!(followed.last().unwrap()["run"]["status"], "succeeded");
    assert!(
        followed.iter().any(|line| line["log"]["text"] == "hello\n"),
        "{followed:?}"
    );

    // Not followed.
    let run = id(
        &server.ok(&["run", "submit", "--priority", "-5", "--", "echo", "later"]),
        "run_",
    );
    assert_eq!(server.ok(&["run", "logs", "-f", &run]), "later\n");
    assert_eq!(server.ok(&["run", "logs", &run]), "later\n");
    assert_eq!(server.ok(&["run", "logs", "--after", "1", &run]), "");
    assert_eq!(
        lines(&server.ok(&["run", "logs", "--json", &run]))[0]["text"],
        "later\n"
    );
    let end = &run[run.len() - 8..];
    let shown = server.ok(&["run", "show", end]);
    assert!(shown.contains(&run) && shown.contains("succeeded"), "{shown}");
    assert_eq!(server.json(&["run", "show", &run])["priority"], -5);
    assert!(server.ok(&["run", "explain", &run]).contains("succeeded"));
    assert_eq!(server.json(&["run", "explain", &run])["status"], "succeeded");

    // Ended from elsewhere.
    let long = server.start(&["run", "submit", "-f", "--", "sleep", "600"]);
    let running = server.until(&["run", "list", "--status", "running"], |runs| {
        runs[0].is_object()
    });
    let running = running[0]["id"].as_str().unwrap().to_owned();
    assert!(server.ok(&["run", "cancel", &running]).contains(&running));
    let long = Done::wait(long);
    assert!(long.code == 130 && long.err.contains("cancelled"), "{long:?}");
    assert_eq!(server.json(&["run", "show", &running])["status"], "cancelled");
    assert_eq!(server.json(&["run", "cancel", &running])["outcome"], "too_late");
    let all = server.json(&["run", "list", "--kind", "command"]);
    assert_eq!(all.as_array().unwrap().len(), 8, "{all}");
    assert_eq!(
        server
            .json(&["run", "list", "--limit", "2"])
            .as_array()
            .unwrap()
            .len(),
        2
    );
    let table = server.ok(&["run", "list"]);
    assert!(table.starts_with("ID") && table.contains("timed_out"), "{table}");
}

#[tokio::test]
async fn agents() {
    let dir = tempfile::tempdir().unwrap();
    let server = Cli::simulated(dir.path(), &[]).await;
    assert!(server.ok(&["agent", "list"]).contains("ostler agent provision"));
    let agent = id(
        &server.ok(&["agent", "provision", "-e", "A=1", "--allow", "issue.list"]),
        "sbx_",
    );
    let second = server.json(&["agent", "provision", "--pool", "default"]);
    assert_eq!(second["status"], "running");
    assert_eq!(server.json(&["agent", "list"]).as_array().unwrap().len(), 2);
    let shown = server.ok(&["agent", "show", &agent]);
    assert!(
        shown.contains("running") && shown.contains("issue.list"),
        "{shown}"
    );

    let exec = |arguments: &[&str]| server.run(&[&["agent", "exec", &agent], arguments].concat());
    let env = exec(&["-e", "B=2", "--", "env"]);
    assert!(env.out.contains("A=1\n") && env.out.contains("B=2\n"), "{env:?}");
    assert_eq!(exec(&["--", "exit", "3"]).code, 3);
    let late = exec(&["--timeout", "1s", "--", "sleep", "60"]);
    assert!(late.code == 124 && late.err.contains("--timeout"), "{late:?}");
    let absent = exec(&["--", "no-such-program"]);
    assert!(
        absent.code == 1 && absent.err.contains("could not be started"),
        "{absent:?}"
    );
    let echoed = server.run_with(&["agent", "exec", "--stdin", &agent, "--", "cat"], "words");
    assert_eq!((echoed.code, echoed.out.as_str()), (0, "words"), "{echoed:?}");
    let json = lines(&server.ok(&["agent", "exec", "--json", &agent, "--", "echo", "x"]));
    assert_eq!(
        (&json[0]["log"]["text"], &json[1]["exit"]["exit_code"]),
        (&"x\n".into(), &0.into())
    );

    let nothing = server.run(&["agent", "configure", &agent]);
    assert_eq!(nothing.code, 2, "{nothing:?}");
    server.ok(&["agent", "configure", &agent, "-e", "C=3"]);
    let env = exec(&["--", "env"]);
    assert!(env.out.contains("A=1\n") && env.out.contains("C=3\n"), "{env:?}");
    let configured = server.run_with(
        &["agent", "configure", "--json", "--configuration", "-", &agent],
        r#"{"env":{"D":"4"}}"#,
    );
    let configured: Value = serde_json::from_str(&configured.out).unwrap();
    assert_eq!(configured["config"]["env"], json!({ "D": "4" }));

    // The operator's view.
    assert!(server.ok(&["sandbox", "list"]).contains(&agent));
    assert_eq!(server.json(&["sandbox", "show", &agent])["pool"], "default");
    assert!(server.ok(&["agent", "destroy", &agent]).contains("destroyed"));
    assert_eq!(server.json(&["agent", "destroy", &agent])["done"], "destroyed");
    let gone = exec(&["--", "true"]);
    assert!(gone.code == 4 && gone.err.contains("destroyed"), "{gone:?}");
    assert_eq!(server.json(&["agent", "list"]).as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn projects_and_tasks() {
    let dir = tempfile::tempdir().unwrap();
    repository(&dir.path().join("shop"), &[("README", "sample\n")]);
    let settings = [
        ("OSTLER_WORK__AGENT_KIND", "command"),
        ("OSTLER_AGENTS__COMMAND_ARGV", r#"["false"]"#),
        ("OSTLER_WORK__PLANNER_ATTEMPTS", "2"),
        ("OSTLER_WORK__BACKOFF_FIRST_SECONDS", "0.1"),
        ("OSTLER_WORK__BACKOFF_MAX_SECONDS", "0.1"),
    ];
    let server = Cli::simulated(&dir.path().join("data"), &settings).await;
    let mut relative = server.command(&["project", "add", "--json", "shop"]);
    let relative = Done::of(relative.current_dir(dir.path()));
    let project: Value = serde_json::from_str(&relative.out).unwrap();
    assert_eq!(
        (&project["name"], &project["default_branch"]),
        (&"shop".into(), &"main".into())
    );
    let again = server.run(&["project", "add", dir.path().join("shop").to_str().unwrap()]);
    assert_eq!(again.code, 4, "{again:?}");
    assert!(server.ok(&["project", "list"]).contains("shop"));
    assert_eq!(server.json(&["project", "list"])[0], project);
    assert!(server.ok(&["project", "show", "shop"]).contains("main"));
    assert_eq!(server.ok(&["project", "cleanup", "shop"]), "nothing to remove\n");

    // The only sandbox is held, so that the planner waits; the watch says why.
    server.ok(&["pool", "set", "default", "--target", "0", "--max", "1"]);
    let destroyed = |sandboxes: &Value| sandboxes.as_array().unwrap().is_empty();
    server.until(&["sandbox", "list"], destroyed);
    let holder = id(&server.ok(&["agent", "provision"]), "sbx_");
    let created = server.run_with(
        &["task", "create", "-p", "shop", "-t", "Sell", "-d", "-"],
        "Sell what is there.\n",
    );
    assert_eq!(created.code, 0, "{created:?}");
    let task = id(&created.out, "tsk_");
    assert_eq!(
        server.json(&["task", "show", &task])["description"],
        "Sell what is there.\n"
    );
    assert!(server.ok(&["task", "list", "-p", "shop"]).contains("planning"));
    assert_eq!(server.json(&["task", "list"])[0]["id"], task.as_str());
    assert_eq!(server.json(&["subtask", "list", "-t", &task]), json!([]));
    let watch = server.start(&["task", "watch", &task]);
    std::thread::sleep(Duration::from_secs(7));
    server.ok(&["agent", "destroy", &holder]);
    // The agent of this server fails, so that planning does.
    let watched = Done::wait(watch);
    assert_eq!(watched.code, 1, "{watched:?}");
    assert!(
        watched.out.contains("task Sell: planning (run run_"),
        "{watched:?}"
    );
    assert!(
        watched.out.contains("planning (attempt 2, run run_"),
        "{watched:?}"
    );
    assert!(
        watched.out.contains("task Sell: planning_failed: "),
        "{watched:?}"
    );
    assert!(
        watched.err.contains("the planner run run_") && watched.err.contains("in use"),
        "{watched:?}"
    );
    assert!(watched.err.contains("ostler task retry-planning"), "{watched:?}");

    assert_eq!(
        server.json(&["task", "retry-planning", &task])["status"],
        "planning"
    );
    let json = server.run(&["task", "watch", "--json", &task]);
    let last = lines(&json.out).pop().unwrap();
    assert_eq!(
        (json.code, &last["task"]["status"]),
        (1, &"planning_failed".into()),
        "{json:?}"
    );
    let early = server.run(&["task", "retry-planning", &task]);
    assert_eq!(early.code, 0, "{early:?}");
    let early = server.run(&["task", "retry-planning", &task]);
    assert_eq!(early.code, 4, "it is being planned: {early:?}");

    assert_eq!(server.ok(&["task", "delete", &task]), format!("{task} deleted\n"));
    let gone = server.run(&["task", "show", &task]);
    assert_eq!(gone.code, 3, "{gone:?}");
    for verb in ["show", "start", "retry", "merge", "diff", "kill"] {
        let missing = server.run(&["subtask", verb, "nothing-like-it"]);
        assert!(
            missing.code == 3 && missing.err.contains("no subtask"),
            "{verb}: {missing:?}"
        );
        let missing = server.run(&["subtask", verb, "sub_00000000000000000000000000"]);
        assert_eq!(missing.code, 3, "{verb}: {missing:?}");
    }
    assert_eq!(server.json(&["project", "remove", "shop"])["done"], "removed");
    assert_eq!(server.json(&["project", "list"]), json!([]));
}

#[tokio::test]
async fn tokens() {
    let dir = tempfile::tempdir().unwrap();
    let server = Cli::simulated(dir.path(), &[]).await;
    let made = server.run(&["token", "create", "ci", "-p", "runs:read", "--expires-in", "7"]);
    assert_eq!(made.code, 0, "{made:?}");
    let secret = made.out.trim_end().to_owned();
    assert!(
        !secret.contains(char::is_whitespace) && !made.err.contains(&secret),
        "{made:?}"
    );
    let list = server.ok(&["token", "list"]);
    assert!(
        list.contains("ci") && list.contains("runs:read") && !list.contains(&secret),
        "{list}"
    );

    let with = |token: &str, arguments: &[&str]| -> Done {
        server
            .command(arguments)
            .env("OSTLER_TOKEN", token)
            .output()
            .unwrap()
            .into()
    };
    assert_eq!(with(&secret, &["run", "list"]).code, 0);
    let forbidden = with(&secret, &["project", "list"]);
    assert!(
        forbidden.code == 4 && forbidden.err.contains("projects:read"),
        "{forbidden:?}"
    );
    assert_eq!(
        with("", &["project", "list"]).code,
        0,
        "set to nothing is not set"
    );
    assert_eq!(
        server.ok(&["token", "revoke", "ci"]).split(' ').next_back(),
        Some("revoked\n")
    );
    let revoked = with(&secret, &["run", "list"]);
    assert!(
        revoked.code == 4 && revoked.err.contains("OSTLER_TOKEN"),
        "{revoked:?}"
    );
    assert!(!revoked.err.contains(&secret), "{revoked:?}");
    assert!(server.json(&["token", "list"])[0]["revoked_at"].is_string());

    // The token of the data directory goes to its own server only.
    let url = server.0.url().replace("127.0.0.1", "localhost");
    let elsewhere = server.run(&["--server", &url, "run", "list"]);
    assert!(
        elsewhere.code == 4 && elsewhere.err.contains("token"),
        "{elsewhere:?}"
    );
    let url = format!("{}/", server.0.url());
    assert_eq!(server.run(&["--server", &url, "run", "list"]).code, 0);
}

#[test]
fn what_needs_no_server() {
    let dir = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| -> Done { binary(dir.path()).args(arguments).output().unwrap().into() };
    let version = run(&["version"]);
    assert_eq!(version.out, format!("ostler {}\n", env!("CARGO_PKG_VERSION")));
    let version: Value = serde_json::from_str(&run(&["version", "--json"]).out).unwrap();
    assert_eq!(version["version"], env!("CARGO_PKG_VERSION"));
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = run(&["completions", shell]);
        assert!(
            script.code == 0 && script.out.contains("retry-planning"),
            "{shell}: {script:?}"
        );
    }
    for verb in [
        &["migrate", "up"][..],
        &["migrate", "status"],
        &["migrate", "down", "--to", "0"],
    ] {
        let done = run(&[verb, &["--json"]].concat());
        let rows: Value = serde_json::from_str(&done.out).unwrap();
        let applied = verb[1] != "down";
        assert!(
            rows.as_array()
                .unwrap()
                .iter()
                .all(|row| row["applied"] == applied),
            "{rows}"
        );
    }
    let config: Done = binary(dir.path())
        .args(["config", "print", "--json"])
        .env("OSTLER_GATEWAY__OPENAI__API_KEY", "planted")
        .env("OSTLER_WORK__WORKER_ATTEMPTS", "3")
        .output()
        .unwrap()
        .into();
    let value: Value = serde_json::from_str(&config.out).unwrap();
    assert_eq!(value["work"]["worker_attempts"], 3);
    assert_eq!(value["gateway"]["openai"]["api_key"], "***");
    assert!(!config.out.contains("planted"));
    let wrong: Done = binary(dir.path())
        .args(["config", "print", "--json"])
        .env("OSTLER_WORK__WORKER_ATEMPTS", "3")
        .output()
        .unwrap()
        .into();
    let error: Value = serde_json::from_str(&wrong.err).unwrap();
    assert!(
        wrong.code == 1
            && error["error"]["message"]
                .as_str()
                .unwrap()
                .contains("worker_atempts"),
        "{wrong:?}"
    );
}

/// What goes wrong: the arguments, the code, and what the message must say.
type Wrong = (&'static [&'static str], i32, &'static str);

fn refused(run: impl Fn(&[&str]) -> Done, cases: &[Wrong]) {
    let mut wrong = Vec::new();
    for (arguments, code, says) in cases {
        let done = run(arguments);
        let message = done.err.lines().any(|line| line.starts_with("error: "));
        let as_wanted = done.code == *code && done.out.is_empty() && done.err.contains(says);
        if !(as_wanted && message) || done.err.contains("secret@") {
            wrong.push(format!(
                "{arguments:?} should end with {code} and say `{says}`: {done:?}"
            ));
        }
        let json = run(&[&["--json"], *arguments].concat());
        let last = json.err.lines().last().unwrap_or_default();
        let error: Value = serde_json::from_str(last).unwrap_or_default();
        let text = error["error"]["message"].as_str().unwrap_or_default();
        // The parser of arguments speaks to people only.
        let parser = json.err.contains("For more information");
        if json.code != *code || !json.out.is_empty() || !(parser || text.contains(says)) {
            wrong.push(format!("{arguments:?} with --json: {json:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn mistakes_are_explained() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("empty")).unwrap();
    let server = Cli::simulated(&dir.path().join("data"), &[]).await;
    let run = |arguments: &[&str]| -> Done {
        server
            .command(arguments)
            .current_dir(dir.path())
            .output()
            .unwrap()
            .into()
    };
    refused(
        run,
        &[
            (&["project", "show", "nothing"], 3, "ostler project list"),
            (&["project", "add", "missing"], 4, "missing"),
            (&["project", "add", "empty"], 4, "empty"),
            (
                &["project", "add", "https://me:secret@127.0.0.1/x.git"],
                2,
                "password",
            ),
            (
                &["task", "create", "-p", "nothing", "-t", "x"],
                3,
                "ostler project list",
            ),
            (
                &[
                    "task",
                    "create",
                    "-p",
                    "prj_00000000000000000000000000",
                    "-t",
                    "x",
                ],
                3,
                "project",
            ),
            (&["task", "create", "-t", "x"], 2, "--project"),
            (&["task", "watch", "tsk_00000000000000000000000000"], 3, "task"),
            (&["task", "show", "nothing"], 3, "ostler task list"),
            (&["run", "show", "run_00000000000000000000000000"], 3, "run"),
            (&["run", "logs", "-f", "run_00000000000000000000000000"], 3, "run"),
            (
                &["run", "submit", "--pool", "large", "--", "true"],
                4,
                "not large",
            ),
            (&["run", "submit", "--cpus", "4000", "--", "true"], 4, "CPUs"),
            (&["run", "submit", "--memory", "much", "--", "true"], 2, "512M"),
            (&["run", "submit", "--timeout", "soon", "--", "true"], 2, "30s"),
            (&["run", "submit", "--timeout", "30d", "--", "true"], 2, "7 days"),
            (
                &["run", "submit", "--env", "COLOUR", "--", "true"],
                2,
                "KEY=VALUE",
            ),
            (&["run", "submit", "--priority", "5000", "--", "true"], 2, "1000"),
            (&["run", "submit"], 2, "COMMAND"),
            (&["run", "list", "--status", "asleep"], 2, "asleep"),
            (&["agent", "provision", "--pool", "large"], 4, "not large"),
            (&["agent", "provision", "--configuration", "{"], 2, "JSON"),
            (
                &["agent", "provision", "--configuration", "@missing"],
                2,
                "missing",
            ),
            (
                &["agent", "exec", "nothing", "--", "true"],
                3,
                "ostler agent list",
            ),
            (&["pool", "set", "large", "--max", "3"], 2, "template"),
            (&["pool", "set", "large", "--cpus", "3"], 2, "--driver"),
            (&["pool", "set", "large", "--driver", "warp"], 2, "warp"),
            (&["token", "create", "x", "-p", "everything"], 2, "everything"),
            (&["token", "revoke", "nothing"], 3, "ostler token list"),
            (&["sandbox", "show", "nothing"], 3, "ostler sandbox list"),
            (&["--token", "wrong", "run", "list"], 4, "token"),
            (
                &["--token", "two\nlines", "run", "list"],
                2,
                "ostler token create",
            ),
            (&["--server", "ftp://host", "run", "list"], 2, "http://"),
            (
                &["--server", "http://127.0.0.1:1", "run", "list"],
                5,
                "ostler serve",
            ),
            (&["teapot"], 2, "teapot"),
        ],
    );
    let kinds = server.json(&["kinds"]);
    assert!(
        kinds
            .as_array()
            .unwrap()
            .iter()
            .any(|kind| kind["default"] == true),
        "{kinds}"
    );
    assert!(server.ok(&["kinds"]).contains("claude"));

    // Something that is no Ostler server.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let foreign = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = [0; 4096];
        let _ = std::io::Read::read(&mut stream, &mut request).unwrap();
        stream
            .write_all(b"HTTP/1.1 418 Teapot\r\ncontent-length: 5\r\nconnection: close\r\n\r\nshort")
            .unwrap();
    });
    let done = server.run(&["--server", &url, "run", "list"]);
    foreign.join().unwrap();
    assert!(done.code == 5 && done.err.contains("418"), "{done:?}");

    // No server, and one that was there.
    drop(server);
    let data = dir.path().join("data");
    let gone: Done = binary(&data).args(["run", "list"]).output().unwrap().into();
    assert!(gone.code == 5 && gone.err.contains("ostler serve"), "{gone:?}");
    std::fs::write(data.join("server.json"), "{").unwrap();
    let torn: Done = binary(&data).args(["run", "list"]).output().unwrap().into();
    assert!(torn.code == 5 && torn.err.contains("server.json"), "{torn:?}");
    let never: Done = binary(&dir.path().join("other"))
        .args(["task", "list"])
        .output()
        .unwrap()
        .into();
    assert!(never.code == 5 && never.err.contains("ostler serve"), "{never:?}");
}

#[tokio::test]
async fn nobody_reads_on() {
    let dir = tempfile::tempdir().unwrap();
    let server = Cli::simulated(dir.path(), &[]).await;
    for arguments in [
        &["pool", "list"][..],
        &["kinds", "--json"],
        &["completions", "bash"],
        &["version"],
        &["config", "print"],
        &["run", "submit", "-f", "--", "echo", "x"],
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let done: Done = server.command(arguments).stdout(writer).output().unwrap().into();
        assert_eq!(done.code, 0, "{arguments:?}: {done:?}");
        assert!(
            !done.err.contains("error") && !done.err.contains("panic"),
            "{arguments:?}: {done:?}"
        );
    }
}

/// Passes connections on to a server that can be changed, and breaks them when asked.
struct Proxy {
    url: String,
    to: watch::Sender<String>,
}

impl Proxy {
    async fn to(url: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let own = format!("http://{}", listener.local_addr().unwrap());
        let (to, target) = watch::channel(url.to_owned());
        tokio::spawn(async move {
            while let Ok((mut from, _)) = listener.accept().await {
                let mut target = target.clone();
                tokio::spawn(async move {
                    let url = target.borrow_and_update().clone();
                    let address = url.strip_prefix("http://").unwrap_or_default();
                    let Ok(mut to) = TcpStream::connect(address).await else {
                        return;
                    };
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut from, &mut to) => {}
                        _ = target.changed() => {}
                    }
                });
            }
        });
        Self { url: own, to }
    }

    /// Breaks all connections; new ones go to this server.
    fn now_to(&self, url: &str) {
        self.to.send_replace(url.to_owned());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_is_followed_over_broken_connections_and_a_restart() {
    require!(Bubblewrap);
    let dir = tempfile::tempdir().unwrap();
    let server = TestServer::new(env!("CARGO_BIN_EXE_ostler"), dir.path());
    let mut server = Cli(server.env("OSTLER_DRIVERS__DOCKER", "false").start().await);
    let proxy = Proxy::to(server.0.url()).await;
    let token = server.0.token.clone().unwrap();
    let script = "for i in 1 2 3 4 5 6 7 8 9 10 11 12; do echo $i; sleep 0.5; done; exit 9";
    let follow = [
        "--server", &proxy.url, "--token", &token, "run", "submit", "-f", "--", "sh", "-c", script,
    ];
    let follow = server.start(&follow);
    let running = server.until(&["run", "list"], |runs| runs[0]["status"] == "running");
    let run = running[0]["id"].as_str().unwrap();
    std::thread::sleep(Duration::from_secs(1));
    proxy.now_to(server.0.url());
    std::thread::sleep(Duration::from_secs(1));
    server.0.kill_9();
    std::thread::sleep(Duration::from_secs(1));
    server.0.start_again().await;
    proxy.now_to(server.0.url());
    let done = Done::wait(follow);
    let wanted = "1\n2\n3\n4\n5\n6\n7\n8\n9\n10\n11\n12\n";
    assert_eq!((done.code, done.out.as_str()), (9, wanted), "{done:?}");
    assert!(
        done.err.contains("is lost") && done.err.contains("answers again"),
        "{done:?}"
    );
    assert_eq!(server.ok(&["run", "logs", run]), wanted);
    server.0.stop().await;
}

/// Plans two subtasks of which the second waits for the first, and writes a file for each.
const AGENT: &str = r#"
set -e
cat > /dev/null
if [ "$OSTLER_ROLE" = planner ]; then
  first=$(bd create "first" -d "Write first." --parent "$OSTLER_ISSUE_ID" --silent)
  second=$(bd create "second" -d "Write second." --parent "$OSTLER_ISSUE_ID" --silent)
  bd dep add "$second" "$first" > /dev/null
else
  part=$(bd show "$OSTLER_ISSUE_ID" --json | tr -d '\n' | sed 's/.*"title": *"\([a-z]*\)".*/\1/')
  [ "$part" = first ] || sleep 2
  echo words > "$part"
  git add "$part"
  git commit -qm "Write $part"
fi
bd close "$OSTLER_ISSUE_ID" > /dev/null
"#;

#[tokio::test]
async fn a_task_step_by_step() {
    require!(Bubblewrap);
    let dir = tempfile::tempdir().unwrap();
    let origin = dir.path().join("shop");
    let check = "[[check]]\nname = \"words\"\ncommand = \"grep -q words README first\"\n";
    repository(&origin, &[("README", "words\n"), ("ostler.toml", check)]);
    let argv = json!(["sh", "-c", AGENT]).to_string();
    let server = TestServer::new(env!("CARGO_BIN_EXE_ostler"), dir.path().join("data"))
        .env("OSTLER_DRIVERS__DOCKER", "false")
        .env("OSTLER_WORK__AGENT_KIND", "command")
        .env("OSTLER_AGENTS__COMMAND_ARGV", argv)
        .env("OSTLER_WORK__BACKOFF_FIRST_SECONDS", "0.1");
    let mut server = Cli(server.start().await);
    server.ok(&["project", "add", origin.to_str().unwrap()]);
    let task = id(
        &server.ok(&["task", "create", "-p", "shop", "-t", "Words"]),
        "tsk_",
    );
    let watch = server.start(&["task", "watch", &task]);
    let subtasks = server.until(&["subtask", "list", "-t", &task], |all| {
        all[0]["status"] == "ready"
    });
    let names: Vec<&str> = (0..2).map(|i| subtasks[i]["id"].as_str().unwrap()).collect();
    let [first, second] = names[..] else {
        unreachable!()
    };
    let early = server.run(&["subtask", "start", second]);
    assert!(
        early.code == 4 && early.err.contains("waits for others"),
        "{early:?}"
    );
    let early = server.run(&["subtask", "merge", first]);
    assert_eq!(early.code, 4, "{early:?}");

    assert_eq!(server.json(&["subtask", "start", first])["status"], "in_progress");
    let is = |status: &'static str| move |subtask: &Value| subtask["status"] == status;
    let done = server.until(&["subtask", "show", first], is("completed"));
    assert_eq!(done["runs"][1]["kind"], "worker", "{done:#}");
    let branch = done["branch"].as_str().unwrap();
    assert!(server.ok(&["subtask", "show", branch]).contains(first));
    let diff = server.run(&["subtask", "diff", first]);
    assert!(
        diff.out.contains("+words") && diff.err.contains("Write first"),
        "{diff:?}"
    );
    assert_eq!(server.json(&["subtask", "diff", first])["truncated"], false);
    assert!(server.ok(&["subtask", "merge", first]).contains("merged"));

    server.until(&["subtask", "show", second], is("ready"));
    server.ok(&["subtask", "start", second]);
    server.until(&["run", "list", "-t", &task, "--status", "running"], |runs| {
        runs[0].is_object()
    });
    assert!(server.ok(&["subtask", "kill", second]).contains("killed"));
    let killed = server.until(&["subtask", "show", second], is("blocked"));
    assert_eq!(killed["blocked_reason"], "failure");
    let stuck = Done::wait(watch);
    assert!(
        stuck.code == 1 && stuck.err.contains("ostler subtask retry"),
        "{stuck:?}"
    );
    assert!(
        stuck.out.contains("first: in_progress (worker run run_"),
        "{stuck:?}"
    );
    assert!(
        stuck.out.contains("first: in_progress (check run run_"),
        "{stuck:?}"
    );
    assert!(
        stuck
            .out
            .contains(&format!("first: completed (ostler subtask merge {first})")),
        "{stuck:?}"
    );

    server.ok(&["subtask", "retry", second]);
    let watch = server.start(&["task", "watch", "--json", &task]);
    server.until(&["subtask", "show", second], is("completed"));
    assert_eq!(server.json(&["subtask", "merge", second])["status"], "merged");
    let watched = Done::wait(watch);
    let last = lines(&watched.out).pop().unwrap();
    assert_eq!(
        (watched.code, &last["task"]["status"]),
        (0, &"done".into()),
        "{watched:?}"
    );
    let shown = server.ok(&["task", "show", &task]);
    assert!(shown.contains("done") && shown.contains("merged"), "{shown}");
    let cleaned = server.json(&["project", "cleanup", "shop"]);
    assert_eq!(cleaned["failures"], json!([]), "{cleaned}");
    server.0.stop().await;
    assert!(git(&origin, &["log", "--oneline", "main"]).contains("Write second"));
}
