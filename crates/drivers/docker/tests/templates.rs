//! What a template can ask for beside what every driver has.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use common::Containers;
use ostler_domain::{Mount, SandboxId, SandboxTemplate};
use ostler_driver_docker::DockerDriver;
use ostler_sandbox::conformance::{Guest, Subject};
use ostler_sandbox::{Driver, SandboxSpec};
use ostler_test_kit::require;
use std::time::Duration;

async fn started(driver: &DockerDriver, template: &SandboxTemplate) -> (SandboxId, Guest) {
    let id = SandboxId::new();
    driver
        .start(&SandboxSpec::new(id, template.clone()))
        .await
        .unwrap();
    (id, Guest::ready(driver, id).await)
}

async fn as_a_user(containers: Containers) {
    let driver = containers.driver().await;
    for user in ["4242", "nobody"] {
        let mut template = containers.template();
        template.user = Some(user.into());
        let (id, mut guest) = started(&driver, &template).await;
        let script = "id -u; echo mine > here && cat here; touch /etc/x 2>/dev/null || echo no";
        let seen = guest.run(&["sh", "-c", script]).await;
        let number = if user == "nobody" { "65534" } else { user };
        assert_eq!(seen.stdout, format!("{number}\nmine\nno\n"), "{seen:?}");
        driver.remove(id, Duration::from_secs(2)).await.unwrap();
    }
    let mut template = containers.template();
    template.user = Some("no-such-user".into());
    let error = driver
        .start(&SandboxSpec::new(SandboxId::new(), template.clone()))
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("no-such-user"), "{error}");
    template.user = Some("--privileged".into());
    assert!(
        driver
            .check(&template)
            .unwrap_err()
            .to_string()
            .contains("no user")
    );
    assert!(driver.list().await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn programs_run_as_the_user_that_is_named() {
    require!(BaseImage);
    as_a_user(Containers::local()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn programs_run_as_the_user_that_is_named_far_away() {
    require!(BaseImage);
    as_a_user(Containers::remote()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn devices_are_given_where_the_settings_allow_them() {
    require!(BaseImage);
    let containers = Containers::local();
    let mut options = containers.options();
    options.devices = [("tun", "/dev/net/tun"), ("away", "/dev/no-such-device")]
        .map(|(name, path)| (name.to_owned(), path.to_owned()))
        .into();
    let driver = DockerDriver::open(options).await.unwrap();
    let here = std::path::Path::new("/dev/net/tun").exists();
    assert_eq!(driver.capabilities().devices.contains("tun"), here);
    let findings = driver.probe().await;
    let devices = findings.iter().find(|f| f.subject == "devices").unwrap();
    assert!(!devices.ok && devices.detail.contains("away"), "{devices:?}");
    let mut template = containers.template();
    template.devices.insert("away".into());
    assert!(driver.check(&template).unwrap_err().to_string().contains("away"));
    if !here {
        return;
    }
    template.devices = ["tun".to_owned()].into();
    let (id, mut guest) = started(&driver, &template).await;
    let with = guest.run(&["test", "-c", "/dev/net/tun"]).await;
    driver.remove(id, Duration::ZERO).await.unwrap();
    let (id, mut guest) = started(&driver, &containers.template()).await;
    let without = guest.run(&["test", "-c", "/dev/net/tun"]).await;
    driver.remove(id, Duration::ZERO).await.unwrap();
    assert_eq!((with.exited.code, without.exited.code), (0, 1));
}

async fn counted(containers: Containers) {
    let driver = containers.driver().await;
    let (id, mut guest) = started(&driver, &containers.template()).await;
    let before = driver.usage(id).await.unwrap();
    let busy =
        "i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done; head -c 3000000 /dev/zero > file; sync file";
    assert_eq!(guest.run(&["sh", "-c", busy]).await.exited.code, 0);
    let after = driver.usage(id).await.unwrap();
    assert!(
        after.cpu_us.unwrap() > before.cpu_us.unwrap() + 50_000,
        "{before:?} {after:?}"
    );
    assert!(after.memory_bytes.unwrap() > 100_000, "{after:?}");
    assert!(after.processes.unwrap() >= 1, "{after:?}");
    containers.kill_first_process(id).await;
    let error = driver.usage(id).await.unwrap_err().to_string();
    assert!(error.contains("does not run"), "{error}");
    driver.remove(id, Duration::ZERO).await.unwrap();
    assert!(
        driver
            .usage(id)
            .await
            .unwrap_err()
            .to_string()
            .contains("has no sandbox")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_used_is_counted() {
    require!(BaseImage);
    counted(Containers::local()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_used_is_counted_far_away() {
    require!(BaseImage);
    counted(Containers::remote()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_far_away_tells_what_it_is_and_cannot_do() {
    require!(BaseImage);
    let containers = Containers::remote();
    let driver = containers.driver().await;
    let findings = driver.probe().await;
    let detail = |subject: &str| {
        let found = findings.iter().find(|f| f.subject == subject).unwrap();
        (found.ok, found.detail.as_str())
    };
    assert!(detail("engine").1.contains("on another machine"), "{findings:?}");
    assert!(
        detail("limits").1.contains("cgroup driver cgroupfs"),
        "{findings:?}"
    );
    for certificate in ["engine's certificate", "own certificate"] {
        let (ok, text) = detail(certificate);
        assert!(ok && text.contains("valid until 2099-12-31"), "{findings:?}");
    }
    let mut template = containers.template();
    template.mounts = vec![Mount {
        source: "/usr".into(),
        target: "/mnt".into(),
        writable: false,
    }];
    assert!(
        driver
            .check(&template)
            .unwrap_err()
            .to_string()
            .contains("mounts")
    );
    if !driver.capabilities().disk_limit {
        template = containers.template();
        template.disk_mb = Some(100);
        let error = driver.check(&template).unwrap_err().to_string();
        assert!(error.contains("pquota"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_that_is_not_there_is_told_with_how_to_get_it() {
    require!(BaseImage);
    let containers = Containers::local();
    let driver = containers.driver().await;
    let mut template = containers.template();
    template.image = Some("ostler-test:absent".into());
    let spec = SandboxSpec::new(SandboxId::new(), template);
    let error = driver.start(&spec).await.unwrap_err().to_string();
    for way in [
        "pull ostler-test:absent",
        "build -t ostler-test:absent",
        "pull = true",
    ] {
        assert!(error.contains(way), "{error}");
    }
}
