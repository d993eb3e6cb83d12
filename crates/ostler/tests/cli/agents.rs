//! `ostler agent` and `ostler sandbox`.

use crate::support::{Cli, id, lines};
use serde_json::{Value, json};

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
    assert_eq!(server.json(&["pool", "set", "default", "--max", "9"])["held"], 2);
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
