//! Engines that are not what they should be: away, silent, not believed, restarted.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use common::Containers;
use ostler_domain::SandboxId;
use ostler_driver_docker::{DockerDriver, DockerOptions, TlsFiles};
use ostler_sandbox::conformance::{Guest, Subject};
use ostler_sandbox::{Driver, DriverEvent, SandboxSpec};
use ostler_test_kit::{Authority, DockerEngine, Identity, require};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::broadcast::Receiver;

fn tempdir() -> TempDir {
    tempfile::tempdir().unwrap()
}

fn options(state: &Path, engine: String, certificates: Option<&Path>) -> DockerOptions {
    DockerOptions {
        engine,
        tls: certificates.map(TlsFiles::in_dir),
        ..DockerOptions::new("engines", state.join("state"), state.join("guest"))
    }
}

async fn why(options: DockerOptions) -> String {
    DockerDriver::open(options).await.err().unwrap().to_string()
}

/// A server with this certificate that says nothing after the handshake. Its address.
async fn server(identity: &Identity) -> String {
    let certificate = CertificateDer::from_pem_slice(identity.certificate.as_bytes()).unwrap();
    let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("tcp://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let _held = acceptor.accept(stream).await;
                std::future::pending::<()>().await;
            });
        }
    });
    url
}

#[tokio::test]
async fn certificates_that_are_not_right_are_told_with_what_to_do() {
    let dir = tempdir();
    let (mine, other) = (Authority::new(), Authority::new());
    mine.write(dir.path(), &mine.issue(&["client"], 2099));
    let cases = [
        (mine.issue(&["127.0.0.1"], 2001), "has expired: renew it"),
        (mine.issue(&["192.0.2.1"], 2099), "is for another host"),
        (other.issue(&["127.0.0.1"], 2099), "not signed by the given CA"),
    ];
    for (identity, say) in cases {
        let url = server(&identity).await;
        let error = why(options(dir.path(), url.clone(), Some(dir.path()))).await;
        assert!(error.contains(say) && error.contains(&url), "{error}");
    }
}

#[tokio::test]
async fn files_that_are_missing_or_broken_are_named() {
    let dir = tempdir();
    let authority = Authority::new();
    let url = || "tcp://127.0.0.1:1".to_owned();
    let error = why(options(dir.path(), url(), Some(dir.path()))).await;
    assert!(error.contains("ca.pem"), "{error}");
    authority.write(dir.path(), &authority.issue(&["client"], 2099));
    for file in ["ca.pem", "cert.pem", "key.pem"] {
        let path = dir.path().join(file);
        let good = std::fs::read(&path).unwrap();
        std::fs::write(&path, "nothing").unwrap();
        let error = why(options(dir.path(), url(), Some(dir.path()))).await;
        assert!(error.contains(file), "{error}");
        std::fs::write(&path, good).unwrap();
    }
    let others = Authority::new().issue(&["client"], 2099);
    std::fs::write(dir.path().join("key.pem"), others.key).unwrap();
    let error = why(options(dir.path(), url(), Some(dir.path()))).await;
    assert!(error.contains("do not belong together"), "{error}");
}

#[tokio::test]
async fn an_engine_that_is_away_or_speaks_no_tls_is_told_apart() {
    let dir = tempdir();
    let authority = Authority::new();
    authority.write(dir.path(), &authority.issue(&["client"], 2099));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("tcp://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let answer = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n";
            let _ = tokio::io::AsyncWriteExt::write_all(&mut stream, answer).await;
        }
    });
    let error = why(options(dir.path(), url, Some(dir.path()))).await;
    assert!(error.contains("does not speak TLS"), "{error}");

    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("tcp://{}", closed.local_addr().unwrap());
    drop(closed);
    let error = why(options(dir.path(), url, Some(dir.path()))).await;
    assert!(
        error.contains("cannot be reached") && error.contains("--tlsverify"),
        "{error}"
    );
    let socket = format!("unix://{}", dir.path().join("none").display());
    let error = why(options(dir.path(), socket, None)).await;
    assert!(error.contains("systemctl start docker"), "{error}");
}

/// The clock goes on by itself while everybody waits.
#[tokio::test(start_paused = true)]
async fn an_engine_that_never_answers_is_given_up() {
    let dir = tempdir();
    let authority = Authority::new();
    authority.write(dir.path(), &authority.issue(&["client"], 2099));
    let url = server(&authority.issue(&["127.0.0.1"], 2099)).await;
    let error = why(options(dir.path(), url, Some(dir.path()))).await;
    assert!(
        error.contains("did not answer within 30s") && error.contains("restart it"),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_the_engine_does_not_know_is_told_so() {
    require!(Docker);
    let engine = DockerEngine::remote();
    let dir = tempdir();
    let stranger = Authority::new();
    stranger.write(dir.path(), &stranger.issue(&["client"], 2099));
    // It knows the engine, but not the other way round.
    std::fs::copy(engine.certificates().join("ca.pem"), dir.path().join("ca.pem")).unwrap();
    let error = why(options(dir.path(), engine.tcp(), Some(dir.path()))).await;
    assert!(
        error.contains("does not accept this server's certificate"),
        "{error}"
    );
    let error = why(DockerOptions {
        plain_loopback: true,
        ..options(dir.path(), engine.tcp(), None)
    })
    .await;
    assert!(error.contains("HTTPS"), "{error}");
}

async fn next(events: &mut Receiver<DriverEvent>) -> DriverEvent {
    tokio::time::timeout(Duration::from_secs(60), events.recv())
        .await
        .unwrap()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_that_was_restarted_loses_no_end_and_takes_new_sandboxes() {
    require!(Docker);
    let mut containers = Containers::private();
    let driver = containers.driver().await;
    let template = containers.template();
    let start = async |driver: &DockerDriver| {
        let id = SandboxId::new();
        driver
            .start(&SandboxSpec::new(id, template.clone()))
            .await
            .unwrap();
        id
    };
    let ids = [start(&driver).await, start(&driver).await];
    // A container of somebody else ends too, and is nobody's news.
    let image = template.image.clone().unwrap();
    let name = containers.container(ids[0]);
    let foreign = [
        "run",
        "-d",
        "--volumes-from",
        &name,
        "--network=none",
        &image,
        "/ostler/guest",
        "--run",
        "/tmp/x",
    ];
    let foreign: Vec<&str> = foreign.into_iter().chain(["--workspace", "/tmp/y"]).collect();
    containers.engine.docker(&foreign).unwrap();
    let mut events = driver.events();

    containers.engine.down();
    let error = driver
        .start(&SandboxSpec::new(SandboxId::new(), template.clone()))
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("systemctl start docker"), "{error}");
    assert!(driver.status(ids[0]).await.is_err());
    containers.engine.up();

    let mut ended = BTreeMap::new();
    while ended.len() < ids.len() {
        let event = next(&mut events).await;
        assert!(ids.contains(&event.id), "{event:?}");
        assert!(ended.insert(event.id, event).is_none(), "told twice");
    }
    // And it goes on with what happens from then on.
    let later = start(&driver).await;
    containers.kill_first_process(later).await;
    let event = next(&mut events).await;
    assert_eq!((event.id, event.exit.signal), (later, Some(9)));
    assert!(!event.exit.out_of_memory);
    assert!(events.is_empty());
    for id in driver.list().await.unwrap() {
        driver.remove(id, Duration::ZERO).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sandbox_that_ran_out_of_memory_is_told_as_that() {
    require!(BaseImage);
    let containers = Containers::local();
    let driver = containers.driver().await;
    let id = SandboxId::new();
    let mut template = containers.template();
    template.memory_mb = 64;
    driver.start(&SandboxSpec::new(id, template)).await.unwrap();
    let mut events = driver.events();
    // The kernel is to choose the first process, with which all end.
    let script = "echo 1000 > /proc/1/oom_score_adj && exec tail /dev/zero";
    // On a busy machine it may choose the other one all the same.
    let mut event = None;
    for _ in 0..6 {
        let exec = ["exec", "--detach", &containers.container(id), "sh", "-c", script];
        containers.engine.docker(&exec).unwrap();
        event = tokio::time::timeout(Duration::from_secs(10), events.recv())
            .await
            .ok();
        if event.is_some() {
            break;
        }
    }
    let event = event.unwrap().unwrap();
    assert_eq!(
        (event.id, event.exit.signal, event.exit.out_of_memory),
        (id, Some(9), true)
    );
    driver.remove(id, Duration::ZERO).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forwarded_socket_is_an_engine_far_away() {
    require!(BaseImage);
    let containers = Containers::local();
    let mut options = containers.options();
    options.remote = Some(true);
    options.starts = 1;
    let driver = DockerDriver::open(options).await.unwrap();
    assert!(!driver.capabilities().mounts);
    let started = (0..3).map(async |_| {
        let id = SandboxId::new();
        driver
            .start(&SandboxSpec::new(id, containers.template()))
            .await
            .unwrap();
        let mut guest = Guest::ready(&driver, id).await;
        // More than any buffer on the way.
        let much = guest
            .run(&["sh", "-c", "head -c 3000000 /dev/zero | tr '\\0' x"])
            .await;
        assert_eq!(much.stdout.len(), 3_000_000);
        driver.remove(id, Duration::from_secs(1)).await.unwrap();
        assert!(driver.connect(id).await.is_err());
    });
    futures::future::join_all(started).await;
}
