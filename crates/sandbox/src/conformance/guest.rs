//! A small client of the guest protocol: the suite checks drivers and must not depend on what is built above them.

use super::LIMIT;
use crate::Driver;
use hyper_util::rt::TokioIo;
use ostler_domain::SandboxId;
use ostler_guest_protocol::v1::exec_event::Event;
use ostler_guest_protocol::v1::guest_client::GuestClient;
use ostler_guest_protocol::v1::{
    AttachRequest, CollectRequest, CollectSummary, ConfigureReply, ConfigureRequest, Exited, HealthReply,
    HealthRequest, KillRequest, StartRequest, WriteStdinRequest,
};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tonic::transport::{Channel, Endpoint};

/// A connection to a guest.
pub struct Guest {
    client: GuestClient<Channel>,
}

/// How a program ended and what it wrote.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Outcome {
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// The end.
    pub exited: Exited,
}

/// Connects once.
async fn connect(driver: &dyn Driver, id: SandboxId) -> Result<GuestClient<Channel>, String> {
    let stream = driver.connect(id).await.map_err(|e| e.to_string())?;
    let mut stream = Some(TokioIo::new(stream));
    let connector = tower::service_fn(move |_uri| {
        let stream = stream.take();
        async move { stream.ok_or_else(|| std::io::Error::other("a stream serves one connection")) }
    });
    let channel = Endpoint::from_static("http://guest")
        .connect_with_connector(connector)
        .await
        .map_err(|e| format!("{e:?}"))?;
    Ok(GuestClient::new(channel))
}

impl Guest {
    /// Connects, again and again, until the guest answers that it is healthy.
    pub async fn ready(driver: &dyn Driver, id: SandboxId) -> Self {
        let end = Instant::now() + LIMIT;
        loop {
            let error = match connect(driver, id).await {
                Ok(client) => {
                    let mut guest = Self { client };
                    match guest.health(Duration::from_secs(5)).await {
                        Ok(_) => return guest,
                        Err(e) => e,
                    }
                }
                Err(e) => e,
            };
            assert!(Instant::now() < end, "the guest of {id} does not answer: {error}");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Asks for health.
    pub async fn health(&mut self, limit: Duration) -> Result<HealthReply, String> {
        tokio::time::timeout(limit, self.client.health(HealthRequest {}))
            .await
            .map_err(|_| "no answer".to_owned())?
            .map(tonic::Response::into_inner)
            .map_err(|e| e.to_string())
    }

    /// What the guest tells of its sandbox.
    pub async fn configure(&mut self) -> ConfigureReply {
        match tokio::time::timeout(LIMIT, self.client.configure(ConfigureRequest::default())).await {
            Ok(Ok(reply)) => reply.into_inner(),
            other => panic!("configuring: {other:?}"),
        }
    }

    /// The files that match, as an archive.
    pub async fn collect(&mut self, request: CollectRequest) -> (Vec<u8>, CollectSummary) {
        let work = async {
            let mut frames = self.client.collect(request).await?.into_inner();
            let mut archive = Vec::new();
            while let Some(frame) = frames.message().await? {
                archive.extend_from_slice(&frame.data);
                if let Some(summary) = frame.summary {
                    return Ok((archive, summary));
                }
            }
            Err(tonic::Status::aborted("it broke off"))
        };
        match tokio::time::timeout(LIMIT, work).await {
            Ok(Ok(collected)) => collected,
            other => panic!("collecting: {other:?}"),
        }
    }

    /// Ends all that a program started.
    pub async fn kill(&mut self, exec_id: &str, grace: Duration) -> bool {
        let request = KillRequest {
            exec_id: exec_id.to_owned(),
            signal: 0,
            grace_ms: grace.as_millis() as u64,
        };
        match tokio::time::timeout(LIMIT, self.client.kill(request)).await {
            Ok(Ok(reply)) => reply.into_inner().signalled,
            other => panic!("killing: {other:?}"),
        }
    }

    /// Starts a program and returns the id of this execution.
    pub async fn start(&mut self, mut request: StartRequest) -> String {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        request.exec_id = format!("case-{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let exec_id = request.exec_id.clone();
        let started = tokio::time::timeout(LIMIT, self.client.start(request)).await;
        assert!(matches!(started, Ok(Ok(_))), "starting a program: {started:?}");
        exec_id
    }

    /// Reads events from a sequence number on, until `enough` says so or the program has ended. Returns the next
    /// sequence number and panics on a gap.
    pub async fn read(
        &mut self,
        exec_id: &str,
        from_seq: u64,
        outcome: &mut Outcome,
        mut enough: impl FnMut(&Outcome) -> bool,
    ) -> (u64, bool) {
        let request = AttachRequest {
            exec_id: exec_id.to_owned(),
            from_seq,
        };
        let work = async {
            let mut events = match self.client.attach(request).await {
                Ok(events) => events.into_inner(),
                Err(e) => panic!("attaching: {e}"),
            };
            let mut next = from_seq;
            loop {
                let event = match events.message().await {
                    Ok(Some(event)) => event,
                    Ok(None) => panic!("the events ended before the program did"),
                    Err(e) => panic!("reading events: {e}"),
                };
                assert_eq!(event.seq, next, "a gap in the events");
                next += 1;
                match event.event {
                    Some(Event::Stdout(data)) => outcome.stdout += &String::from_utf8_lossy(&data),
                    Some(Event::Stderr(data)) => outcome.stderr += &String::from_utf8_lossy(&data),
                    Some(Event::Exited(exited)) => {
                        outcome.exited = exited;
                        return (next, true);
                    }
                    other => panic!("unexpected event {other:?}"),
                }
                if enough(outcome) {
                    return (next, false);
                }
            }
        };
        let Ok(result) = tokio::time::timeout(LIMIT, work).await else {
            panic!("the program did not end in time");
        };
        result
    }

    /// Runs a program to its end.
    pub async fn run_with(&mut self, request: StartRequest) -> Outcome {
        let exec_id = self.start(request).await;
        let mut outcome = Outcome::default();
        self.read(&exec_id, 1, &mut outcome, |_| false).await;
        outcome
    }

    /// Runs a program to its end.
    pub async fn run(&mut self, argv: &[&str]) -> Outcome {
        self.run_with(request(argv)).await
    }

    /// Runs a shell script to its end and returns its output; panics when it fails.
    pub async fn shell(&mut self, script: &str) -> String {
        let outcome = self.run(&["sh", "-c", script]).await;
        assert!(
            outcome.exited.code == 0 && outcome.exited.signal == 0,
            "`{script}`: {outcome:?}"
        );
        outcome.stdout
    }

    /// Writes to standard input and closes it.
    pub async fn write_and_close(&mut self, exec_id: &str, data: &'static [u8]) {
        let request = WriteStdinRequest {
            exec_id: exec_id.to_owned(),
            data: data.into(),
            close: true,
        };
        if let Err(e) = self.client.write_stdin(request).await {
            panic!("writing to a program: {e}");
        }
    }
}

/// A request for a program with nothing special.
pub(crate) fn request(argv: &[&str]) -> StartRequest {
    StartRequest {
        argv: argv.iter().map(|&a| a.to_owned()).collect(),
        ..StartRequest::default()
    }
}
