//! Whether a guest answers, asked with as little as possible.
//!
//! Thousands of sandboxes are asked every few seconds, and each one before it is handed out. A client of gRPC makes tasks,
//! buffers and tables for a connection that lives for one question. The question is always the same, so here it is a
//! constant that is written at once, and of the answer nothing more is read than whether there is one: a message. Anything
//! else is asked again by the real client, which knows how to say what is wrong.

use crate::guest::{Guest, GuestError};
use ostler_domain::SandboxId;
use ostler_sandbox::{ByteStream, Driver};
use std::sync::{Arc, LazyLock};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

/// For an answer that a healthy guest gives at once.
const CALL: Duration = Duration::from_secs(10);
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(50);

/// The method that is called.
const PATH: &str = "/ostler.guest.v1.Guest/Health";

/// Frames of HTTP/2 (RFC 9113): their types and flags, as far as they are used.
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
/// Length, type, flags, stream.
const FRAME_HEAD: usize = 9;
/// The stream of the question.
const STREAM: u32 = 1;
/// Frames are no longer than this unless their receiver allows it.
const LONGEST_FRAME: usize = 16 << 10;
/// Frames that are read at most: some of the connection's own come first.
const MOST_FRAMES: usize = 16;
/// Before the message of gRPC: whether it is compressed, and its length.
const MESSAGE_HEAD: usize = 5;

/// Preface, settings, headers and an empty message.
static QUESTION: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    frame(&mut bytes, SETTINGS, 0, 0, &[]);
    // HPACK (RFC 7541): `POST` and `http` are in its table; the rest is written out and not to be remembered.
    let mut headers = vec![0x83, 0x86];
    let mut text = |name: &[u8], value: &str| {
        headers.extend(name);
        headers.push(value.len() as u8);
        headers.extend(value.as_bytes());
    };
    text(&[0x04], PATH);
    text(&[0x01], "guest");
    text(&[0x0f, 0x10], "application/grpc");
    text(b"\x00\x02te", "trailers");
    frame(&mut bytes, HEADERS, END_HEADERS, STREAM, &headers);
    frame(&mut bytes, DATA, END_STREAM, STREAM, &[0; MESSAGE_HEAD]);
    bytes
});

fn frame(bytes: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    bytes.extend(&(payload.len() as u32).to_be_bytes()[1..]);
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
}

/// Fails when the guest does not answer in time.
pub(crate) async fn check(
    driver: &Arc<dyn Driver>,
    id: SandboxId,
    limit: Duration,
) -> Result<(), GuestError> {
    let end = Instant::now() + limit;
    match tokio::time::timeout(limit, answers(driver, id)).await {
        Ok(true) => Ok(()),
        Ok(false) => {
            let left = end.saturating_duration_since(Instant::now());
            Guest::new(Arc::clone(driver), id).check(left).await
        }
        Err(_) => Err(GuestError::Unreachable(format!("no answer within {limit:?}"))),
    }
}

/// Whether it answers at all.
pub(crate) async fn healthy(driver: &Arc<dyn Driver>, id: SandboxId) -> bool {
    check(driver, id, CALL).await.is_ok()
}

/// Waits until the guest answers.
pub(crate) async fn ready(
    driver: &Arc<dyn Driver>,
    id: SandboxId,
    limit: Duration,
) -> Result<(), GuestError> {
    let end = Instant::now() + limit;
    let mut pause = FIRST_PAUSE;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        match check(driver, id, left.min(CALL)).await {
            Ok(()) => return Ok(()),
            Err(error) if left.is_zero() => return Err(error),
            Err(_) => tokio::time::sleep(pause.min(left)).await,
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Whether a guest gives the answer of one that is well. Whoever calls sets a limit.
async fn answers(driver: &Arc<dyn Driver>, id: SandboxId) -> bool {
    match driver.connect(id).await {
        Ok(stream) => answered(stream).await.unwrap_or(false),
        Err(_) => false,
    }
}

async fn answered(mut stream: Box<dyn ByteStream>) -> std::io::Result<bool> {
    stream.write_all(&QUESTION).await?;
    stream.flush().await?;
    let mut read = Vec::with_capacity(512);
    for _ in 0..MOST_FRAMES {
        fill(&mut stream, &mut read, FRAME_HEAD).await?;
        let length = u32::from_be_bytes([0, read[0], read[1], read[2]]) as usize;
        let (kind, flags) = (read[3], read[4]);
        let ours = u32::from_be_bytes([read[5], read[6], read[7], read[8]]) & (u32::MAX >> 1) == STREAM;
        if length > LONGEST_FRAME {
            return Ok(false);
        }
        fill(&mut stream, &mut read, FRAME_HEAD + length).await?;
        match kind {
            // A message comes only from a method that has succeeded.
            DATA if ours && length >= MESSAGE_HEAD => return Ok(true),
            DATA | HEADERS if ours && flags & END_STREAM != 0 => return Ok(false),
            RST_STREAM | GOAWAY => return Ok(false),
            _ => {}
        }
        read.drain(..FRAME_HEAD + length);
    }
    Ok(false)
}

/// Reads until there are at least `wanted` bytes.
async fn fill(stream: &mut Box<dyn ByteStream>, read: &mut Vec<u8>, wanted: usize) -> std::io::Result<()> {
    while read.len() < wanted {
        if stream.read_buf(read).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use ostler_domain::{DriverKind, SandboxTemplate};
    use ostler_driver_sim::{SimControl, SimDriver};
    use ostler_sandbox::SandboxSpec;

    async fn sandbox() -> (SimControl, Arc<dyn Driver>, SandboxId) {
        let world = SimControl::new();
        let driver: Arc<dyn Driver> = Arc::new(SimDriver::new(world.clone()));
        let id = SandboxId::new();
        let spec = SandboxSpec::new(id, SandboxTemplate::new(DriverKind::Sim));
        driver.start(&spec).await.unwrap();
        (world, driver, id)
    }

    const LIMIT: Duration = Duration::from_millis(300);

    #[tokio::test]
    async fn one_that_is_well_answers_the_short_question() {
        let (_world, driver, id) = sandbox().await;
        assert!(answers(&driver, id).await);
        check(&driver, id, LIMIT).await.unwrap();
    }

    #[tokio::test]
    async fn what_is_wrong_is_said_in_the_words_of_the_guest() {
        let (world, driver, id) = sandbox().await;
        world.unhealthy(true);
        assert!(!answers(&driver, id).await);
        let error = check(&driver, id, LIMIT).await.unwrap_err().to_string();
        assert!(error.contains("ordered to be unhealthy"), "{error}");
        world.refuse_connections(true);
        let error = check(&driver, id, LIMIT).await.unwrap_err().to_string();
        assert!(error.contains("does not answer"), "{error}");
        assert!(!answers(&driver, SandboxId::new()).await);
    }

    #[tokio::test]
    async fn one_that_is_frozen_has_its_time() {
        let (_world, driver, id) = sandbox().await;
        driver.pause(id).await.unwrap();
        let error = check(&driver, id, LIMIT).await.unwrap_err().to_string();
        assert!(error.contains("no answer within"), "{error}");
        assert!(ready(&driver, id, Duration::from_millis(50)).await.is_err());
        driver.resume(id).await.unwrap();
        ready(&driver, id, LIMIT).await.unwrap();
    }

    /// What is no answer: frames that are too long, too many, cut off or of the wrong kind.
    #[tokio::test]
    async fn nonsense_is_no_answer() {
        let mut endless = Vec::new();
        for _ in 0..MOST_FRAMES {
            frame(&mut endless, SETTINGS, 0, 0, &[]);
        }
        let mut refused = Vec::new();
        frame(&mut refused, HEADERS, END_STREAM | END_HEADERS, STREAM, &[0x88]);
        let mut empty = Vec::new();
        frame(&mut empty, DATA, END_STREAM, STREAM, &[]);
        for said in [
            endless,
            refused,
            empty,
            vec![0xff; 64],
            b"HTTP/1.1 200 OK\r\n\r\n".to_vec(),
            vec![0; 3],
        ] {
            let (ours, mut theirs) = tokio::io::duplex(4096);
            theirs.write_all(&said).await.unwrap();
            theirs.shutdown().await.unwrap();
            let answer = answered(Box::new(ours)).await;
            assert!(!answer.is_ok_and(|yes| yes), "{said:?}");
        }
    }
}
