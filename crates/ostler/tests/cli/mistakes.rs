//! What goes wrong is explained, with the right exit code.

use crate::support::{Cli, Done, binary};
use serde_json::Value;
use std::io::Write;

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
        if json.code != *code || !json.out.is_empty() || !text.contains(says) {
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
