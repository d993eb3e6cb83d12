//! `ostler test bisect`, and plans of a commit.

use crate::test_run::{server, written};
use ostler_test_kit::{git, repository, require};

#[tokio::test(flavor = "multi_thread")]
async fn the_commit_that_broke_a_test_is_found() {
    require!(Bubblewrap);
    let (dir, files) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut server = server(dir.path()).await;
    let shop = files.path().join("shop");
    repository(&shop, &[("price", "1\n")]);
    let commit = |text: &str, message: &str| {
        std::fs::write(shop.join("price"), text).unwrap();
        git(&shop, &["commit", "-q", "-a", "-m", message]);
        git(&shop, &["rev-parse", "HEAD"]).trim().to_owned()
    };
    let good = git(&shop, &["rev-parse", "HEAD"]).trim().to_owned();
    for n in 2..5 {
        commit(&format!("{n}\n"), &format!("Change {n}"));
    }
    let broken = commit("free\n", "Give it away");
    for n in 6..9 {
        commit(&format!("free {n}\n"), &format!("Change {n}"));
    }
    server.ok(&["project", "add", shop.to_str().unwrap()]);
    let plan = "name = 'shop'\nproject = 'shop'\n[[tests]]\nname = 'has a price'\nrun = 'grep -q \"^[0-9]*$\" price'\n\
        [[tests]]\nname = 'other'\nrun = 'true'\n";
    let plan = written(files.path(), "plan.toml", plan);
    let bisect = |good: &str, bad: &str| {
        let repository = shop.to_str().unwrap();
        server.run(&[
            "--json",
            "test",
            "bisect",
            &plan,
            "--good",
            good,
            "--bad",
            bad,
            "--test",
            "price",
            "--repository",
            repository,
        ])
    };
    let done = bisect(&good, "HEAD");
    assert_eq!(done.code, 0, "{done:?}");
    let found: serde_json::Value = serde_json::from_str(&done.out).unwrap();
    assert_eq!(
        (&found["first_bad"], &found["subject"]),
        (&broken.as_str().into(), &"Give it away".into()),
        "{done:?}"
    );
    let tried = found["tried"].as_array().unwrap();
    assert_eq!(tried.len(), 3, "seven commits are three tries: {done:?}");
    // Each was a plan of one test at its commit.
    for one in tried {
        let shown = server.json(&["test", "show", one["plan"].as_str().unwrap()]);
        let tests = shown["tests"].as_array().unwrap();
        assert_eq!(tests.len(), 1, "{shown}");
        assert_eq!(tests[0]["revision"], one["commit"], "{shown}");
    }
    let history = server.json(&["test", "history", "has a price", "--plan", "shop"]);
    assert!(history["runs"][0]["revision"].is_string(), "{history}");
    for (good, bad, wanted) in [
        ("HEAD", good.as_str(), "does not come after"),
        ("none", "HEAD", "is no commit"),
    ] {
        let done = bisect(good, bad);
        assert!(done.code == 2 && done.err.contains(wanted), "{done:?}");
    }
    server.0.stop().await;
}
