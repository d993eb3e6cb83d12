//! Ways out that are closed. Each is tried for real, does not arrive, and is reported.

#![allow(clippy::unwrap_used, reason = "test code")]

mod support;

use ostler_egress::{DenialKind, Session};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use support::{Web, World, client_hello, dial, dial_redirected, head, rest, say, tls_client, tunnel};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// A server that must not be reached, at an address that nothing may be connected to or sent to.
struct Trap {
    address: SocketAddr,
    reached: Arc<AtomicUsize>,
}

impl Trap {
    async fn new(at: &str) -> Self {
        let listener = TcpListener::bind(at).await.unwrap();
        let address = listener.local_addr().unwrap();
        let reached = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&reached);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let count = Arc::clone(&count);
                tokio::spawn(async move {
                    // A bare connection to an allowed server says nothing; a byte does.
                    if matches!(stream.read(&mut [0]).await, Ok(1..)) {
                        count.fetch_add(1, Ordering::SeqCst);
                    }
                });
            }
        });
        Self { address, reached }
    }

    fn port(&self) -> u16 {
        self.address.port()
    }

    async fn untouched(&self) {
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!(self.reached.load(Ordering::SeqCst), 0, "something got through");
    }
}

async fn connect(session: &Session, target: &str) -> String {
    let request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n");
    say(dial(session), request.as_bytes()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn connect_to_what_is_not_listed() {
    let mut world = World::new().await;
    let trap = Trap::new(support::SERVER).await;
    let port = trap.port();
    for name in [
        "web.example",
        "other.example",
        "evilweb.example",
        "a.web.example",
        "wild.example",
    ] {
        world.name(name, &["127.0.0.2"]);
    }
    let session = world.session(
        &[&format!("web.example:{port}"), &format!("*.wild.example:{port}")],
        &[],
    );
    for target in [
        format!("other.example:{port}"),
        format!("evilweb.example:{port}"),
        format!("a.web.example:{port}"),
        format!("wild.example:{port}"),
        format!("web.example.other.example:{port}"),
        // The name is right, the port is not.
        "web.example:22".to_owned(),
        "web.example:443".to_owned(),
    ] {
        let answer = connect(&session, &target).await;
        assert!(answer.starts_with("HTTP/1.1 403"), "{target}: {answer}");
        assert!(answer.contains("egress.domains"), "{answer}");
        assert_eq!(world.denial(DenialKind::Domain).await.target, target);
    }
    for target in [
        format!("127.0.0.2:{port}"),
        "169.254.169.254:80".to_owned(),
        format!("[::ffff:127.0.0.2]:{port}"),
        format!("[::ffff:7f00:2]:{port}"),
        format!("[::1]:{port}"),
        format!("[64:ff9b::7f00:2]:{port}"),
        format!("[2002:7f00:2::]:{port}"),
    ] {
        let answer = connect(&session, &target).await;
        assert!(answer.starts_with("HTTP/1.1 403"), "{target}: {answer}");
        assert!(answer.contains("egress.addresses"), "{answer}");
        world.denial(DenialKind::Address).await;
    }
    assert!(
        world.asked().is_empty(),
        "names that are not allowed are not asked for: {:?}",
        world.asked()
    );
    trap.untouched().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_forms_of_hosts() {
    let mut world = World::new().await;
    let trap = Trap::new(support::SERVER).await;
    let port = trap.port();
    world.name("web.example", &["127.0.0.2"]);
    let session = world.session(&[&format!("web.example:{port}")], &[&trap.address.to_string()]);
    for host in [
        "0x7f.2",
        "0x7f000002",
        "2130706434",
        "127.2",
        "0177.0.0.2",
        "127.0.0.2.",
        "127.0.0.02",
        "user@web.example",
        "web.example@127.0.0.2",
        "web..example",
        "web.example%00",
        "-web.example",
        "[127.0.0.2]",
        "[::ffff:127.0.0.2%25lo]",
        "web.example:1",
    ] {
        let answer = connect(&session, &format!("{host}:{port}")).await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{host}: {answer}");
        world.denial(DenialKind::Protocol).await;
        let request = format!("GET http://{host}:{port}/ HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n");
        let answer = say(dial(&session), request.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{host}: {answer}");
        world.denial(DenialKind::Protocol).await;
    }
    for target in [
        "web.example",
        "web.example:",
        "web.example:0",
        "web.example:65536",
        "web.example:+443",
        ":443",
    ] {
        let answer = connect(&session, target).await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{target}: {answer}");
        world.denial(DenialKind::Protocol).await;
    }
    trap.untouched().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connect_must_carry_tls_of_the_same_name() {
    let mut world = World::new().await;
    let trap = Trap::new(support::SERVER).await;
    let port = trap.port();
    world.name("web.example", &["127.0.0.2"]);
    world.name("other.example", &["127.0.0.2"]);
    let session = world.session(
        &[&format!("web.example:{port}"), &format!("other.example:{port}")],
        &[],
    );
    let target = format!("web.example:{port}");

    // Another name, even one that is allowed itself.
    let stream = tunnel(&session, &target).await;
    let error = tls_client(stream, "other.example").await.unwrap_err();
    assert!(error.to_string().contains("AccessDenied"), "{error}");
    let denial = world.denial(DenialKind::Sni).await;
    assert!(
        denial.target == target && denial.reason.contains("other.example"),
        "{denial:?}"
    );

    // No name: rustls leaves it out for an address.
    let answer = say(tunnel(&session, &target).await, &client_hello("127.0.0.2")).await;
    assert_eq!(answer.as_bytes().first(), Some(&21), "{answer}");
    assert!(
        world
            .denial(DenialKind::Sni)
            .await
            .reason
            .contains("names no server")
    );

    let hello = client_hello("web.example");
    for (bytes, kind) in [
        (
            &b"GET / HTTP/1.1\r\nHost: web.example\r\n\r\n"[..],
            DenialKind::Protocol,
        ),
        (b"SSH-2.0-OpenSSH_9.2\r\n", DenialKind::Protocol),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", DenialKind::Protocol),
        (b"\x80\x2e\x01\x03\x01", DenialKind::Protocol),
        (b"\0\0\0\x08\x04\xd2\x16\x2f", DenialKind::Protocol),
        (&hello[..hello.len() - 1], DenialKind::Sni),
        (&[22, 3, 1, 0, 1, 2], DenialKind::Sni),
        (&[22, 3, 1, 255, 255], DenialKind::Sni),
    ] {
        let _ = say(tunnel(&session, &target).await, bytes).await;
        world.denial(kind).await;
    }

    // A message that never ends, and a client that never speaks.
    let mut stream = tunnel(&session, &target).await;
    let endless: Vec<u8> = [22, 3, 1, 0, 4, 1, 255, 255, 255]
        .into_iter()
        .chain([22, 3, 1, 0, 1, 0].into_iter().cycle().take(18_000))
        .collect();
    let _ = stream.write_all(&endless).await;
    let _ = rest(&mut stream).await;
    assert!(world.denial(DenialKind::Sni).await.reason.contains("too long"));
    let mut stream = tunnel(&session, &target).await;
    let _ = rest(&mut stream).await;
    assert!(world.denial(DenialKind::Sni).await.reason.contains("in time"));
    trap.untouched().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_that_do_not_agree() {
    let mut world = World::new().await;
    let trap = Trap::new(support::SERVER).await;
    let port = trap.port();
    world.name("web.example", &["127.0.0.2"]);
    world.name("other.example", &["127.0.0.2"]);
    let session = world.session(
        &[&format!("web.example:{port}"), &format!("other.example:{port}")],
        &[],
    );
    let own = format!("web.example:{port}");
    let other = format!("other.example:{port}");
    let (protocol, domain) = (DenialKind::Protocol, DenialKind::Domain);
    for (request, kind) in [
        (
            format!("GET http://{own}/ HTTP/1.1\r\nHost: {other}\r\n\r\n"),
            domain,
        ),
        (
            format!("GET http://{own}/ HTTP/1.1\r\nHost: web.example\r\n\r\n"),
            domain,
        ),
        (
            format!("GET http://{own}/ HTTP/1.1\r\nHost: web.example:1\r\n\r\n"),
            domain,
        ),
        (
            format!("GET http://{own}/ HTTP/1.1\r\nHost: {own}\r\nHost: {other}\r\n\r\n"),
            protocol,
        ),
        (
            format!("GET http://{own}/ HTTP/1.1\r\nHost: {own}, {other}\r\n\r\n"),
            protocol,
        ),
        (format!("GET http://{own}/ HTTP/1.1\r\n\r\n"), protocol),
        (
            format!("GET http://{own}/ HTTP/1.1\r\nHost: x@{own}\r\n\r\n"),
            protocol,
        ),
        (
            format!("CONNECT {own} HTTP/1.1\r\nHost: {other}\r\n\r\n"),
            protocol,
        ),
        (
            format!("CONNECT {own} HTTP/1.1\r\nHost: {own}\r\nContent-Length: 4\r\n\r\nabcd"),
            protocol,
        ),
        (format!("GET / HTTP/1.1\r\nHost: {own}\r\n\r\n"), protocol),
        (format!("OPTIONS * HTTP/1.1\r\nHost: {own}\r\n\r\n"), protocol),
        (
            format!("GET https://{own}/ HTTP/1.1\r\nHost: {own}\r\n\r\n"),
            protocol,
        ),
        (
            format!("GET ftp://{own}/ HTTP/1.1\r\nHost: {own}\r\n\r\n"),
            protocol,
        ),
    ] {
        let answer = say(dial(&session), request.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 40"), "{request}: {answer}");
        world.denial(kind).await;
    }
    trap.untouched().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn framing_that_can_be_read_in_two_ways() {
    let mut world = World::new().await;
    let web = Web::new(false).await;
    world.name("web.example", &["127.0.0.2"]);
    let own = format!("web.example:{}", web.port());
    let session = world.session(&[&own], &[]);
    for request in [
        format!("GET http://{own}/ HTTP/1.1\r\nHost: {own}\r\nX: a\r\n b: c\r\n\r\n"),
        format!("GET http://{own}/ HTTP/1.1\r\nHost: {own}\r\nX : a\r\n\r\n"),
        format!("GET http://{own}/ HTTP/1.1\r\nHost: {own}\r\nX: a\0b\r\n\r\n"),
        format!(
            "POST http://{own}/ HTTP/1.1\r\nHost: {own}\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabc"
        ),
        format!("POST http://{own}/ HTTP/1.1\r\nHost: {own}\r\nContent-Length: +3\r\n\r\nabc"),
        format!(
            "POST http://{own}/ HTTP/1.1\r\nHost: {own}\r\nTransfer-Encoding: chunked, x\r\n\r\n0\r\n\r\n"
        ),
        format!("POST http://{own}/ HTTP/1.0\r\nHost: {own}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        format!(
            "GET http://{own}/ HTTP/1.1\r\nHost: {own}\r\nX: {}\r\n\r\n",
            "a".repeat(100_000)
        ),
        format!(
            "GET http://{own}/ HTTP/1.1\r\nHost: {own}\r\n{}\r\n",
            "X: a\r\n".repeat(200)
        ),
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(),
        "\u{16}\u{3}\u{1}\0\u{5}hello".to_owned(),
        "hello\r\n\r\n".to_owned(),
    ] {
        let answer = say(dial(&session), request.as_bytes()).await;
        let shown = &request[..request.len().min(200)];
        assert!(
            answer.is_empty() || answer.starts_with("HTTP/1.1 4"),
            "{shown}: {answer}"
        );
        world.denial(DenialKind::Protocol).await;
    }
    assert!(web.seen().is_empty(), "{:?}", web.seen());

    // A bad chunk is found when the head is already on its way; the body never becomes whole.
    let request = format!(
        "POST http://{own}/count HTTP/1.1\r\nHost: {own}\r\nTransfer-Encoding: chunked\r\n\r\n\
         3\r\nabcd\r\n0\r\n\r\nGET /hidden HTTP/1.1\r\nHost: {own}\r\n\r\n"
    );
    let answer = say(dial(&session), request.as_bytes()).await;
    assert!(!answer.contains("Ok("), "{answer}");
    assert!(
        !web.seen().iter().any(|seen| seen.contains("hidden")),
        "{:?}",
        web.seen()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn every_request_of_a_connection_is_decided() {
    let mut world = World::new().await;
    let web = Web::new(false).await;
    let trap = Trap::new(support::SERVER).await;
    world.name("web.example", &["127.0.0.2"]);
    world.name("other.example", &["127.0.0.2"]);
    let own = format!("web.example:{}", web.port());
    let other = format!("other.example:{}", trap.port());
    let session = world.session(&[&own], &[]);
    // The second request goes elsewhere, pipelined behind the first.
    let requests = format!(
        "GET http://{own}/ HTTP/1.1\r\nHost: {own}\r\n\r\nGET http://{other}/ HTTP/1.1\r\nHost: {other}\r\n\r\n\
         GET / HTTP/1.1\r\nHost: {own}\r\n\r\nGET http://{own}/last HTTP/1.1\r\nHost: {own}\r\n\r\n"
    );
    let answer = say(dial(&session), requests.as_bytes()).await;
    let codes: Vec<&str> = answer.split("HTTP/1.1 ").skip(1).map(|part| &part[..3]).collect();
    assert_eq!(codes, ["200", "403", "400", "200"], "{answer}");
    world.denial(DenialKind::Domain).await;
    world.denial(DenialKind::Protocol).await;
    assert_eq!(web.seen().len(), 2);
    trap.untouched().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn upgrades_are_for_web_sockets() {
    let world = World::new().await;
    let web = Web::new(false).await;
    world.name("web.example", &["127.0.0.2"]);
    let own = format!("web.example:{}", web.port());
    let session = world.session(&[&own], &[]);
    for upgrade in ["h2c", "websocket, h2c", "TLS/1.0"] {
        let request = format!(
            "GET http://{own}/ HTTP/1.1\r\nHost: {own}\r\nConnection: Upgrade\r\nUpgrade: {upgrade}\r\n\r\n"
        );
        assert!(
            say(dial(&session), request.as_bytes())
                .await
                .starts_with("HTTP/1.1 200")
        );
        assert!(!web.seen().pop().unwrap().contains("upgrade"));
    }
    // A server that changes the protocol without having been asked.
    let request = format!("GET http://{own}/socket HTTP/1.1\r\nHost: {own}\r\n\r\n");
    let answer = say(dial(&session), request.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 502"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_lead_inside() {
    let mut world = World::new().await;
    let trap = Trap::new("127.0.0.1:0").await;
    let port = trap.port();
    let session = world.session(&[&format!("*.wild.example:{port}")], &["192.0.2.1:1"]);
    for (i, address) in [
        "127.0.0.1",
        "0.0.0.0",
        "169.254.169.254",
        "10.0.0.1",
        "172.16.0.1",
        "192.168.0.1",
        "100.100.100.200",
        "168.63.129.16",
        "224.0.0.1",
        "255.255.255.255",
        // Listed, but with another port.
        "192.0.2.1",
        "::1",
        "::",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "::ffff:169.254.169.254",
        "64:ff9b::7f00:1",
        "2002:7f00:1::1",
        "fe80::1",
        "fd00:ec2::254",
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("n{i}.wild.example");
        world.name(&name, &[address]);
        let answer = connect(&session, &format!("{name}:{port}")).await;
        assert!(answer.starts_with("HTTP/1.1 403"), "{address}: {answer}");
        world.denial(DenialKind::Rebinding).await;
        let request = format!("GET http://{name}:{port}/ HTTP/1.1\r\nHost: {name}:{port}\r\n\r\n");
        let answer = say(dial(&session), request.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 403"), "{address}: {answer}");
        world.denial(DenialKind::Rebinding).await;
    }
    trap.untouched().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redirected_connections() {
    let mut world = World::new().await;
    let trap = Trap::new(support::SERVER).await;
    let port = trap.port();
    world.name("web.example", &["127.0.0.2"]);
    world.name("other.example", &["127.0.0.2"]);
    let session = world.session(&[&format!("web.example:{port}")], &["127.0.0.2:1", "0.0.0.0/0:2"]);
    let to = trap.address;
    let (sni, protocol, domain) = (DenialKind::Sni, DenialKind::Protocol, DenialKind::Domain);
    for (bytes, kind) in [
        (client_hello("other.example"), domain),
        (client_hello("127.0.0.2"), sni),
        (b"GET / HTTP/1.1\r\nHost: other.example\r\n\r\n".to_vec(), domain),
        (b"GET / HTTP/1.1\r\nHost: web.example:1\r\n\r\n".to_vec(), domain),
        (
            b"GET http://other.example/ HTTP/1.1\r\nHost: web.example\r\n\r\n".to_vec(),
            domain,
        ),
        (
            b"GET / HTTP/1.1\r\nHost: 127.0.0.2\r\n\r\n".to_vec(),
            DenialKind::Address,
        ),
        (b"GET / HTTP/1.1\r\n\r\n".to_vec(), protocol),
        (b"GET / HTTP/1.0\r\n\r\n".to_vec(), protocol),
        (
            format!("CONNECT web.example:{port} HTTP/1.1\r\nHost: web.example:{port}\r\n\r\n").into_bytes(),
            protocol,
        ),
        (b"SSH-2.0-OpenSSH\r\n".to_vec(), protocol),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), protocol),
        (vec![5, 1, 0], protocol),
        (vec![0; 64], protocol),
    ] {
        let _ = say(dial_redirected(&session, to), &bytes).await;
        world.denial(kind).await;
    }
    // The metadata service, which the entry for everything does not mean, and a name at a wrong port.
    let metadata = "169.254.169.254:2".parse().unwrap();
    let answer = say(
        dial_redirected(&session, metadata),
        b"GET / HTTP/1.1\r\nHost: 169.254.169.254\r\n\r\n",
    )
    .await;
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
    world.denial(DenialKind::Address).await;
    let wrong = "127.0.0.2:443".parse().unwrap();
    let _ = say(dial_redirected(&session, wrong), &client_hello("web.example")).await;
    world.denial(domain).await;
    trap.untouched().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn socks() {
    let mut world = World::new().await;
    let trap = Trap::new(support::SERVER).await;
    let port = trap.port().to_be_bytes();
    world.name("web.example", &["127.0.0.2"]);
    world.name("bad.example", &["127.0.0.1"]);
    let session = world.session(
        &[
            &format!("web.example:{}", trap.port()),
            &format!("bad.example:{}", trap.port()),
        ],
        &[],
    );
    let name = |name: &str| [&[5, 1, 0, 5, 1, 0, 3, name.len() as u8], name.as_bytes(), &port].concat();
    let greeting = [5, 1, 0];
    let with = |bytes: &[u8]| [&greeting, bytes, &port].concat();
    let web = name("web.example");
    let then = |bytes: &[u8]| [&web, bytes].concat();
    let (domain, protocol, sni) = (DenialKind::Domain, DenialKind::Protocol, DenialKind::Sni);
    for (bytes, code, kind) in [
        (name("other.example"), 2, domain),
        (name("0x7f.2"), 2, domain),
        (name("2130706434"), 2, domain),
        (name("::1"), 2, domain),
        (name("127.0.0.2"), 2, DenialKind::Address),
        (name("bad.example"), 2, DenialKind::Rebinding),
        (with(&[5, 1, 0, 1, 127, 0, 0, 2]), 2, DenialKind::Address),
        (
            with(&[&[5, 1, 0, 4][..], &[0; 10], &[255, 255, 127, 0, 0, 2]].concat()),
            2,
            DenialKind::Address,
        ),
        // Waiting for a connection, and UDP.
        (with(&[5, 2, 0, 1, 127, 0, 0, 2]), 7, protocol),
        (with(&[5, 3, 0, 1, 127, 0, 0, 2]), 7, protocol),
        (with(&[5, 1, 0, 9, 127, 0, 0, 2]), 8, protocol),
        (then(b"GET / HTTP/1.1\r\nHost: other.example\r\n\r\n"), 0, domain),
        (then(&client_hello("other.example")), 0, sni),
        (then(b"SSH-2.0-OpenSSH\r\n"), 0, protocol),
    ] {
        let mut stream = dial(&session);
        stream.write_all(&bytes).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        assert_eq!(
            answer.get(..4),
            Some(&[5, 0, 5, code][..]),
            "{bytes:?}: {answer:?}"
        );
        world.denial(kind).await;
    }
    let mut stream = dial(&session);
    stream.write_all(&[5, 1, 2]).await.unwrap();
    let mut answer = [0; 2];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(answer, [5, 255], "a password is not asked for");
    world.denial(protocol).await;
    trap.untouched().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_connections_and_reports() {
    let mut world = World::with(|options| options.connections = 2).await;
    let session = world.session(&[], &[]);
    let (first, second) = (dial(&session), dial(&session));
    tokio::time::sleep(Duration::from_millis(100)).await;
    for _ in 0..150 {
        assert_eq!(rest(&mut dial(&session)).await, "");
    }
    assert!(world.denials.dropped() > 0, "one sandbox cannot fill the channel");
    world.denial(DenialKind::Limit).await;
    drop((first, second));
    tokio::time::sleep(Duration::from_millis(100)).await;
    let mut stream = dial(&session);
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        .await
        .unwrap();
    assert!(head(&mut stream).await.starts_with("HTTP/1.1 400"));
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_in_names_below_wildcards() {
    let mut world = World::with(|options| options.wildcard_names = 3).await;
    let session = world.session(&["*.wild.example", "one.wild.example"], &[]);
    let long = "a".repeat(63) + "." + &"b".repeat(63);
    let answer = connect(&session, &format!("{long}.wild.example:443")).await;
    assert!(answer.starts_with("HTTP/1.1 429"), "{answer}");
    world.denial(DenialKind::Limit).await;
    assert!(world.asked().is_empty());
    for i in 0..3 {
        let answer = connect(&session, &format!("n{i}.wild.example:443")).await;
        assert!(answer.starts_with("HTTP/1.1 502"), "{answer}");
    }
    let answer = connect(&session, "n3.wild.example:443").await;
    assert!(answer.starts_with("HTTP/1.1 429"), "{answer}");
    world.denial(DenialKind::Limit).await;
    // What was asked for before, and what is listed itself, is not new.
    for name in ["n0", "one"] {
        let answer = connect(&session, &format!("{name}.wild.example:443")).await;
        assert!(answer.starts_with("HTTP/1.1 502"), "{answer}");
    }
    assert!(!world.asked().iter().any(|asked| asked.starts_with("n3")));
    world.no_denial();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_channel_holds_nothing_up() {
    let (denials, _unread) = ostler_egress::Denials::channel(1);
    let options = ostler_egress::Options {
        name_servers: vec!["127.0.0.1:9".parse().unwrap()],
        ..ostler_egress::Options::default()
    };
    let proxy = ostler_egress::Proxy::new(options, denials.clone()).unwrap();
    let ended = tokio_util::sync::CancellationToken::new();
    let sandbox = ostler_domain::SandboxId::from_u128(1);
    let session = proxy.session(sandbox, ostler_egress::Policy::default(), ended);
    for _ in 0..5 {
        let answer = connect(&session, "example.org:443").await;
        assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
    }
    assert_eq!(denials.dropped(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_changed_byte_opens_another_way() {
    let world = World::new().await;
    let web = Web::new(false).await;
    let trap = Trap::new(support::SERVER).await;
    for name in ["web.example", "other.example"] {
        world.name(name, &["127.0.0.2"]);
    }
    let own = format!("web.example:{}", web.port());
    let other = format!("other.example:{}", trap.port());
    let session = world.session(&[&own], &[]);
    let hello = client_hello("other.example");
    let inputs = [
        [
            format!("CONNECT {own} HTTP/1.1\r\nHost: {own}\r\n\r\n").as_bytes(),
            &hello,
        ]
        .concat(),
        format!(
            "POST http://{own}/ HTTP/1.1\r\nHost: {own}\r\nContent-Length: 3\r\n\r\nabcGET http://{other}/"
        )
        .into(),
        format!("GET http://{other}/ HTTP/1.1\r\nHost: {own}\r\n\r\n").into(),
        [
            &[5, 1, 0, 5, 1, 0, 3, 13][..],
            b"other.example",
            &trap.port().to_be_bytes(),
            &hello,
        ]
        .concat(),
        hello.clone(),
    ];
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below as u64) as usize
    };
    for _ in 0..200 {
        for input in &inputs {
            let mut bytes = input.clone();
            for _ in 0..=random(4) {
                let at = random(bytes.len().min(120));
                bytes[at] = random(256) as u8;
            }
            let stream = match random(2) {
                0 => dial(&session),
                _ => dial_redirected(&session, trap.address),
            };
            say(stream, &bytes).await;
        }
    }
    trap.untouched().await;
    assert!(
        !world.asked().iter().any(|asked| asked.contains("other")),
        "{:?}",
        world.asked()
    );
}
