//! `ostler token`, and who may do what.

use crate::support::{Cli, Done};

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
