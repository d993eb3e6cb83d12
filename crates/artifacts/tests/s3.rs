//! On an S3-compatible server that somebody else wrote: over HTTP, with signed requests.
//!
//! One test, because what is given by the environment is given to the whole process.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "test code")]

mod common;

use common::conformance;
use futures::StreamExt;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use ostler_artifacts::{ArtifactSettings, ArtifactStore};
use ostler_domain::RunId;
use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;
use std::path::Path;
use std::time::Duration;
use tokio::net::TcpListener;

const BUCKET: &str = "kept";

/// Serves the directories in `root` as buckets until the runtime ends. Returns its address.
async fn serve(root: &Path) -> String {
    let mut builder = S3ServiceBuilder::new(s3s_fs::FileSystem::new(root).unwrap());
    builder.set_auth(SimpleAuth::from_single("somebody", "a-secret"));
    let service = builder.build();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let service = service.clone();
            tokio::spawn(async move {
                let server = auto::Builder::new(TokioExecutor::new());
                drop(server.serve_connection(TokioIo::new(socket), service).await);
            });
        }
    });
    format!("http://{address}")
}

fn environment(secret: &str) {
    // SAFETY: this process has one test, which calls this before it starts a thread and between runtimes.
    unsafe {
        std::env::set_var("AWS_ACCESS_KEY_ID", "somebody");
        std::env::set_var("AWS_SECRET_ACCESS_KEY", secret);
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
}

/// What the server keeps of uploads that are neither finished nor taken back.
fn parts(root: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(root).unwrap();
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with(".upload") || name.starts_with(".tmp"))
        .collect()
}

#[test]
fn a_bucket_does_what_every_store_must() {
    let root = tempfile::tempdir().unwrap();
    std::fs::create_dir(root.path().join(BUCKET)).unwrap();
    let open = |endpoint: &str, url: &str| {
        let settings = ArtifactSettings {
            url: Some(url.to_owned()),
            endpoint: Some(endpoint.to_owned()),
            ..ArtifactSettings::default()
        };
        ArtifactStore::open(&settings, "/nonexistent".into()).unwrap()
    };

    environment("a-secret");
    runtime().block_on(async {
        let endpoint = serve(root.path()).await;
        let store = open(&endpoint, "s3://kept");
        assert!(!store.is_local());
        conformance(&store).await;
        let store = open(&endpoint, "s3://kept/some/prefix/");
        conformance(&store).await;

        // An upload that is given up is taken back.
        let tar = common::Tar::new().file("large", &common::noise(40 << 20)).bytes();
        let input = common::pieces(&tar[..30 << 20]).chain(futures::stream::pending());
        let put = store.put(RunId::new(), common::WIDE, common::NOW, input);
        assert!(tokio::time::timeout(Duration::from_secs(4), put).await.is_err());
        let begin = std::time::Instant::now();
        while !parts(root.path()).is_empty() {
            assert!(
                begin.elapsed() < Duration::from_secs(20),
                "parts stay: {:?}",
                parts(root.path())
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert_eq!(common::listed(&store).await, []);
    });

    environment("a-wrong-secret");
    runtime().block_on(async {
        let endpoint = serve(root.path()).await;
        let refused = open(&endpoint, "s3://kept")
            .check()
            .await
            .unwrap_err()
            .to_string();
        assert!(refused.contains("cannot be written"), "{refused}");
        assert!(!refused.contains("a-wrong-secret"), "{refused}");
        let kept = open(&endpoint, "s3://kept")
            .put(
                RunId::new(),
                common::WIDE,
                common::NOW,
                common::Tar::new().file("a", b"x").stream(),
            )
            .await;
        assert_eq!((kept.files.len(), kept.problems.len()), (0, 1));
    });
}
