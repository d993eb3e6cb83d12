//! What is allowed works, with much data, in both directions, and with one side closed.

#![allow(clippy::unwrap_used, reason = "test code")]

mod support;

use std::time::Duration;
use support::{
    Web, World, backwards, backwards_tls, client_hello, dial, dial_redirected, head, rest, say, tls_client,
    tunnel,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

fn much() -> Vec<u8> {
    (0..3_000_000u32)
        .flat_map(|n| n.to_le_bytes()[..3].to_vec())
        .collect()
}

/// Sends much, closes its side, and gets all of it back.
async fn exchange(stream: impl AsyncReadExt + AsyncWriteExt + Unpin + Send) {
    let (mut read, mut write) = tokio::io::split(stream);
    let sent = much();
    let sending = async {
        write.write_all(&sent).await.unwrap();
        write.shutdown().await.unwrap();
    };
    let mut got = Vec::new();
    let receiving = async { read.read_to_end(&mut got).await.unwrap() };
    timeout(support::PATIENCE, async { tokio::join!(sending, receiving) })
        .await
        .unwrap();
    got.reverse();
    assert!(got == sent, "{} of {} bytes", got.len(), sent.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_by_connect() {
    let mut world = World::new().await;
    let server = backwards_tls().await;
    world.name("web.example", &["127.0.0.2"]);
    let session = world.session(&[&format!("web.example:{}", server.port())], &[]);
    let stream = tunnel(&session, &format!("WEB.example.:{}", server.port())).await;
    exchange(tls_client(stream, "web.example").await.unwrap()).await;
    world.no_denial();
}

#[tokio::test(flavor = "multi_thread")]
async fn any_protocol_by_connect_to_a_listed_address() {
    let mut world = World::new().await;
    let server = backwards().await;
    let session = world.session(&[], &[&server.to_string()]);
    exchange(tunnel(&session, &server.to_string()).await).await;
    let mapped = format!("[::ffff:127.0.0.2]:{}", server.port());
    exchange(tunnel(&session, &mapped).await).await;
    exchange(dial_redirected(&session, server)).await;
    world.no_denial();
    assert!(world.asked().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_hello_in_many_pieces() {
    let world = World::new().await;
    let server = backwards().await;
    world.name("a.wild.example", &["127.0.0.2"]);
    let session = world.session(&[&format!("*.wild.example:{}", server.port())], &[]);
    let mut stream = tunnel(&session, &format!("a.wild.example:{}", server.port())).await;
    // Each byte of the message in a record of its own, and each of those in pieces.
    let hello = client_hello("a.wild.example");
    let pieces: Vec<u8> = hello[5..]
        .iter()
        .flat_map(|byte| [22, 3, 1, 0, 1, *byte])
        .collect();
    for piece in pieces.chunks(7) {
        stream.write_all(piece).await.unwrap();
        tokio::task::yield_now().await;
    }
    stream.shutdown().await.unwrap();
    let mut got = Vec::new();
    timeout(support::PATIENCE, stream.read_to_end(&mut got))
        .await
        .unwrap()
        .unwrap();
    got.reverse();
    assert_eq!(got, pieces, "the server gets exactly what the client sent");
}

#[tokio::test(flavor = "multi_thread")]
async fn redirected_tls_goes_where_the_name_leads_and_not_where_the_sandbox_says() {
    let mut world = World::new().await;
    let server = backwards_tls().await;
    world.name("web.example", &["127.0.0.2"]);
    let session = world.session(&[&format!("web.example:{}", server.port())], &[]);
    let elsewhere = format!("203.0.113.9:{}", server.port()).parse().unwrap();
    let stream = dial_redirected(&session, elsewhere);
    exchange(tls_client(stream, "web.example").await.unwrap()).await;
    world.no_denial();
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_requests() {
    let mut world = World::new().await;
    let web = Web::new(false).await;
    world.name("web.example", &["127.0.0.2"]);
    let port = web.port();
    let session = world.session(&[&format!("web.example:{port}")], &[&web.address.to_string()]);
    let request = format!(
        "GET http://web.example:{port}/a?b=c HTTP/1.1\r\nHost: web.example:{port}\r\nProxy-Authorization: Basic x\r\n\
         Proxy-Connection: keep-alive\r\nConnection: keep-alive, X-Hop\r\nX-Hop: 1\r\nKeep-Alive: 5\r\nTE: trailers\r\n\
         Upgrade: h2c\r\nHTTP2-Settings: AAA\r\nX-End: 2\r\n\r\n"
    );
    let mut stream = dial(&session);
    // Twice on one connection, and once by address.
    for _ in 0..2 {
        stream.write_all(request.as_bytes()).await.unwrap();
        let head = head(&mut stream).await;
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        let mut body = [0; 5];
        stream.read_exact(&mut body).await.unwrap();
        assert_eq!(&body, b"hello");
    }
    drop(stream);
    let by_address = format!("GET http://127.0.0.2:{port}/ HTTP/1.0\r\n\r\n");
    assert!(
        say(dial(&session), by_address.as_bytes())
            .await
            .ends_with("hello")
    );
    let seen = web.seen();
    assert_eq!(seen.len(), 3);
    assert_eq!(
        seen[0],
        format!("GET /a?b=c {{\"host\": \"web.example:{port}\", \"x-end\": \"2\"}}")
    );
    world.no_denial();
}

#[tokio::test(flavor = "multi_thread")]
async fn large_bodies_of_plain_requests_in_both_directions() {
    let world = World::new().await;
    let web = Web::new(false).await;
    world.name("web.example", &["127.0.0.2"]);
    let port = web.port();
    let session = world.session(&[&format!("web.example:{port}")], &[]);
    let body = much();
    let (mut read, mut write) = tokio::io::split(dial(&session));
    let head_of = format!(
        "POST http://web.example:{port}/echo HTTP/1.1\r\nHost: web.example:{port}\r\nContent-Length: {}\r\n\
         Expect: 100-continue\r\nConnection: close\r\n\r\n",
        body.len()
    );
    write.write_all(head_of.as_bytes()).await.unwrap();
    assert!(head(&mut read).await.starts_with("HTTP/1.1 100"));
    let sending = async { write.write_all(&body).await.unwrap() };
    let receiving = async {
        let head = head(&mut read).await;
        assert!(
            head.contains(&format!("content-length: {}", body.len())),
            "{head}"
        );
        let mut got = Vec::new();
        read.read_to_end(&mut got).await.unwrap();
        assert!(got == body, "{} of {}", got.len(), body.len());
    };
    timeout(support::PATIENCE, async { tokio::join!(sending, receiving) })
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn both_length_and_chunks_leave_with_one_framing() {
    let world = World::new().await;
    let web = Web::new(false).await;
    world.name("web.example", &["127.0.0.2"]);
    let port = web.port();
    let session = world.session(&[&format!("web.example:{port}")], &[]);
    for framing in [
        "Content-Length: 6\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 6",
    ] {
        let request = format!(
            "POST http://web.example:{port}/count HTTP/1.1\r\nHost: web.example:{port}\r\n{framing}\r\n\r\n\
             3\r\nabc\r\n0\r\n\r\n"
        );
        assert!(say(dial(&session), request.as_bytes()).await.ends_with("Ok(3)"));
        let seen = web.seen().pop().unwrap();
        assert!(
            seen.contains("\"transfer-encoding\": \"chunked\"") && !seen.contains("content-length"),
            "{seen}"
        );
    }
    assert_eq!(web.seen().len(), 2, "no request was hidden in a body");
}

#[tokio::test(flavor = "multi_thread")]
async fn redirected_requests_by_their_host() {
    let mut world = World::new().await;
    let web = Web::new(false).await;
    world.name("web.example", &["127.0.0.2"]);
    let port = web.port();
    let session = world.session(&[&format!("web.example:{port}")], &[]);
    let elsewhere = format!("203.0.113.9:{port}").parse().unwrap();
    for host in ["web.example".to_owned(), format!("web.example:{port}")] {
        let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n");
        let answer = say(dial_redirected(&session, elsewhere), request.as_bytes()).await;
        assert!(answer.ends_with("hello"), "{answer}");
    }
    world.no_denial();
}

#[tokio::test(flavor = "multi_thread")]
async fn redirects_are_passed_on_and_not_followed() {
    let mut world = World::new().await;
    let web = Web::new(false).await;
    world.name("web.example", &["127.0.0.2"]);
    let port = web.port();
    let session = world.session(&[&format!("web.example:{port}")], &[]);
    let request =
        format!("GET http://web.example:{port}/redirect HTTP/1.1\r\nHost: web.example:{port}\r\n\r\n");
    let answer = say(dial(&session), request.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 302"), "{answer}");
    assert!(
        answer.contains("location: http://other.example/") && !answer.contains("x-secret"),
        "{answer}"
    );
    assert!(!world.asked().iter().any(|asked| asked.contains("other")));
    world.no_denial();
}

#[tokio::test(flavor = "multi_thread")]
async fn web_sockets_over_plain_http() {
    let world = World::new().await;
    let web = Web::new(false).await;
    world.name("web.example", &["127.0.0.2"]);
    let port = web.port();
    let session = world.session(&[&format!("web.example:{port}")], &[]);
    let mut stream = dial(&session);
    let request = format!(
        "GET http://web.example:{port}/socket HTTP/1.1\r\nHost: web.example:{port}\r\nConnection: Upgrade\r\n\
         Upgrade: websocket\r\nSec-WebSocket-Key: x\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let head = head(&mut stream).await;
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    exchange(stream).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn socks_to_names_and_addresses() {
    let mut world = World::new().await;
    let plain = backwards().await;
    let tls = backwards_tls().await;
    let web = Web::new(false).await;
    world.name("web.example", &["127.0.0.2"]);
    let session = world.session(
        &[
            &format!("web.example:{}", tls.port()),
            &format!("web.example:{}", web.port()),
        ],
        &[&plain.to_string()],
    );
    let ask = |host: Vec<u8>, port: u16| {
        let session = session.clone();
        async move {
            let mut stream = dial(&session);
            stream.write_all(&[5, 2, 2, 0]).await.unwrap();
            let mut chosen = [0; 2];
            stream.read_exact(&mut chosen).await.unwrap();
            assert_eq!(chosen, [5, 0]);
            let request = [vec![5, 1, 0], host, port.to_be_bytes().to_vec()].concat();
            stream.write_all(&request).await.unwrap();
            let mut reply = [0; 10];
            stream.read_exact(&mut reply).await.unwrap();
            assert_eq!(reply[..2], [5, 0]);
            stream
        }
    };
    let name = [vec![3, 11], b"web.example".to_vec()].concat();
    exchange(ask(vec![1, 127, 0, 0, 2], plain.port()).await).await;
    let stream = ask(name.clone(), tls.port()).await;
    exchange(tls_client(stream, "web.example").await.unwrap()).await;
    let stream = ask(name, web.port()).await;
    let answer = say(stream, b"GET / HTTP/1.1\r\nHost: web.example\r\n\r\n").await;
    assert!(answer.ends_with("hello"), "{answer}");
    world.no_denial();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_with_good_and_bad_addresses_leads_to_the_good_ones() {
    let mut world = World::new().await;
    let web = Web::new(false).await;
    world.name("web.example", &["169.254.169.254", "127.0.0.2", "::1"]);
    let port = web.port();
    let session = world.session(&[&format!("web.example:{port}")], &[]);
    let request = format!("GET http://web.example:{port}/ HTTP/1.1\r\nHost: web.example:{port}\r\n\r\n");
    assert!(say(dial(&session), request.as_bytes()).await.ends_with("hello"));
    world.denial(ostler_egress::DenialKind::Rebinding).await;
    world.denial(ostler_egress::DenialKind::Rebinding).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listed_address_may_have_a_name() {
    let mut world = World::with(|options| options.public.clear()).await;
    let web = Web::new(false).await;
    world.name("web.example", &["127.0.0.2"]);
    let port = web.port();
    let session = world.session(&[&format!("web.example:{port}")], &[&web.address.to_string()]);
    let request = format!("GET http://web.example:{port}/ HTTP/1.1\r\nHost: web.example:{port}\r\n\r\n");
    assert!(say(dial(&session), request.as_bytes()).await.ends_with("hello"));
    world.no_denial();
}

/// A server that answers a request with a body without end, and how many of its connections are open.
async fn endless() -> (std::net::SocketAddr, std::sync::Arc<()>) {
    let listener = tokio::net::TcpListener::bind(support::SERVER).await.unwrap();
    let address = listener.local_addr().unwrap();
    let open = std::sync::Arc::new(());
    let all = std::sync::Arc::clone(&open);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let one = std::sync::Arc::clone(&all);
            tokio::spawn(async move {
                let _ = stream.read(&mut [0; 4096]).await;
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
                while stream.write_all(b"x").await.is_ok() {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                drop(one);
            });
        }
    });
    (address, open)
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_ends_with_the_sandbox() {
    let world = World::new().await;
    let (server, open) = endless().await;
    world.name("web.example", &["127.0.0.2"]);
    let own = format!("web.example:{}", server.port());
    let session = world.session(&[&own], &[&server.to_string()]);
    let mut streams = vec![dial(&session), dial_redirected(&session, server)];
    streams.push(tunnel(&session, &server.to_string()).await);
    streams.push(tunnel(&session, &own).await);
    streams.push(dial(&session));
    let request = format!("GET http://{own}/ HTTP/1.1\r\nHost: {own}\r\n\r\n");
    let last = streams.last_mut().unwrap();
    last.write_all(request.as_bytes()).await.unwrap();
    assert!(head(last).await.starts_with("HTTP/1.1 200"));
    // The listener's and those of three tunnels and a request.
    assert!(std::sync::Arc::strong_count(&open) >= 5);
    world.ended.cancel();
    for stream in &mut streams {
        rest(stream).await;
    }
    timeout(support::PATIENCE, async {
        while std::sync::Arc::strong_count(&open) > 2 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .expect("connections to the outside stayed open");
    assert_eq!(rest(&mut dial(&session)).await, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_silent_ends() {
    let world = World::with(|options| options.idle = Duration::from_millis(300)).await;
    let server = backwards().await;
    let session = world.session(&[], &[&server.to_string()]);
    let mut stream = tunnel(&session, &server.to_string()).await;
    for _ in 0..4 {
        tokio::time::sleep(Duration::from_millis(150)).await;
        stream.write_all(b"x").await.unwrap();
    }
    assert_eq!(rest(&mut stream).await, "");
}
