//! Failures to order, and what simulated programs can do.

#![allow(clippy::unwrap_used, reason = "tests")]

use hyper_util::rt::TokioIo;
use ostler_domain::{DriverKind, SandboxId, SandboxTemplate};
use ostler_driver_sim::{Invocation, Often, Program, SimControl, SimDriver};
use ostler_guest_protocol::v1::exec_event::Event;
use ostler_guest_protocol::v1::guest_client::GuestClient;
use ostler_guest_protocol::v1::{
    AcceptRequest, AttachRequest, ExecEvent, HealthRequest, KillRequest, StartRequest, TunnelFrame,
};
use ostler_sandbox::{Driver, DriverStatus, SandboxSpec};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;
use tonic::transport::{Channel, Endpoint};

async fn started(driver: &SimDriver) -> SandboxId {
    let id = SandboxId::new();
    let template = SandboxTemplate::new(DriverKind::Sim);
    driver.start(&SandboxSpec::new(id, template)).await.unwrap();
    id
}

async fn guest(driver: &SimDriver, id: SandboxId) -> GuestClient<Channel> {
    let mut stream = Some(TokioIo::new(driver.connect(id).await.unwrap()));
    let connector = tower::service_fn(move |_| {
        let stream = stream.take();
        async move { stream.ok_or_else(|| std::io::Error::other("used")) }
    });
    let endpoint = Endpoint::from_static("http://guest");
    GuestClient::new(endpoint.connect_with_connector(connector).await.unwrap())
}

async fn run(guest: &mut GuestClient<Channel>, exec_id: &str, argv: &[&str], keep_bytes: u64) {
    let request = StartRequest {
        exec_id: exec_id.into(),
        argv: argv.iter().map(|&a| a.to_owned()).collect(),
        keep_bytes,
        ..StartRequest::default()
    };
    guest.start(request).await.unwrap();
}

async fn events(guest: &mut GuestClient<Channel>, exec_id: &str) -> Vec<ExecEvent> {
    let request = AttachRequest {
        exec_id: exec_id.into(),
        from_seq: 1,
    };
    let mut stream = guest.attach(request).await.unwrap().into_inner();
    let mut all = Vec::new();
    while let Some(event) = stream.message().await.unwrap() {
        all.push(event);
    }
    all
}

#[tokio::test]
async fn starts_fail_as_often_as_ordered_and_take_as_long() {
    let control = SimControl::new();
    let driver = SimDriver::new(control.clone());
    control.fail_starts(Often::Times(2));
    for _ in 0..2 {
        let id = SandboxId::new();
        let template = SandboxTemplate::new(DriverKind::Sim);
        assert!(driver.start(&SandboxSpec::new(id, template)).await.is_err());
    }
    control.delay_starts(Duration::from_millis(50));
    let before = Instant::now();
    let id = started(&driver).await;
    assert!(before.elapsed() >= Duration::from_millis(50));
    assert_eq!((control.ids(), control.starts()), (vec![id], 3));
}

#[tokio::test]
async fn crashes_ill_health_and_refused_connections_happen_as_ordered() {
    let control = SimControl::new();
    let driver = SimDriver::new(control.clone());
    let mut told = driver.events();
    control.crash_after(Often::Times(1), Duration::from_millis(20));
    let crashing = started(&driver).await;
    let fine = started(&driver).await;
    let event = told.recv().await.unwrap();
    assert_eq!((event.id, event.exit.code), (crashing, Some(70)));
    assert!(matches!(
        driver.status(crashing).await,
        Ok(DriverStatus::Exited(_))
    ));
    assert!(matches!(driver.status(fine).await, Ok(DriverStatus::Running)));

    let mut client = guest(&driver, fine).await;
    client.health(HealthRequest {}).await.unwrap();
    control.unhealthy(true);
    let ill = client.health(HealthRequest {}).await.unwrap_err();
    assert_eq!(ill.code(), tonic::Code::Unavailable);
    control.refuse_connections(true);
    assert!(driver.connect(fine).await.is_err());
}

#[tokio::test]
async fn a_program_deaf_to_term_is_killed_after_the_grace() {
    let driver = SimDriver::new(SimControl::new());
    let id = started(&driver).await;
    let mut client = guest(&driver, id).await;
    for (program, signal) in [("sleep", 15), ("stubborn", 9)] {
        run(&mut client, program, &[program, "1000"], 0).await;
        let request = KillRequest {
            exec_id: program.into(),
            signal: 0,
            grace_ms: 30,
        };
        assert!(client.kill(request).await.unwrap().into_inner().signalled);
        let Some(Event::Exited(exited)) = events(&mut client, program).await.pop().unwrap().event else {
            panic!("no end");
        };
        assert_eq!(exited.signal, signal, "{program}");
    }
}

#[tokio::test]
async fn output_beyond_what_is_kept_is_told_as_dropped() {
    let control = SimControl::new();
    let writes = |mut invocation: Invocation| async move {
        for _ in 0..10 {
            invocation.stdout(vec![b'x'; 100]).await;
        }
        0
    };
    control.program("write", Program::new(writes));
    let driver = SimDriver::new(control);
    let id = started(&driver).await;
    let mut client = guest(&driver, id).await;
    run(&mut client, "w", &["write"], 250).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    let all = events(&mut client, "w").await;
    let numbers: Vec<u64> = all.iter().map(|e| e.seq).collect();
    assert_eq!(numbers, [8, 9, 10, 11]);
    assert_eq!(all[0].event, Some(Event::Dropped(8)));
}

#[tokio::test]
async fn programs_reach_the_server_through_the_guest() {
    let control = SimControl::new();
    let asks = |mut invocation: Invocation| async move {
        let mut stream = invocation.connect("gateway").await;
        stream.write_all(b"ping").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        invocation.stdout(answer).await;
        0
    };
    control.program("ask", Program::new(asks));
    let driver = SimDriver::new(control);
    let id = started(&driver).await;
    let mut client = guest(&driver, id).await;
    let mut incoming = client.accept(AcceptRequest {}).await.unwrap().into_inner();
    run(&mut client, "a", &["ask"], 0).await;
    let connection = incoming.message().await.unwrap().unwrap();
    assert_eq!(connection.listener, "gateway");

    let (send, receive) = tokio::sync::mpsc::channel(4);
    let frame = |data: &'static [u8], end| TunnelFrame {
        connection_id: connection.connection_id,
        data: data.into(),
        end,
    };
    send.send(frame(b"", false)).await.unwrap();
    let frames = futures::stream::unfold(receive, |mut r| async { Some((r.recv().await?, r)) });
    let mut replies = client.tunnel(frames).await.unwrap().into_inner();
    let asked = replies.message().await.unwrap().unwrap();
    assert_eq!(&asked.data[..], b"ping");
    assert!(replies.message().await.unwrap().unwrap().end);
    send.send(frame(b"pong", true)).await.unwrap();
    let all = events(&mut client, "a").await;
    assert_eq!(all[0].event, Some(Event::Stdout(b"pong".as_slice().into())));
}
