//! An image from its recipe to sandboxes that are started from it, as containers and as virtual machines.

use crate::support::Cli;
use crate::{machines, server};
use ostler_test_kit::{DockerEngine, LeakGuard, require};

/// Its capabilities, of both what is shared and what is this test's own.
const PROGRAMS: [&str; 2] = ["git", "curl"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_is_built_used_exported_and_removed() {
    require!(Docker, Qemu);
    let engine = DockerEngine::start();
    let dir = tempfile::tempdir().unwrap();
    let mut guard = LeakGuard::new(dir.path()).with_engine(&engine);
    let cli = Cli(server(dir.path()).engine(&engine).start().await);

    // The one that all tests share takes minutes the first time. What is removed below is a copy under another name.
    let tag = cli.ok(&[&["image", "build", "--follow"], &PROGRAMS[..]].concat());
    let own = format!(
        "ostler-test-own:{}",
        dir.path()
            .file_name()
            .unwrap()
            .to_str()
            .unwrap()
            .trim_start_matches('.')
            .to_lowercase()
    );
    engine.docker(&["tag", tag.trim(), &own]).unwrap();
    let build = ["image", "build", "curl", "git", "--base-image", &own];
    let begun = cli.run(&build);
    assert_eq!(begun.code, 0, "{begun:?}");
    let tag = begun.out.trim().to_owned();
    assert!(begun.err.contains(&format!("image log -f {tag}")), "{begun:?}");
    let followed = cli.run(&["image", "log", "--follow", &tag]);
    assert!(
        followed.code == 0 && followed.out.contains("finish: begins"),
        "{followed:?}"
    );
    // Found again, in whatever order it is asked for.
    let again = cli.json(&["image", "build", "git", "curl", "--base-image", &own]);
    assert_eq!(
        (again["status"].as_str(), again["tag"].as_str()),
        (Some("ready"), Some(&*tag))
    );
    let hash = again["hash"].as_str().unwrap().to_owned();
    let shown = cli.ok(&["image", "show", &tag]);
    assert!(
        shown.contains(&hash) && shown.contains("ready") && shown.contains(&own),
        "{shown}"
    );
    let listed = cli.json(&["image", "list"]);
    assert!(
        listed
            .as_array()
            .unwrap()
            .iter()
            .any(|image| image["hash"] == *hash),
        "{listed}"
    );

    // As containers.
    let pool = [
        "pool", "set", "boxes", "--driver", "docker", "--image", &tag, "--target", "1", "--max", "2",
    ];
    cli.ok(&pool);
    assert_eq!(
        cli.json(&["image", "show", &hash[..12]])["pools"],
        serde_json::json!(["boxes"])
    );
    let versions = "git --version && curl --version | head -1 && cat /etc/ostler/image";
    let ran = cli.run(&[
        "run", "submit", "-f", "--pool", "boxes", "--", "sh", "-c", versions,
    ]);
    assert!(
        ran.code == 0
            && ran.out.contains("git version")
            && ran.out.contains("\ncurl ")
            && ran.out.contains(&hash),
        "{ran:?}"
    );

    // As virtual machines.
    let drive = cli.ok(&["image", "export", &tag, "--size", "2G"]);
    let drive = drive.trim();
    assert_eq!(std::fs::metadata(drive).unwrap().len(), 2 << 30);
    cli.ok(&machines("machines", drive, &["--target", "0", "--max", "1"]));
    let ran = cli.run(&[
        "run", "submit", "-f", "--pool", "machines", "--", "sh", "-c", versions,
    ]);
    assert!(
        ran.code == 0
            && ran.out.contains("git version")
            && ran.out.contains("\ncurl ")
            && ran.out.contains(&hash),
        "{ran:?}"
    );

    // It stays while it is used, and goes then.
    let refused = cli.run(&["image", "rm", &tag]);
    assert!(refused.code == 4 && refused.err.contains("boxes"), "{refused:?}");
    let held = cli.ok(&["agent", "provision", "--pool", "boxes"]);
    let shared = engine.base_image();
    cli.ok(&["pool", "set", "boxes", "--image", &shared, "--target", "0"]);
    let refused = cli.run(&["image", "rm", &tag]);
    assert!(refused.code == 4 && refused.err.contains("in use"), "{refused:?}");
    cli.ok(&["agent", "destroy", held.trim()]);
    let end = std::time::Instant::now() + crate::support::LIMIT;
    loop {
        // A warm one of the old template ends at the next round.
        let removed = cli.run(&["image", "rm", &tag]);
        if removed.code == 0 {
            break;
        }
        assert!(
            std::time::Instant::now() < end && removed.code == 4,
            "{removed:?}"
        );
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    }
    let gone = cli.run(&["image", "show", &tag]);
    assert_eq!(gone.code, 3, "{gone:?}");
    engine.docker(&["rmi", &own]).unwrap();

    // What cannot be built says why, and is told until it is removed.
    let failed = cli.run(&["image", "build", "--follow", "--base-image", "ostler-test:absent"]);
    assert!(
        failed.code == 1 && failed.err.contains("ostler-test:absent"),
        "{failed:?}"
    );
    let failures = cli.json(&["image", "list"]);
    let failure = failures
        .as_array()
        .unwrap()
        .iter()
        .find(|image| image["status"] == "failed");
    let failure = failure.unwrap_or_else(|| panic!("{failures}"));
    cli.ok(&["image", "rm", failure["hash"].as_str().unwrap()]);
    let Cli(mut server) = cli;
    assert!(server.stop().await.success());
    guard.check();
}
