//! The name server of sandboxes: directly, over sockets, and what of it reaches the outside.

#![allow(clippy::unwrap_used, reason = "test code")]

mod support;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, RecordType};
use ostler_egress::{DenialKind, Session, Transport, serve_dns_tcp, serve_dns_udp};
use std::net::IpAddr;
use std::time::Duration;
use support::World;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

fn question(name: &str, kind: RecordType) -> Message {
    let mut message = Message::new(77, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

async fn send(session: &Session, message: &Message) -> Message {
    let bytes = message.to_vec().unwrap();
    let answer = session.answer(&bytes, Transport::Udp).await.unwrap();
    let answer = Message::from_vec(&answer).unwrap();
    assert_eq!(answer.metadata.id, message.metadata.id);
    assert_eq!(answer.metadata.message_type, MessageType::Response);
    answer
}

async fn ask(session: &Session, name: &str, kind: RecordType) -> (ResponseCode, Vec<IpAddr>) {
    let answer = send(session, &question(name, kind)).await;
    for record in &answer.answers {
        assert!(
            record.ttl <= 60,
            "the outside says 3600, and 60 is the most: {}",
            record.ttl
        );
    }
    let addresses = answer.answers.iter().filter_map(|r| r.data.ip_addr()).collect();
    (answer.metadata.response_code, addresses)
}

#[tokio::test(flavor = "multi_thread")]
async fn allowed_names_have_addresses() {
    let mut world = World::new().await;
    world.name("web.example", &["127.0.0.2", "2606:4700::1111"]);
    world.name("a.wild.example", &["9.9.9.9"]);
    let session = world.session(&["web.example:8443", "*.wild.example"], &[]);
    let ok = |addresses: &[&str]| {
        let addresses = addresses
            .iter()
            .map(|a| a.parse().unwrap())
            .collect::<Vec<IpAddr>>();
        (ResponseCode::NoError, addresses)
    };
    assert_eq!(
        ask(&session, "web.example.", RecordType::A).await,
        ok(&["127.0.0.2"])
    );
    assert_eq!(
        ask(&session, "WEB.Example.", RecordType::AAAA).await,
        ok(&["2606:4700::1111"])
    );
    assert_eq!(
        ask(&session, "a.wild.example.", RecordType::A).await,
        ok(&["9.9.9.9"])
    );
    assert_eq!(ask(&session, "a.wild.example.", RecordType::AAAA).await, ok(&[]));
    // Keys for Encrypted ClientHello would come in these; nobody is asked for them.
    assert_eq!(ask(&session, "web.example.", RecordType::HTTPS).await, ok(&[]));
    assert_eq!(ask(&session, "web.example.", RecordType::SVCB).await, ok(&[]));
    assert_eq!(
        ask(&session, "none.wild.example.", RecordType::A).await,
        (ResponseCode::NXDomain, vec![])
    );
    assert!(
        world
            .asked()
            .iter()
            .all(|asked| asked.ends_with(" A") || asked.ends_with(" AAAA"))
    );
    assert!(
        world.asked().iter().any(|asked| asked == "web.example AAAA"),
        "in lower case"
    );
    world.no_denial();
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_else_is_answered_or_asked() {
    let mut world = World::new().await;
    let session = world.session(&["web.example", "*.wild.example"], &[]);
    for name in [
        "other.example.",
        "c2VjcmV0.evil.example.",
        "wild.example.",
        "xweb.example.",
        "web.example.evil.example.",
        "localhost.",
        ".",
    ] {
        for kind in [RecordType::A, RecordType::AAAA, RecordType::HTTPS] {
            let (code, addresses) = ask(&session, name, kind).await;
            assert_eq!((code, addresses.len()), (ResponseCode::NXDomain, 0), "{name}");
            world.denial(DenialKind::Dns).await;
        }
    }
    for kind in [
        RecordType::TXT,
        RecordType::NULL,
        RecordType::ANY,
        RecordType::AXFR,
        RecordType::IXFR,
        RecordType::MX,
        RecordType::CNAME,
        RecordType::NS,
        RecordType::SOA,
        RecordType::SRV,
        RecordType::PTR,
        RecordType::Unknown(65280),
    ] {
        for name in ["web.example.", "secret.wild.example.", "other.example."] {
            assert_eq!(
                ask(&session, name, kind).await.0,
                ResponseCode::Refused,
                "{kind} {name}"
            );
            let denial = world.denial(DenialKind::Dns).await;
            assert_eq!(denial.target, format!("{name} {kind}"));
        }
    }
    assert!(world.asked().is_empty(), "{:?}", world.asked());
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_messages() {
    let mut world = World::new().await;
    world.name("web.example", &["127.0.0.2"]);
    let session = world.session(&["web.example"], &[]);
    let mut chaos = question("web.example.", RecordType::A);
    chaos.queries[0].set_query_class(DNSClass::CH);
    assert_eq!(
        send(&session, &chaos).await.metadata.response_code,
        ResponseCode::Refused
    );
    world.denial(DenialKind::Dns).await;

    let mut two = question("web.example.", RecordType::A);
    two.add_query(Query::query(
        Name::from_ascii("other.example.").unwrap(),
        RecordType::A,
    ));
    assert_eq!(
        send(&session, &two).await.metadata.response_code,
        ResponseCode::FormErr
    );
    world.denial(DenialKind::Dns).await;

    let mut update = question("web.example.", RecordType::A);
    update.metadata.op_code = OpCode::Update;
    assert_eq!(
        send(&session, &update).await.metadata.response_code,
        ResponseCode::Refused
    );
    world.denial(DenialKind::Dns).await;

    // A dot inside a label is no border of labels.
    let name = Name::from_labels([&b"web.example"[..]]).unwrap();
    let mut dotted = question("web.example.", RecordType::A);
    dotted.queries[0].set_name(name);
    assert_eq!(
        send(&session, &dotted).await.metadata.response_code,
        ResponseCode::NXDomain
    );
    world.denial(DenialKind::Dns).await;

    let garbage = session
        .answer(&[0, 77, 1, 0, 0, 9, 0, 0, 0, 0, 0, 0, 255], Transport::Udp)
        .await;
    assert_eq!(
        Message::from_vec(&garbage.unwrap())
            .unwrap()
            .metadata
            .response_code,
        ResponseCode::FormErr
    );
    world.denial(DenialKind::Dns).await;
    let mut response = question("web.example.", RecordType::A);
    response.metadata.message_type = MessageType::Response;
    assert_eq!(
        session.answer(&response.to_vec().unwrap(), Transport::Udp).await,
        None
    );
    assert_eq!(session.answer(&[1], Transport::Udp).await, None);
    assert!(world.asked().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn addresses_inside_are_not_told() {
    let mut world = World::new().await;
    let session = world.session(&["*.wild.example"], &["10.0.0.7:5432"]);
    for (i, address) in [
        "127.0.0.1",
        "169.254.169.254",
        "10.0.0.1",
        "::ffff:10.0.0.1",
        "fd00:ec2::254",
        "fe80::1",
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("n{i}.wild.example");
        world.name(&name, &[address]);
        let kind = if address.contains(':') {
            RecordType::AAAA
        } else {
            RecordType::A
        };
        assert_eq!(
            ask(&session, &format!("{name}."), kind).await,
            (ResponseCode::NXDomain, vec![]),
            "{address}"
        );
        world.denial(DenialKind::Rebinding).await;
    }
    world.name("database.wild.example", &["10.0.0.7"]);
    let (_, addresses) = ask(&session, "database.wild.example.", RecordType::A).await;
    assert_eq!(addresses, ["10.0.0.7".parse::<IpAddr>().unwrap()]);
    world.no_denial();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tunnel_in_names_runs_dry() {
    let mut world = World::with(|options| options.wildcard_names = 10).await;
    let session = world.session(&["*.wild.example"], &[]);
    for i in 0..40 {
        ask(&session, &format!("secret{i}.wild.example."), RecordType::A).await;
    }
    assert_eq!(world.asked().len(), 10);
    for _ in 0..30 {
        world.denial(DenialKind::Limit).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn over_sockets_for_known_peers_only() {
    let mut world = World::new().await;
    let many: Vec<String> = (1..=60).map(|i| format!("9.9.9.{i}")).collect();
    world.name(
        "web.example",
        &many.iter().map(String::as_str).collect::<Vec<_>>(),
    );
    let session = world.session(&["web.example"], &[]);
    let (udp, tcp) = support::dns_sockets().await;
    let address = udp.local_addr().unwrap();
    let known: IpAddr = "127.0.0.2".parse().unwrap();
    let who =
        |session: Session| move |peer: std::net::SocketAddr| (peer.ip() == known).then(|| session.clone());
    let loops = [
        tokio::spawn(serve_dns_udp(udp, who(session.clone()), world.ended.clone())),
        tokio::spawn(serve_dns_tcp(tcp, who(session), world.ended.clone())),
    ];

    let mut buffer = [0; 4096];
    let bytes = question("web.example.", RecordType::A).to_vec().unwrap();
    let stranger = UdpSocket::bind("127.0.0.3:0").await.unwrap();
    stranger.send_to(&bytes, address).await.unwrap();
    let client = UdpSocket::bind("127.0.0.2:0").await.unwrap();
    client.send_to(&bytes, address).await.unwrap();
    let (length, _) = timeout(support::PATIENCE, client.recv_from(&mut buffer))
        .await
        .unwrap()
        .unwrap();
    let answer = Message::from_vec(&buffer[..length]).unwrap();
    assert!(length <= 512 && answer.metadata.truncation && answer.answers.is_empty());
    let nothing = timeout(Duration::from_millis(200), stranger.recv_from(&mut buffer)).await;
    assert!(nothing.is_err(), "strangers get no answer");

    let mut larger = question("web.example.", RecordType::A);
    let mut edns = Edns::new();
    edns.set_max_payload(4096);
    larger.set_edns(edns);
    client.send_to(&larger.to_vec().unwrap(), address).await.unwrap();
    let (length, _) = timeout(support::PATIENCE, client.recv_from(&mut buffer))
        .await
        .unwrap()
        .unwrap();
    let answer = Message::from_vec(&buffer[..length]).unwrap();
    assert_eq!((answer.metadata.truncation, answer.answers.len()), (false, 60));

    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind((known, 0).into()).unwrap();
    let mut stream: TcpStream = socket.connect(address).await.unwrap();
    for _ in 0..2 {
        stream.write_u16(bytes.len() as u16).await.unwrap();
        stream.write_all(&bytes).await.unwrap();
        let length = timeout(support::PATIENCE, stream.read_u16())
            .await
            .unwrap()
            .unwrap();
        let mut answer = vec![0; usize::from(length)];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(Message::from_vec(&answer).unwrap().answers.len(), 60);
    }
    let mut stranger = TcpStream::connect(address).await.unwrap();
    assert_eq!(support::rest(&mut stranger).await, "");
    world.no_denial();

    world.ended.cancel();
    assert_eq!(support::rest(&mut stream).await, "");
    for task in loops {
        timeout(support::PATIENCE, task).await.unwrap().unwrap();
    }
}
