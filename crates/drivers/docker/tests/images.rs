//! Images at a real engine: what is built, what is shared, and what is left when a build fails or is cut off.

#![allow(clippy::unwrap_used, reason = "tests")]

use ostler_domain::{ImageAgent, ImageCapability};
use ostler_driver_docker::{DockerDriver, DockerImages, DockerOptions, ImageOptions};
use ostler_sandbox::images::{AgentVersions, BuildLog, ImageBase, ImageBuilder, ImageError, ImageRecipe};
use ostler_test_kit::{DockerEngine, require};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;

/// How all names of containers of builds begin.
const CONTAINER: &str = "ostler-build-";

struct Place {
    engine: DockerEngine,
    dir: TempDir,
}

impl Place {
    fn new() -> Self {
        Self {
            engine: DockerEngine::start(),
            dir: tempfile::Builder::new()
                .prefix("ostler-images-")
                .tempdir()
                .unwrap(),
        }
    }

    fn instance(&self) -> String {
        let name = self
            .dir
            .path()
            .file_name()
            .unwrap()
            .to_string_lossy()
            .to_lowercase();
        name.trim_start_matches("ostler-").to_owned()
    }

    fn options(&self) -> ImageOptions {
        ImageOptions::new(self.instance(), self.dir.path().join("builds"))
    }

    async fn open(&self, options: ImageOptions) -> DockerImages {
        let guest = ostler_guest_binary::install(&self.dir.path().join("guest")).unwrap();
        let driver = DockerOptions {
            engine: self.engine.url(),
            ..DockerOptions::new(self.instance(), self.dir.path().join("sandboxes"), guest)
        };
        let driver = DockerDriver::open(driver).await.unwrap();
        driver.images(options).await.unwrap()
    }

    fn log_file(&self, name: &str) -> PathBuf {
        self.dir.path().join(format!("{name}.log"))
    }

    fn log(&self, name: &str) -> BuildLog {
        BuildLog::create(&self.log_file(name), 1 << 20).unwrap()
    }

    fn logged(&self, name: &str) -> String {
        std::fs::read_to_string(self.log_file(name)).unwrap()
    }

    /// A file of the image.
    fn read(&self, image: &str, path: &str) -> Option<String> {
        let name = format!("{}-look", self.instance());
        self.engine.docker(&["create", "--name", &name, image]).unwrap();
        let to = self.dir.path().join("copied");
        let found = self
            .engine
            .docker(&["cp", "-L", &format!("{name}:{path}"), to.to_str().unwrap()])
            .ok()
            .map(|_| String::from_utf8_lossy(&std::fs::read(&to).unwrap()).into_owned());
        self.engine.docker(&["rm", "--force", &name]).unwrap();
        found
    }

    fn run(&self, image: &str, command: &[&str]) -> Result<String, String> {
        let all = [&["run", "--rm", "--network", "none", image][..], command].concat();
        self.engine.docker(&all)
    }

    /// Containers of builds of these hashes.
    fn containers(&self) -> Vec<String> {
        let label = format!("label=ostler.builder={}", self.instance());
        let listed = self
            .engine
            .docker(&["ps", "-a", "--filter", &label, "--format", "{{.Names}}"])
            .unwrap();
        listed
            .lines()
            .filter(|name| name.starts_with(CONTAINER))
            .map(str::to_owned)
            .collect()
    }
}

fn recipe(capabilities: &[ImageCapability]) -> ImageRecipe {
    ImageRecipe {
        agent: None,
        capabilities: capabilities.iter().copied().collect(),
        base: ImageBase::Debian("bookworm".into()),
    }
}

fn with_agent(agent: ImageAgent) -> ImageRecipe {
    ImageRecipe {
        agent: Some(AgentVersions::default().package(agent)),
        ..recipe(&[ImageCapability::Git])
    }
}

/// The base, which all tests share and which takes a minute the first time.
async fn base(place: &Place) -> (DockerImages, String) {
    let images = place.open(place.options()).await;
    let log = place.log("base");
    let image = images.build(&recipe(&[]), &log).await.unwrap();
    (images, image.tag)
}

/// A recipe of its own on top of an image that is there, so that tests do not disturb each other.
fn own(place: &Place, base: &str, capabilities: &[ImageCapability]) -> ImageRecipe {
    let name = format!("ostler-test-own:{}", place.instance());
    place.engine.docker(&["tag", base, &name]).unwrap();
    ImageRecipe {
        base: ImageBase::Image(name),
        ..recipe(capabilities)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_holds_what_its_recipe_says_and_is_made_once() {
    require!(Docker);
    let place = Place::new();
    let images = place.open(place.options()).await;
    let wanted = recipe(&[ImageCapability::Git, ImageCapability::Curl]);
    let image = images.build(&wanted, &place.log("first")).await.unwrap();
    assert_eq!(
        (image.hash.as_str(), image.tag.as_str()),
        (wanted.hash().as_str(), wanted.tag().as_str())
    );
    assert_eq!(image.recipe, wanted);
    assert!(image.size_bytes > 1 << 20);
    let said = place.run(
        &image.tag,
        &[
            "sh",
            "-c",
            "git --version && curl --version && id -u agent && pwd",
        ],
    );
    let said = said.unwrap();
    assert!(
        said.contains("git version") && said.contains("curl ") && said.ends_with("/workspace"),
        "{said}"
    );
    // Nothing of this host has stayed in it.
    let sources = place.read(&image.tag, "/etc/apt/sources.list").unwrap();
    assert_eq!(sources.trim(), "deb http://ftp.debian.org/debian bookworm main");
    let left = place
        .run(
            &image.tag,
            &[
                "sh",
                "-c",
                "ls /run/ostler-build /etc/apt/sources.list.d /root; env",
            ],
        )
        .unwrap();
    for planted in ["npmrc", "ca.crt", "APT_CONFIG", "NPM_CONFIG"] {
        assert!(!left.contains(planted), "{left}");
    }
    let again = images.build(&wanted, &place.log("again")).await.unwrap();
    assert_eq!(again, image);
    assert!(place.logged("again").contains("there already"));
    assert!(images.list().await.unwrap().contains(&image));
    assert_eq!(place.containers(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn two_at_once_build_once() {
    require!(Docker);
    let place = Place::new();
    let (_, tag) = base(&place).await;
    let wanted = own(&place, &tag, &[]);
    // Two servers: each with its own directory and connection.
    let mut builders = Vec::new();
    for name in ["one", "two"] {
        let options = ImageOptions::new(place.instance(), place.dir.path().join(name));
        builders.push((name, place.open(options).await));
    }
    // Both are open before one begins: who opens removes what an earlier life of the same server has left.
    let mut builds = Vec::new();
    for (name, images) in builders {
        let (wanted, log) = (wanted.clone(), place.log(name));
        builds.push(tokio::spawn(async move { images.build(&wanted, &log).await }));
    }
    let mut made = BTreeSet::new();
    for build in builds {
        made.insert(build.await.unwrap().unwrap().tag);
    }
    assert_eq!(made.len(), 1);
    let logs = place.logged("one") + &place.logged("two");
    for phase in ["setup", "finish"] {
        assert_eq!(logs.matches(&format!("== {phase}: begins")).count(), 1, "{logs}");
    }
    assert_eq!(place.containers(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_step_says_why_and_leaves_nothing() {
    require!(Docker);
    let place = Place::new();
    let (_, tag) = base(&place).await;
    // Nobody listens there: packages cannot be had.
    let options = ImageOptions {
        mirror: Some("http://127.0.0.1:1/debian".into()),
        ..place.options()
    };
    let images = place.open(options).await;
    let mut wanted = recipe(&[
        ImageCapability::Rust,
        ImageCapability::Docker,
        ImageCapability::Python,
    ]);
    wanted.base = ImageBase::Debian("bookworm".into());
    let error = images.build(&wanted, &place.log("failing")).await.unwrap_err();
    let ImageError::Phase { phase, code, tail } = &error else {
        panic!("{error}");
    };
    assert_eq!((phase.as_str(), *code), ("python", 100), "{tail}");
    assert!(tail.contains("127.0.0.1"), "{tail}");
    assert!(place.logged("failing").contains("127.0.0.1"));
    assert_eq!(place.containers(), Vec::<String>::new());
    assert!(images.find(&wanted.hash()).await.unwrap().is_none());
    // A base that is not there says so.
    let absent = ImageRecipe {
        base: ImageBase::Image("ostler-test:absent".into()),
        ..recipe(&[])
    };
    let error = images.build(&absent, &place.log("absent")).await.unwrap_err();
    assert!(error.to_string().contains("ostler-test:absent"), "{error}");
    drop(tag);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_that_is_cut_off_leaves_nothing() {
    require!(Docker);
    let place = Place::new();
    let (_, tag) = base(&place).await;
    // A server that accepts and never answers: the step hangs until it is cut off.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let options = ImageOptions {
        mirror: Some(format!("http://{}/debian", silent.local_addr().unwrap())),
        ..place.options()
    };
    let images = Arc::new(place.open(options.clone()).await);
    let wanted = recipe(&[ImageCapability::Rust]);
    let building = {
        let (images, log) = (Arc::clone(&images), place.log("cut"));
        tokio::spawn(async move { images.build(&wanted, &log).await.map(drop) })
    };
    let connected = tokio::task::spawn_blocking(move || silent.accept().unwrap());
    let connection = tokio::time::timeout(Duration::from_secs(120), connected)
        .await
        .unwrap();
    assert_eq!(place.containers().len(), 1);
    building.abort();
    let _ = building.await;
    // The engine itself ends what nobody holds any more.
    let end = std::time::Instant::now() + Duration::from_secs(60);
    while !place.containers().is_empty() {
        assert!(std::time::Instant::now() < end, "{:?}", place.containers());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    drop(connection);
    // What was killed before it was held is removed by the next start.
    let label = format!("ostler.builder={}", place.instance());
    let name = format!("{CONTAINER}{}", place.instance());
    place
        .engine
        .docker(&["create", "--name", &name, "--label", &label, &tag])
        .unwrap();
    let sandbox = format!("{}-sandbox", place.instance());
    place
        .engine
        .docker(&["create", "--name", &sandbox, "--label", &label, &tag])
        .unwrap();
    std::fs::write(options.dir.join("half.tar"), "x").unwrap();
    drop(images);
    place.open(options.clone()).await;
    assert_eq!(place.containers(), Vec::<String>::new());
    assert!(!options.dir.join("half.tar").exists());
    place.engine.docker(&["rm", &sandbox]).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn images_that_nobody_uses_are_collected_with_their_phases() {
    require!(Docker);
    let place = Place::new();
    let (images, tag) = base(&place).await;
    let wanted = own(&place, &tag, &[]);
    let image = images.build(&wanted, &place.log("own")).await.unwrap();
    let phase = format!("ostler/phase:{}", &wanted.phases()[0].hash[..16]);
    // Others share the engine: all that is there but ours is used.
    let listed = place
        .engine
        .docker(&["images", "--format", "{{.Repository}}:{{.Tag}}"])
        .unwrap();
    let others: BTreeSet<String> = listed
        .lines()
        .filter(|tag| **tag != *image.tag && **tag != *phase)
        .map(str::to_owned)
        .collect();
    let day = Duration::from_secs(86_400);
    assert!(
        !images.collect(&others, day).await.unwrap().contains(&image.tag),
        "it is young"
    );
    let mut with = others.clone();
    with.insert(image.tag.clone());
    let removed = images.collect(&with, Duration::ZERO).await.unwrap();
    assert!(
        !removed.contains(&image.tag) && !removed.contains(&phase),
        "it is used: {removed:?}"
    );
    // A sandbox that nobody has told of keeps it, too.
    let name = format!("{}-user", place.instance());
    place
        .engine
        .docker(&["create", "--name", &name, &image.tag])
        .unwrap();
    assert!(matches!(
        images.remove(&image.hash).await,
        Err(ImageError::InUse(_))
    ));
    let removed = images.collect(&others, Duration::ZERO).await.unwrap();
    assert!(!removed.contains(&image.tag), "{removed:?}");
    place.engine.docker(&["rm", &name]).unwrap();
    let removed = images.collect(&others, Duration::ZERO).await.unwrap();
    assert!(
        removed.contains(&image.tag) && removed.contains(&phase),
        "{removed:?}"
    );
    assert!(images.find(&image.hash).await.unwrap().is_none());
    images.remove(&image.hash).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_root_drive_holds_the_files_of_the_image() {
    require!(Docker);
    let place = Place::new();
    let (images, _) = base(&place).await;
    let hash = recipe(&[]).hash();
    let drive = place.dir.path().join("drives/root.ext4");
    let error = images.export_root_drive(&hash, &drive, 16).await.unwrap_err();
    assert!(
        error.to_string().contains("larger drive") && !drive.exists(),
        "{error}"
    );
    let (one, two) = tokio::join!(
        images.export_root_drive(&hash, &drive, 512),
        images.export_root_drive(&hash, &drive, 512)
    );
    one.and(two).unwrap();
    let look = |what: &str| {
        let output = std::process::Command::new("debugfs")
            .args(["-R", what])
            .arg(&drive)
            .output()
            .unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    assert_eq!(look("cat /etc/ostler/image").trim(), hash);
    let workspace = look("stat /workspace");
    assert!(
        workspace.contains("Type: directory") && workspace.contains("User:  1000"),
        "{workspace}"
    );
    // Whoever may become another user by a program may do so there as well.
    assert!(
        look("stat /usr/bin/su").contains("Mode:  04755"),
        "{}",
        look("stat /usr/bin/su")
    );
    let left: Vec<_> = std::fs::read_dir(drive.parent().unwrap())
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    assert_eq!(left, ["root.ext4"]);
    assert_eq!(place.containers(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn agent_programs_run_in_their_images() {
    require!(Docker);
    let place = Place::new();
    let images = place.open(place.options()).await;
    for (agent, program) in [(ImageAgent::Claude, "claude"), (ImageAgent::Droid, "droid")] {
        let wanted = with_agent(agent);
        let image = images.build(&wanted, &place.log(program)).await.unwrap();
        assert!(image.tag.starts_with(&format!("ostler/{program}:")));
        let said = place.run(&image.tag, &[program, "--version"]).unwrap();
        assert!(said.contains(&wanted.agent.unwrap().version), "{said}");
    }
}
