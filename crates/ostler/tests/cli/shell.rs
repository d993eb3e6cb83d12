//! `ostler agent shell`, `cp`, `logs` and `events` with real programs, driven through terminals as a person would.

use crate::support::{Cli, LIMIT, id, lines};
use ostler_test_kit::TestServer;
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::process::Command;
use std::time::{Duration, Instant};

/// Gives a command a terminal and does what its lines say, one JSON array each: `expect` text, `send` text, `size` rows and
/// columns, `end` code. What was seen is printed if something else comes.
const DRIVER: &str = r#"
import fcntl, json, os, pty, select, signal, struct, sys, termios, time
steps = json.loads(sys.argv[1])
pid, fd = pty.fork()
if pid == 0:
    fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 99, 0, 0))
    os.execvp(sys.argv[2], sys.argv[2:])
before = termios.tcgetattr(fd)
seen, place = b"", 0
def read(limit):
    global seen
    if not select.select([fd], [], [], limit)[0]:
        return True
    try:
        data = os.read(fd, 65536)
    except OSError:
        return False
    seen += data
    return bool(data)
def fail(why):
    print(why, repr(seen)); sys.exit(1)
for step in steps:
    end = time.time() + 60
    if step[0] == "expect":
        while step[1].encode() not in seen[place:]:
            if time.time() > end or not read(1): fail(f"no {step[1]!r}")
        place = seen.index(step[1].encode(), place) + len(step[1].encode())
    elif step[0] == "send":
        os.write(fd, step[1].encode())
    elif step[0] == "size":
        fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", step[1], step[2], 0, 0))
    elif step[0] == "signal":
        os.kill(pid, step[1])
    elif step[0] == "end":
        while time.time() < end and read(0.2): pass
        after = termios.tcgetattr(fd) if step[2:] else before
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if code != step[1]: fail(f"code {code}")
        if after != before: fail("the terminal is not as it was")
"#;

async fn real(data: &std::path::Path) -> Cli {
    let server = TestServer::new(env!("CARGO_BIN_EXE_ostler"), data)
        .env("OSTLER_DRIVERS__PROCESS", "true")
        .env("OSTLER_DRIVERS__DOCKER", "false");
    Cli(server.start().await)
}

fn agent(server: &Cli) -> String {
    id(&server.ok(&["agent", "provision", "--pool", "default"]), "sbx_")
}

fn drive(server: &Cli, arguments: &[&str], steps: &Value) {
    let command = server.command(arguments);
    let mut driver = Command::new("python3");
    driver
        .args(["-c", DRIVER, &steps.to_string()])
        .arg(command.get_program())
        .args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => driver.env(name, value),
            None => driver.env_remove(name),
        };
    }
    let done = driver.env("TERM", "vt100").output().unwrap();
    assert!(
        done.status.success(),
        "{arguments:?}: {}{}",
        String::from_utf8_lossy(&done.stdout),
        String::from_utf8_lossy(&done.stderr)
    );
}

#[tokio::test]
async fn a_shell_is_worked_in_from_a_terminal() {
    let dir = tempfile::tempdir().unwrap();
    let server = real(dir.path()).await;
    let agent = agent(&server);
    let steps = json!([
        ["send", "stty size; echo $TERM; tty\n"],
        ["expect", "33 99"],
        ["expect", "vt100"],
        ["expect", "/dev/pts/"],
        ["size", 44, 111],
        ["send", "sleep 0.5; stty size\n"],
        ["expect", "44 111"],
        ["send", "sleep 1000; echo code-$?\n"],
        ["send", "echo\n"],
        ["expect", "\n"],
        ["send", "\u{3}"],
        // The terminal forgets what was typed before; so the prompt is waited for.
        ["expect", "^C"],
        ["expect", "$ "],
        ["send", "echo still-$((1+1))\n"],
        ["expect", "still-2"],
        ["send", "exit 7\n"],
        ["end", 7]
    ]);
    drive(&server, &["agent", "shell", &agent], &steps);
    // A program of one's own, and a kill of the command.
    let steps = json!([["expect", "ready"], ["signal", 15], ["end", 143]]);
    // It listens to the hang-up alone and takes a while about it: TERM must not come in between.
    let program = "trap 'sleep 0.3; echo hung up > gone; exit' HUP; echo ready; while :; do sleep 0.1; done";
    let arguments = ["agent", "shell", &agent, "--", "sh", "-c", program];
    drive(&server, &arguments, &steps);
    let gone = server.ok(&[
        "agent",
        "exec",
        &agent,
        "--",
        "sh",
        "-c",
        "until test -s gone; do sleep 0.1; done; cat gone",
    ]);
    assert_eq!(gone, "hung up\n");
    // Without a terminal on this side.
    let done = server.run_with(&["agent", "shell", &agent], "echo from-$((40+2))\nexit 3\n");
    assert!(done.code == 3 && done.out.contains("from-42"), "{done:?}");
    let done = server.run_with(&["agent", "shell", &agent, "--", "cat"], "words");
    assert!(done.code == 0 && done.out.contains("words"), "{done:?}");
    let refused = server.run(&["--json", "agent", "shell", &agent]);
    assert_eq!(refused.code, 2, "{refused:?}");
}

/// Sends everything to the server until it is cut, and again.
fn relay(to: std::net::SocketAddr) -> (u16, std::sync::Arc<std::sync::Mutex<Vec<std::net::TcpStream>>>) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let open: std::sync::Arc<std::sync::Mutex<Vec<std::net::TcpStream>>> = std::sync::Arc::default();
    let all = std::sync::Arc::clone(&open);
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let Ok(server) = std::net::TcpStream::connect(to) else {
                return;
            };
            all.lock().unwrap().push(client.try_clone().unwrap());
            let pairs = [
                (client.try_clone().unwrap(), server.try_clone().unwrap()),
                (server, client),
            ];
            for (mut from, mut into) in pairs {
                std::thread::spawn(move || {
                    let _ = std::io::copy(&mut from, &mut into);
                    let _ = into.shutdown(std::net::Shutdown::Both);
                });
            }
        }
    });
    (port, open)
}

#[tokio::test]
async fn a_cut_connection_is_taken_up_again_without_loss() {
    let dir = tempfile::tempdir().unwrap();
    let server = real(dir.path()).await;
    let agent = agent(&server);
    let file = std::fs::read_to_string(dir.path().join("server.json")).unwrap();
    let file: Value = serde_json::from_str(&file).unwrap();
    let address = file["url"].as_str().unwrap().strip_prefix("http://").unwrap();
    let (port, open) = relay(address.parse().unwrap());
    let url = format!("http://127.0.0.1:{port}");
    let script = "i=0; while [ $i -lt 40 ]; do echo line-$i.; i=$((i+1)); sleep 0.1; done; exit 5";
    for verb in ["shell", "exec"] {
        let mut command =
            server.command(&["--server", &url, "agent", verb, &agent, "--", "sh", "-c", script]);
        if let Some(token) = file["token"].as_str() {
            command.env("OSTLER_TOKEN", token);
        }
        let mut child = command
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut out = String::new();
        let mut stdout = child.stdout.take().unwrap();
        let mut piece = [0; 4096];
        while !out.contains("line-5.") {
            let n = stdout.read(&mut piece).unwrap();
            assert_ne!(n, 0, "{verb}: {out}");
            out.push_str(&String::from_utf8_lossy(&piece[..n]));
        }
        for connection in open.lock().unwrap().drain(..) {
            let _ = connection.shutdown(std::net::Shutdown::Both);
        }
        stdout.read_to_string(&mut out).unwrap();
        let mut err = String::new();
        child.stderr.take().unwrap().read_to_string(&mut err).unwrap();
        drop(child.stdin.take());
        assert_eq!(child.wait().unwrap().code(), Some(5), "{verb}: {out} {err}");
        let wanted: Vec<String> = (0..40).map(|n| format!("line-{n}.")).collect();
        let found: Vec<&str> = out.lines().map(str::trim).collect();
        assert_eq!(found, wanted, "{verb}");
    }
}

#[tokio::test]
async fn a_terminal_is_for_those_who_may() {
    let dir = tempfile::tempdir().unwrap();
    let server = real(dir.path()).await;
    let agent = agent(&server);
    let refused = server.run(&["--token", "ostler_wrong", "agent", "shell", &agent]);
    assert!(refused.code == 4, "{refused:?}");
    let other = agent.replace(&agent[agent.len() - 4..], "0000");
    let absent = server.run(&["agent", "shell", &other]);
    assert_eq!(absent.code, 3, "{absent:?}");
    server.ok(&["agent", "destroy", &agent]);
    let gone = server.run(&["agent", "shell", &agent]);
    assert!(gone.code == 4 && gone.err.contains("destroyed"), "{gone:?}");
    let events = server.ok(&["agent", "events", &agent]);
    for kind in ["agent.provisioned", "agent.destroying", "agent.destroyed"] {
        assert!(events.contains(kind), "{events}");
    }
    let json = lines(&server.ok(&["--json", "agent", "events", &agent]));
    assert!(json.iter().all(|event| event["subject"] == agent.as_str()));
}

#[tokio::test]
async fn files_and_directories_are_copied_both_ways() {
    let dir = tempfile::tempdir().unwrap();
    let server = real(&dir.path().join("data")).await;
    let agent = agent(&server);
    let local = dir.path().join("tree");
    std::fs::create_dir_all(local.join("deep/er")).unwrap();
    std::fs::write(local.join("a"), vec![7; 3_000_000]).unwrap();
    std::fs::write(local.join("deep/er/b"), "words").unwrap();
    std::os::unix::fs::symlink("er/b", local.join("deep/link")).unwrap();
    let path = |path: &std::path::Path| path.display().to_string();
    let in_agent = |path: &str| format!("{agent}:{path}");
    server.ok(&["agent", "cp", &path(&local), &in_agent("copy")]);
    server.ok(&["agent", "cp", &path(&local), &in_agent("into/")]);
    server.ok(&["agent", "cp", &path(&local.join("a")), &in_agent("into/")]);
    let script = "cat copy/deep/link into/tree/deep/er/b; wc -c < into/a";
    let shown = server.ok(&["agent", "exec", &agent, "--", "sh", "-c", script]);
    assert_eq!(shown, "wordswords3000000\n");
    let back = dir.path().join("back");
    server.ok(&["agent", "cp", &in_agent("copy"), &path(&back)]);
    assert_eq!(std::fs::read(back.join("a")).unwrap(), vec![7; 3_000_000]);
    assert_eq!(std::fs::read_to_string(back.join("deep/link")).unwrap(), "words");
    server.ok(&["agent", "cp", &in_agent("copy/deep/er/b"), &path(&back)]);
    assert_eq!(std::fs::read_to_string(back.join("b")).unwrap(), "words");
    let absent = server.run(&["agent", "cp", &in_agent("not/there"), &path(&back.join("x"))]);
    assert!(absent.code == 3 && !back.join("x").exists(), "{absent:?}");
    let neither = server.run(&["agent", "cp", "a", "b"]);
    assert_eq!(neither.code, 2, "{neither:?}");
}

#[tokio::test]
async fn what_programs_wrote_can_be_read_later() {
    let dir = tempfile::tempdir().unwrap();
    let server = real(dir.path()).await;
    let agent = agent(&server);
    let empty = server.run(&["agent", "logs", &agent]);
    assert!(
        empty.code == 1 && empty.err.contains("nothing was started"),
        "{empty:?}"
    );
    server.run(&["agent", "exec", &agent, "--", "sh", "-c", "echo first; exit 2"]);
    server.ok(&["agent", "exec", &agent, "--", "echo", "second"]);
    assert_eq!(server.ok(&["agent", "logs", &agent]), "second\n");
    let list = server.ok(&["agent", "logs", "--list", &agent]);
    assert!(list.contains("exit 2") && list.contains("echo second"), "{list}");
    let programs = server.json(&["agent", "logs", "--list", &agent]);
    let first = programs[1]["exec_id"].as_str().unwrap();
    assert_eq!(server.ok(&["agent", "logs", &agent, first]), "first\n");
    let mut running = server.start(&["agent", "exec", &agent, "--", "sh", "-c", "echo here; sleep 600"]);
    running.until_prints("here");
    assert_eq!(server.ok(&["agent", "logs", &agent]), "here\n");
    running.interrupt();
    assert_eq!(running.wait().code, 130);
    let end = Instant::now() + LIMIT;
    while server.json(&["agent", "logs", "--list", &agent])[0]["running"] == true {
        assert!(Instant::now() < end, "it still runs");
        std::thread::sleep(Duration::from_millis(50));
    }
    let _ = std::io::stdout().flush();
}
