//! Images that the engine does not have, from a registry on the loopback.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use common::Containers;
use ostler_domain::SandboxId;
use ostler_driver_docker::DockerDriver;
use ostler_sandbox::conformance::{Guest, Subject};
use ostler_sandbox::{Driver, SandboxSpec};
use ostler_test_kit::require;
use sha2::Digest;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

const MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

type Blobs = Arc<BTreeMap<String, Vec<u8>>>;

fn digest(bytes: &[u8]) -> String {
    let hash = sha2::Sha256::digest(bytes);
    hash.iter()
        .fold("sha256:".to_owned(), |text, byte| format!("{text}{byte:02x}"))
}

async fn blob(State(blobs): State<Blobs>, Path(name): Path<String>) -> impl IntoResponse {
    let Some(bytes) = blobs.get(&name) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let kind = if bytes.starts_with(b"{\"schemaVersion") {
        MANIFEST
    } else {
        "application/octet-stream"
    };
    ([(header::CONTENT_TYPE, kind)], bytes.clone()).into_response()
}

/// A registry with the image `thing:latest`, in which there is nothing. Its address.
async fn registry() -> String {
    let layer = vec![0; 1024];
    let arch = if cfg!(target_arch = "aarch64") {
        "arm64"
    } else {
        "amd64"
    };
    let layer_digest = digest(&layer);
    let config = format!(
        r#"{{"architecture":"{arch}","os":"linux","config":{{}},"rootfs":{{"type":"layers","diff_ids":["{layer_digest}"]}}}}"#
    )
    .into_bytes();
    let config_digest = digest(&config);
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"{MANIFEST}","config":{{"mediaType":"application/vnd.docker.container.image.v1+json","size":{},"digest":"{config_digest}"}},"layers":[{{"mediaType":"application/vnd.docker.image.rootfs.diff.tar.gzip","size":{},"digest":"{layer_digest}"}}]}}"#,
        config.len(),
        layer.len()
    )
    .into_bytes();
    let blobs: Blobs = Arc::new(
        [
            (digest(&manifest), manifest.clone()),
            ("latest".to_owned(), manifest),
            (config_digest, config),
            (layer_digest, layer),
        ]
        .into(),
    );
    let app = Router::new()
        .route("/v2/", get(async || "{}"))
        .route("/v2/thing/manifests/{name}", get(blob))
        .route("/v2/thing/blobs/{name}", get(blob))
        .with_state(blobs);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move { axum::serve(listener, app).await });
    address
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_is_pulled_only_where_the_settings_say_so() {
    require!(Docker);
    let containers = Containers::private();
    let registry = registry().await;
    let mut template = containers.template();
    template.image = Some(format!("{registry}/thing"));
    let spec = SandboxSpec::new(SandboxId::new(), template.clone());
    let error = containers
        .driver()
        .await
        .start(&spec)
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("has no image") && error.contains("pull = true"),
        "{error}"
    );

    let mut options = containers.options();
    options.pull = true;
    let driver = DockerDriver::open(options).await.unwrap();
    driver.start(&spec).await.unwrap();
    Guest::ready(&driver, spec.id).await;
    driver.remove(spec.id, Duration::ZERO).await.unwrap();

    template.image = Some(format!("{registry}/no-such-thing:1"));
    let spec = SandboxSpec::new(SandboxId::new(), template);
    let error = driver.start(&spec).await.unwrap_err().to_string();
    assert!(
        error.contains("no-such-thing:1 cannot be pulled") && error.contains("pull "),
        "{error}"
    );
    assert!(driver.list().await.unwrap().is_empty());
}
