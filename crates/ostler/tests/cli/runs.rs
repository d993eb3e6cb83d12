//! `ostler run` and `ostler pool`.

use crate::support::{Cli, id, lines};
use serde_json::json;
use std::time::Duration;

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
    let long = long.wait();
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
async fn who_stops_following_a_run_leaves_it_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let server = Cli::simulated(dir.path(), &[]).await;
    server.ok(&["pool", "set", "default", "--target", "0", "--max", "1"]);
    server.until(&["sandbox", "list"], |all| *all == json!([]));
    server.ok(&["agent", "provision"]);
    let mut follow = server.start(&["run", "submit", "-f", "--", "true"]);
    follow.until_notes(" waits: ");
    follow.interrupt();
    let done = follow.wait();
    assert_eq!(done.code, 130, "{done:?}");
    for says in [
        "is queued",
        "waits: ",
        "in use",
        "goes on",
        "ostler run cancel run_",
    ] {
        assert!(done.err.contains(says), "{says}: {done:?}");
    }
    assert_eq!(server.json(&["run", "list"])[0]["status"], "queued");
    let agent = server.json(&["agent", "list"])[0]["id"]
        .as_str()
        .unwrap()
        .to_owned();
    let exec = server.start(&["agent", "exec", &agent, "--", "sleep", "600"]);
    std::thread::sleep(Duration::from_secs(2));
    exec.interrupt();
    assert_eq!(exec.wait().code, 130);
}
