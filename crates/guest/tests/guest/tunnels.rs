//! Connections out of the sandbox, and the tools that use them.

use crate::world::{LIMIT, World, sh};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use ostler_guest_protocol::v1::guest_client::GuestClient;
use ostler_guest_protocol::v1::{AcceptRequest, ConfigureRequest, Incoming, StartRequest, TunnelFrame};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;
use tonic::transport::Channel;

async fn next(incoming: &mut tonic::Streaming<Incoming>) -> Incoming {
    let next = tokio::time::timeout(LIMIT, incoming.message()).await.unwrap();
    next.unwrap().unwrap()
}

/// The bytes of a connection.
async fn carry(mut client: GuestClient<Channel>, connection_id: u64) -> DuplexStream {
    let (ours, theirs) = tokio::io::duplex(1 << 16);
    let (mut from_us, mut to_us) = tokio::io::split(theirs);
    let (sender, frames) = mpsc::channel(4);
    sender
        .send(TunnelFrame {
            connection_id,
            ..TunnelFrame::default()
        })
        .await
        .unwrap();
    let mut back = client
        .tunnel(ReceiverStream::new(frames))
        .await
        .unwrap()
        .into_inner();
    tokio::spawn(async move {
        let out = async {
            let mut buffer = vec![0; 1 << 15];
            loop {
                let n = from_us.read(&mut buffer).await.unwrap_or(0);
                let frame = TunnelFrame {
                    data: Bytes::copy_from_slice(&buffer[..n]),
                    end: n == 0,
                    ..TunnelFrame::default()
                };
                if sender.send(frame).await.is_err() || n == 0 {
                    return;
                }
            }
        };
        let into = async {
            while let Ok(Some(frame)) = back.message().await {
                let _ = to_us.write_all(&frame.data).await;
                if frame.end {
                    let _ = to_us.shutdown().await;
                }
            }
        };
        // Together, and to the end of the reply, as one that is dropped cancels the call.
        tokio::join!(out, into);
    });
    ours
}

#[tokio::test]
async fn a_connection_carries_much_in_both_directions_and_ends_by_halves() {
    let mut world = World::new().await;
    let place = world
        .client
        .configure(ConfigureRequest::default())
        .await
        .unwrap()
        .into_inner();
    let address = place.gateway_url.strip_prefix("http://").unwrap().to_owned();
    let mut incoming = world.client.accept(AcceptRequest {}).await.unwrap().into_inner();
    let mut program = TcpStream::connect(address).await.unwrap();
    let announced = next(&mut incoming).await;
    assert_eq!(announced.listener, "gateway");
    let server = carry(world.client.clone(), announced.connection_id).await;
    let (mut read, mut write) = tokio::io::split(server);
    // The server answers after the program has said all of it.
    let serve = tokio::spawn(async move {
        let mut asked = Vec::new();
        read.read_to_end(&mut asked).await.unwrap();
        asked.reverse();
        write.write_all(&asked).await.unwrap();
        write.shutdown().await.unwrap();
    });
    let content: Vec<u8> = (0..5_000_000u32).map(|n| (n % 241) as u8).collect();
    program.write_all(&content).await.unwrap();
    program.shutdown().await.unwrap();
    let mut answer = Vec::new();
    tokio::time::timeout(LIMIT, program.read_to_end(&mut answer))
        .await
        .unwrap()
        .unwrap();
    serve.await.unwrap();
    answer.reverse();
    assert_eq!(answer.len(), content.len());
    assert!(answer == content);
    let again = TunnelFrame {
        connection_id: announced.connection_id,
        ..TunnelFrame::default()
    };
    let taken = world
        .client
        .tunnel(futures::stream::iter([again]))
        .await
        .unwrap_err();
    assert_eq!(taken.code(), Code::NotFound);
}

#[tokio::test]
async fn the_way_out_is_a_listener_of_its_own() {
    let mut world = World::new().await;
    let place = world
        .client
        .configure(ConfigureRequest::default())
        .await
        .unwrap()
        .into_inner();
    let address = place.egress_url.strip_prefix("http://").unwrap().to_owned();
    assert_ne!(place.egress_url, place.gateway_url);
    let mut incoming = world.client.accept(AcceptRequest {}).await.unwrap().into_inner();
    let mut program = TcpStream::connect(address).await.unwrap();
    let announced = next(&mut incoming).await;
    assert_eq!(announced.listener, "egress");
    let mut server = carry(world.client.clone(), announced.connection_id).await;
    program.write_all(b"CONNECT").await.unwrap();
    let mut asked = [0; 7];
    server.read_exact(&mut asked).await.unwrap();
    assert_eq!(&asked, b"CONNECT");
}

#[tokio::test]
async fn what_nobody_took_is_announced_to_the_next() {
    let mut world = World::new().await;
    let place = world
        .client
        .configure(ConfigureRequest::default())
        .await
        .unwrap()
        .into_inner();
    let address = place.gateway_url.strip_prefix("http://").unwrap().to_owned();
    let mut before = world.client.accept(AcceptRequest {}).await.unwrap().into_inner();
    let _program = TcpStream::connect(&address).await.unwrap();
    let told = next(&mut before).await;
    let mut after = world
        .other()
        .await
        .accept(AcceptRequest {})
        .await
        .unwrap()
        .into_inner();
    assert_eq!(next(&mut after).await, told);
    assert!(
        tokio::time::timeout(LIMIT, before.message())
            .await
            .unwrap()
            .unwrap()
            .is_none()
    );
    // The connection breaks for the program when the server goes away in the middle.
    let mut program = TcpStream::connect(&address).await.unwrap();
    let second = next(&mut after).await;
    assert!(second.connection_id > told.connection_id);
    let (sender, frames) = mpsc::channel(1);
    sender
        .send(TunnelFrame {
            connection_id: second.connection_id,
            ..TunnelFrame::default()
        })
        .await
        .unwrap();
    let back = world.client.tunnel(ReceiverStream::new(frames)).await.unwrap();
    drop((sender, back));
    let mut rest = Vec::new();
    let ended = tokio::time::timeout(LIMIT, program.read_to_end(&mut rest))
        .await
        .unwrap();
    assert!(ended.is_err() || rest.is_empty());
}

type Seen = Arc<Mutex<Vec<(String, String, serde_json::Value)>>>;

/// Answers calls of the tools: the first `away` of them by breaking the connection or with 503.
fn serve_tools(mut client: GuestClient<Channel>, away: usize, status: u16) -> Seen {
    let seen = Seen::default();
    let noted = Arc::clone(&seen);
    tokio::spawn(async move {
        let mut incoming = client.accept(AcceptRequest {}).await.unwrap().into_inner();
        while let Ok(Some(Incoming {
            connection_id,
            listener,
        })) = incoming.message().await
        {
            assert_eq!(listener, "control");
            let connection = carry(client.clone(), connection_id).await;
            let noted = Arc::clone(&noted);
            tokio::spawn(async move {
                let service = hyper::service::service_fn(|request: Request<hyper::body::Incoming>| {
                    let noted = Arc::clone(&noted);
                    async move {
                        let path = request.uri().path().to_owned();
                        let id = request.headers()["x-ostler-request-id"]
                            .to_str()
                            .unwrap()
                            .to_owned();
                        let body = request.into_body().collect().await.unwrap().to_bytes();
                        let call: serde_json::Value = serde_json::from_slice(&body).unwrap();
                        let count = {
                            let mut noted = noted.lock().unwrap();
                            noted.push((path, id, call));
                            noted.len()
                        };
                        if count == 1 && away > 0 {
                            return Err(std::io::Error::other("the server was killed"));
                        }
                        let status = if count <= away { 503 } else { status };
                        let body = if status == 200 {
                            r#"{"stdout": "out\n", "stderr": "err\n", "code": 5}"#
                        } else {
                            "there is no such issue"
                        };
                        Ok(Response::builder()
                            .status(status)
                            .body(Full::new(Bytes::from(body)))
                            .unwrap())
                    }
                });
                let http = hyper::server::conn::http1::Builder::new();
                let _ = http.serve_connection(TokioIo::new(connection), service).await;
            });
        }
    });
    seen
}

#[tokio::test]
async fn the_tools_ask_the_server_and_ask_again_until_it_is_back() {
    let mut world = World::new().await;
    let seen = serve_tools(world.other().await, 3, 200);
    let request = StartRequest {
        env: [("BD_JSON_ENVELOPE".to_owned(), "1".to_owned())].into(),
        stdin: "some text".into(),
        ..sh("1", "bd create 'a b' --body-file -; echo code $?")
    };
    world.client.start(request).await.unwrap();
    let outcome = world.end_of("1").await;
    assert_eq!(
        (outcome.stdout.as_str(), outcome.stderr.as_str()),
        ("out\ncode 5\n", "err\n")
    );
    let seen = seen.lock().unwrap();
    assert_eq!(seen.len(), 4);
    let expected = serde_json::json!({
        "argv": ["create", "a b", "--body-file", "-"], "stdin": "some text", "json_envelope": true,
    });
    for (path, id, call) in seen.iter() {
        assert_eq!((path.as_str(), id), ("/v1/tools/bd", &seen[0].1));
        assert_eq!(call, &expected);
    }
}

#[tokio::test]
async fn a_refusal_is_told_and_every_call_has_its_own_id() {
    let mut world = World::new().await;
    let seen = serve_tools(world.other().await, 0, 422);
    // Standard input that nobody closes does not hold up a call that does not ask for it.
    let request = StartRequest {
        stdin_open: true,
        ..sh("1", "bd show 1; echo $?; orchestrator show 2; echo $?")
    };
    world.client.start(request).await.unwrap();
    let outcome = world.end_of("1").await;
    assert_eq!(outcome.stdout, "1\n1\n");
    assert_eq!(
        outcome.stderr,
        "bd: there is no such issue\norchestrator: there is no such issue\n"
    );
    let seen = seen.lock().unwrap();
    assert_eq!(seen[1].0, "/v1/tools/orchestrator");
    assert_ne!(seen[0].1, seen[1].1);
}

#[tokio::test]
async fn a_call_waits_for_a_server_that_comes_later() {
    let mut world = World::new().await;
    world.start("1", "bd list; echo code $?").await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    serve_tools(world.other().await, 0, 200);
    assert_eq!(world.end_of("1").await.stdout, "out\ncode 5\n");
}
