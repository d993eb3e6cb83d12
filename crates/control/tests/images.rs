//! Images: what is built, what goes on after a restart, what is refused and what is swept. The engine is made up here, so
//! that builds can be held up and fail; the docker driver's own tests build real ones.

#![allow(clippy::unwrap_used, reason = "test code")]

mod world;

use async_trait::async_trait;
use ostler_contracts::{BuildImage, ErrorCode, ImageView};
use ostler_control::{Caller, Control, ImageSettings, Images, PoolChange};
use ostler_domain::{
    DriverKind, ImageAgent, ImageCapability, Permission, SandboxTemplate, ServerId, Timestamp,
};
use ostler_sandbox::images::{BuildLog, Image, ImageBuilder, ImageError, ImageRecipe};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Semaphore;
use world::me;

/// An engine whose builds go on only when a permit is given, and fail for Rust.
struct Engine {
    images: Mutex<BTreeMap<String, Image>>,
    go_on: Semaphore,
    begun: Mutex<u32>,
}

#[async_trait]
impl ImageBuilder for Engine {
    async fn build(&self, recipe: &ImageRecipe, log: &BuildLog) -> Result<Image, ImageError> {
        *self.begun.lock().unwrap() += 1;
        log.say("begins");
        self.go_on.acquire().await.unwrap().forget();
        if recipe.capabilities.contains(&ImageCapability::Rust) {
            log.write(b"no rust today\n");
            return Err(ImageError::Phase {
                phase: "rust".into(),
                code: 100,
                tail: log.last(1),
            });
        }
        log.say("ends");
        let image = Image {
            hash: recipe.hash(),
            tag: recipe.tag(),
            recipe: recipe.clone(),
            size_bytes: 1 << 20,
            created_at: Timestamp(1),
        };
        self.images
            .lock()
            .unwrap()
            .insert(image.hash.clone(), image.clone());
        Ok(image)
    }

    async fn find(&self, hash: &str) -> Result<Option<Image>, ImageError> {
        Ok(self.images.lock().unwrap().get(hash).cloned())
    }

    async fn list(&self) -> Result<Vec<Image>, ImageError> {
        Ok(self.images.lock().unwrap().values().cloned().collect())
    }

    async fn remove(&self, hash: &str) -> Result<(), ImageError> {
        self.images.lock().unwrap().remove(hash);
        Ok(())
    }

    async fn collect(&self, used: &BTreeSet<String>, _age: Duration) -> Result<Vec<String>, ImageError> {
        let mut images = self.images.lock().unwrap();
        let gone = images
            .values()
            .map(|image| image.tag.clone())
            .filter(|tag| !used.contains(tag))
            .collect();
        images.retain(|_, image| used.contains(&image.tag));
        Ok(gone)
    }

    async fn export_root_drive(&self, _hash: &str, path: &Path, size_mb: u64) -> Result<(), ImageError> {
        self.go_on.acquire().await.unwrap().forget();
        if size_mb < 100 {
            return Err(ImageError::Invalid("too small".into()));
        }
        std::fs::write(path, "drive").map_err(ImageError::io("writing"))
    }
}

struct World {
    dir: tempfile::TempDir,
    engine: Arc<Engine>,
    server_id: ServerId,
}

fn wanted(agent: Option<ImageAgent>, capabilities: &[ImageCapability]) -> BuildImage {
    BuildImage {
        agent,
        capabilities: capabilities.iter().copied().collect(),
        ..BuildImage::default()
    }
}

impl World {
    fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            engine: Arc::new(Engine {
                images: Mutex::default(),
                go_on: Semaphore::new(0),
                begun: Mutex::new(0),
            }),
            server_id: ServerId::new(),
        }
    }

    async fn start(&self) -> Control {
        let root = self.dir.path();
        let control = world::server(root, self.server_id, |_| {}).await;
        let engine = Arc::clone(&self.engine) as Arc<dyn ImageBuilder>;
        let images = Images::open(engine, root.join("images"), ImageSettings::default()).unwrap();
        control.set_images(images);
        control
    }

    fn wanted(&self) -> usize {
        std::fs::read_dir(self.dir.path().join("images/wanted"))
            .unwrap()
            .count()
    }
}

async fn until(control: &Control, hash: &str, status: &str) -> ImageView {
    let end = std::time::Instant::now() + Duration::from_secs(20);
    loop {
        let view = control.image(&me(), hash).await.unwrap();
        if view.status == status {
            return view;
        }
        assert!(std::time::Instant::now() < end, "{view:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn an_image_is_built_once_and_its_log_can_be_followed() {
    let world = World::new();
    let control = world.start().await;
    let order = [ImageCapability::Python, ImageCapability::Git];
    let first = control
        .build_image(&me(), wanted(Some(ImageAgent::Claude), &order))
        .await
        .unwrap();
    assert_eq!(
        (first.status.as_str(), first.agent_version.is_some()),
        ("building", true)
    );
    let reversed = [ImageCapability::Git, ImageCapability::Python];
    let second = control
        .build_image(&me(), wanted(Some(ImageAgent::Claude), &reversed))
        .await
        .unwrap();
    assert_eq!(first, second);
    world.engine.go_on.add_permits(1);
    let (mut text, mut after) = (String::new(), 0);
    loop {
        let part = control.image_log(&me(), &first.hash[..8], after).await.unwrap();
        text.push_str(&part.text);
        after = part.next;
        if part.ended {
            break;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert_eq!(text, "== begins\n== ends\n");
    let ready = until(&control, &first.hash, "ready").await;
    assert_eq!((ready.size_bytes, ready.error), (Some(1 << 20), None));
    let again = control
        .build_image(&me(), wanted(Some(ImageAgent::Claude), &order))
        .await
        .unwrap();
    assert_eq!(
        (again.status.as_str(), *world.engine.begun.lock().unwrap()),
        ("ready", 1)
    );
    assert_eq!(world.wanted(), 0);
}

#[tokio::test]
async fn a_failure_is_told_and_can_be_tried_again() {
    let world = World::new();
    let control = world.start().await;
    world.engine.go_on.add_permits(1);
    let asked = wanted(None, &[ImageCapability::Rust]);
    let hash = control.build_image(&me(), asked.clone()).await.unwrap().hash;
    let failed = until(&control, &hash, "failed").await;
    assert!(failed.error.unwrap().contains("no rust today"));
    assert_eq!(world.wanted(), 0, "what has failed is not tried again by itself");
    let again = control.build_image(&me(), asked).await.unwrap();
    assert_eq!((again.status.as_str(), again.error), ("building", None));
    control.remove_image(&me(), &hash).await.unwrap();
    let gone = control.image(&me(), &hash).await.unwrap_err();
    assert_eq!(gone.code(), ErrorCode::NotFound);
}

#[test]
fn a_build_that_was_accepted_outlives_the_server() {
    let world = World::new();
    let runtime = || {
        tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .unwrap()
    };
    let first = runtime();
    let hash = first.block_on(async {
        let control = world.start().await;
        control
            .build_image(&me(), wanted(None, &[ImageCapability::Git]))
            .await
            .unwrap()
            .hash
    });
    // As by a kill: nothing is told that it ends.
    first.shutdown_background();
    assert_eq!(world.wanted(), 1);
    world.engine.go_on.add_permits(1);
    runtime().block_on(async {
        let control = world.start().await;
        until(&control, &hash, "ready").await;
    });
    assert_eq!(world.wanted(), 0);
}

#[tokio::test]
async fn what_a_pool_uses_stays() {
    let world = World::new();
    let control = world.start().await;
    world.engine.go_on.add_permits(2);
    let used = control
        .build_image(&me(), wanted(None, &[ImageCapability::Git]))
        .await
        .unwrap();
    let unused = control
        .build_image(&me(), wanted(None, &[ImageCapability::Curl]))
        .await
        .unwrap();
    for image in [&used, &unused] {
        until(&control, &image.hash, "ready").await;
    }
    let mut template = SandboxTemplate::new(DriverKind::Docker);
    template.image = Some(used.tag.clone());
    let change = PoolChange {
        template: Some(template),
        ..PoolChange::default()
    };
    control.set_pool(&me(), "images", change).await.unwrap();
    assert_eq!(control.image(&me(), &used.hash).await.unwrap().pools, ["images"]);
    let refused = control.remove_image(&me(), &used.hash).await.unwrap_err();
    assert_eq!(refused.code(), ErrorCode::Conflict);
    assert!(refused.to_string().contains("pool images"), "{refused}");
    assert_eq!(control.collect_images().await.unwrap(), 1);
    let left: Vec<String> = control
        .images(&me())
        .await
        .unwrap()
        .into_iter()
        .map(|image| image.hash)
        .collect();
    assert_eq!(left, [used.hash]);
}

#[tokio::test]
async fn a_root_drive_is_written_once_and_a_failure_is_told_once() {
    let world = World::new();
    let control = world.start().await;
    world.engine.go_on.add_permits(1);
    let image = control.build_image(&me(), wanted(None, &[])).await.unwrap();
    until(&control, &image.hash, "ready").await;
    for (size, end) in [(512, "ready"), (64, "failed")] {
        let first = control.export_image(&me(), &image.hash, size).await.unwrap();
        assert_eq!(first.status, "exporting");
        assert_eq!(
            control.export_image(&me(), &image.hash, size).await.unwrap(),
            first
        );
        world.engine.go_on.add_permits(1);
        let last = loop {
            let view = control.export_image(&me(), &image.hash, size).await.unwrap();
            if view.status != "exporting" {
                break view;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        };
        assert_eq!(
            (last.status.as_str(), last.error.is_some()),
            (end, end == "failed")
        );
        assert_eq!(Path::new(&last.path).exists(), end == "ready");
    }
    let refused = control.export_image(&me(), &image.hash, 1).await.unwrap_err();
    assert_eq!(refused.code(), ErrorCode::InvalidRequest);
}

#[tokio::test]
async fn who_may_not_is_refused_and_so_is_what_cannot_be_meant() {
    let world = World::new();
    let control = world.start().await;
    let reader = Caller {
        permissions: [Permission::FleetRead].into_iter().collect(),
        ..me()
    };
    control.images(&reader).await.unwrap();
    let refused = control.build_image(&reader, wanted(None, &[])).await.unwrap_err();
    assert_eq!(refused.code(), ErrorCode::Forbidden);
    let nobody = Caller {
        permissions: BTreeSet::<Permission>::new().into_iter().collect(),
        ..me()
    };
    assert_eq!(
        control.images(&nobody).await.unwrap_err().code(),
        ErrorCode::Forbidden
    );
    let wrong = [
        BuildImage {
            suite: Some("x; reboot".into()),
            ..BuildImage::default()
        },
        BuildImage {
            suite: Some("bookworm".into()),
            base_image: Some("debian:12".into()),
            ..BuildImage::default()
        },
        BuildImage {
            agent_version: Some("1".into()),
            ..BuildImage::default()
        },
        BuildImage {
            agent: Some(ImageAgent::Droid),
            agent_version: Some("$(id)".into()),
            ..BuildImage::default()
        },
    ];
    for body in wrong {
        let refused = control.build_image(&me(), body.clone()).await.unwrap_err();
        assert_eq!(refused.code(), ErrorCode::InvalidRequest, "{body:?}");
    }
    assert_eq!(world.wanted(), 0);
}
