//! curl through the proxy, as programs in sandboxes do.

#![allow(clippy::unwrap_used, reason = "test code")]

mod support;

use ostler_egress::DenialKind;
use support::{Web, World, port_of, root};
use tokio::process::Command;

struct Curl {
    out: String,
    error: String,
    ok: bool,
}

async fn curl(arguments: &[&str]) -> Curl {
    let mut command = Command::new("curl");
    for (name, _) in std::env::vars().filter(|(name, _)| name.to_lowercase().ends_with("_proxy")) {
        command.env_remove(name);
    }
    let output = command
        .args(["-sS", "--max-time", "20"])
        .args(arguments)
        .kill_on_drop(true)
        .output()
        .await
        .expect("curl is installed");
    Curl {
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        error: String::from_utf8_lossy(&output.stderr).into_owned(),
        ok: output.status.success(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn curl_gets_what_is_allowed_and_is_told_what_is_not() {
    let mut world = World::new().await;
    let (plain, tls) = (Web::new(false).await, Web::new(true).await);
    world.name("web.example", &["127.0.0.2"]);
    world.name("other.example", &["127.0.0.2"]);
    let session = world.session(
        &[
            &format!("web.example:{}", plain.port()),
            &format!("web.example:{}", tls.port()),
        ],
        &[],
    );
    let port = port_of(&session).await;
    let folder = tempfile::tempdir().unwrap();
    let roots = folder.path().join("roots.pem");
    std::fs::write(&roots, root().cert.pem()).unwrap();
    let roots = roots.to_str().unwrap();
    let big = folder.path().join("big");
    std::fs::write(&big, vec![b'x'; 5_000_000]).unwrap();
    let upload = format!("@{}", big.to_str().unwrap());

    let http = format!("http://{port}");
    let socks = format!("socks5h://{port}");
    let plain_url = format!("http://web.example:{}/", plain.port());
    let tls_url = format!("https://web.example:{}/", tls.port());
    for proxy in [&http, &socks] {
        for url in [&plain_url, &tls_url] {
            let got = curl(&["-x", proxy, "--cacert", roots, url]).await;
            assert!(got.ok && got.out == "hello", "{proxy} {url}: {}", got.error);
            let echo = format!("{url}echo");
            let got = curl(&["-x", proxy, "--cacert", roots, "--data-binary", &upload, &echo]).await;
            assert!(
                got.ok && got.out.len() == 5_000_000,
                "{proxy} {url}: {}",
                got.error
            );
        }
    }
    let got = curl(&["-x", &http, "-I", &plain_url]).await;
    assert!(
        got.ok && got.out.contains("content-length: 5"),
        "{}{}",
        got.out,
        got.error
    );
    world.no_denial();

    let other = format!("http://other.example:{}/", plain.port());
    let got = curl(&["-x", &http, &other]).await;
    assert!(
        got.out.contains("egress.domains") && got.out.contains("other.example"),
        "{}",
        got.out
    );
    world.denial(DenialKind::Domain).await;

    let other = format!("https://other.example:{}/", tls.port());
    let got = curl(&["-x", &http, "--cacert", roots, &other]).await;
    assert!(!got.ok && got.error.contains("403"), "{}", got.error);
    world.denial(DenialKind::Domain).await;

    // A name that is allowed in front, and another inside of TLS.
    let there = format!("other.example:{}:web.example:{}", tls.port(), tls.port());
    let got = curl(&["-x", &http, "--cacert", roots, "--connect-to", &there, &other]).await;
    assert!(!got.ok && got.error.contains("access denied"), "{}", got.error);
    world.denial(DenialKind::Sni).await;

    let got = curl(&["-x", &socks, "--cacert", roots, &other]).await;
    assert!(!got.ok, "{}", got.out);
    world.denial(DenialKind::Domain).await;

    let got = curl(&["-x", &http, "--http2-prior-knowledge", "-p", &plain_url]).await;
    assert!(!got.ok, "{}", got.out);
    world.denial(DenialKind::Protocol).await;
}
