//! `bd` and `orchestrator` as programs in the sandbox see them: each call is one request to the server.
//!
//! A call has an id of its own, so that it can be asked again when the server went away in the middle and is carried out
//! once.

use crate::CONTROL_VARIABLE;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::process::ExitCode;
use std::time::{Duration, Instant};
use tokio::net::UnixStream;

/// How long a server that went away is waited for.
const PATIENCE: Duration = Duration::from_secs(300);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// Longest wait for one answer.
const ANSWER: Duration = Duration::from_secs(60);
/// Largest answer, in bytes.
const MOST: usize = 64 * 1024 * 1024;
/// Largest standard input, in bytes.
const MOST_INPUT: u64 = 8 * 1024 * 1024;
/// `EX_TEMPFAIL` of sysexits.h: asking again later may work.
const TRY_LATER: u8 = 75;

#[derive(Serialize)]
struct Call {
    argv: Vec<String>,
    stdin: String,
    json_envelope: bool,
}

#[derive(Deserialize)]
struct Answer {
    stdout: String,
    stderr: String,
    code: u8,
}

enum Failure {
    /// It may work later.
    Away(String),
    /// It never will.
    Refused(String),
}

/// Carries out one call and prints its answer. Exits with the tool's own code; 1 if the call was refused, and 75 if the
/// server could not be reached for five minutes.
pub fn call_tool(tool: &str, arguments: &[OsString]) -> ExitCode {
    match call(tool, arguments) {
        Ok(answer) => {
            // Nobody who has closed the pipe wants to know.
            let _ = io::stdout().write_all(answer.stdout.as_bytes());
            let _ = io::stderr().write_all(answer.stderr.as_bytes());
            ExitCode::from(answer.code)
        }
        Err(Failure::Refused(why)) => {
            eprintln!("{tool}: {why}");
            ExitCode::FAILURE
        }
        Err(Failure::Away(why)) => {
            eprintln!("{tool}: Ostler cannot be reached: {why}; try again later");
            ExitCode::from(TRY_LATER)
        }
    }
}

fn call(tool: &str, arguments: &[OsString]) -> Result<Answer, Failure> {
    let refused = |what: &str, error: &dyn std::fmt::Display| Failure::Refused(format!("{what}: {error}"));
    let socket = std::env::var_os(CONTROL_VARIABLE).ok_or_else(|| {
        Failure::Refused(format!(
            "{CONTROL_VARIABLE} is not set: this works only in a sandbox"
        ))
    })?;
    let argv: Vec<String> = arguments
        .iter()
        .map(|argument| argument.clone().into_string())
        .collect::<Result<_, _>>()
        .map_err(|argument| refused("an argument is not UTF-8", &argument.display()))?;
    let stdin = if reads_input(&argv) {
        input().map_err(|error| refused("standard input cannot be read", &error))?
    } else {
        String::new()
    };
    let call = Call {
        argv,
        stdin,
        json_envelope: std::env::var("BD_JSON_ENVELOPE").is_ok_and(|value| value == "1"),
    };
    let body = serde_json::to_vec(&call).map_err(|error| refused("the call", &error))?;
    let id = request_id().map_err(|error| refused("no random number", &error))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| refused("the runtime", &error))?;
    let end = Instant::now() + PATIENCE;
    let mut pause = FIRST_PAUSE;
    loop {
        let ask = ask(&socket, tool, &id, Bytes::from(body.clone()));
        let asked = async { tokio::time::timeout(ANSWER, ask).await };
        let failure = match runtime.block_on(asked) {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(failure)) => failure,
            Err(_) => Failure::Away(format!("no answer within {} s", ANSWER.as_secs())),
        };
        if matches!(failure, Failure::Refused(_)) || Instant::now() + pause > end {
            return Err(failure);
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Standard input may be a pipe that nobody closes, so it is read only by commands that ask for it.
fn reads_input(argv: &[String]) -> bool {
    let command = argv.iter().find(|argument| !argument.starts_with('-'));
    command.is_some_and(|command| command == "batch" || command == "import")
        || argv
            .iter()
            .any(|argument| matches!(argument.as_str(), "-" | "--stdin") || argument.ends_with("=-"))
}

fn input() -> io::Result<String> {
    let mut text = String::new();
    io::stdin().take(MOST_INPUT + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MOST_INPUT {
        let limit = MOST_INPUT / (1024 * 1024);
        return Err(io::Error::other(format!("it is larger than {limit} MiB")));
    }
    Ok(text)
}

fn request_id() -> io::Result<String> {
    let mut bytes = [0; 16];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(u128::from_ne_bytes(bytes).to_string())
}

async fn ask(socket: &OsString, tool: &str, id: &str, body: Bytes) -> Result<Answer, Failure> {
    fn away(error: impl std::fmt::Display) -> Failure {
        Failure::Away(error.to_string())
    }
    let stream = UnixStream::connect(socket).await.map_err(away)?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(away)?;
    let driver = tokio::spawn(connection);
    let request = Request::post(format!("/v1/tools/{tool}"))
        .header("host", "ostler")
        .header("content-type", "application/json")
        .header("x-ostler-request-id", id)
        .body(Full::new(body))
        .map_err(away)?;
    let response = sender.send_request(request).await.map_err(away)?;
    let status = response.status();
    let body = Limited::new(response.into_body(), MOST)
        .collect()
        .await
        .map_err(away)?
        .to_bytes();
    driver.abort();
    let text = || String::from_utf8_lossy(&body).trim().to_owned();
    match status {
        StatusCode::OK => serde_json::from_slice(&body).map_err(away),
        StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT => {
            Err(Failure::Away(text()))
        }
        _ => Err(Failure::Refused(text())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn input_is_read_only_when_it_is_asked_for() {
        let reads = |line: &str| reads_input(&line.split(' ').map(str::to_owned).collect::<Vec<_>>());
        for line in [
            "import -",
            "batch",
            "--json batch",
            "create t --body-file -",
            "create t --body-file=-",
            "create t --stdin",
        ] {
            assert!(reads(line), "{line}");
        }
        for line in ["list", "create batch-job", "close x --reason done", ""] {
            assert!(!reads(line), "{line}");
        }
    }
}
