//! A test that writes very much: every byte of it is kept, and neither the server nor the guest grows by it.
//!
//! `OSTLER_OUTPUT_BYTES=10000000000` writes ten gigabytes.

#![allow(clippy::unwrap_used, reason = "test code")]

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ostler_test_kit::{LeakGuard, TestServer, require};
use reqwest::Method;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const BYTES: u64 = 128 << 20;
/// What the server and the guest may grow by, MiB.
const GROWTH: u64 = 48;

/// Numbers, so that nothing can be missing, twice or in another order without being seen.
fn script(bytes: u64) -> String {
    format!("seq 1 999999999999 | head -c {bytes}")
}

fn sum_of(script: &str) -> String {
    let output = Command::new("sh")
        .args(["-c", &format!("{script} | sha256sum")])
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Most memory that a process ever had, MiB; `None` when it is gone.
fn peak(process: &Path) -> Option<u64> {
    let status = std::fs::read_to_string(process.join("status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib / 1024)
}

/// The name and the parent of a process.
fn parent(process: i32) -> Option<(String, i32)> {
    let text = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    let (name, rest) = text.split_once('(')?.1.rsplit_once(')')?;
    Some((name.to_owned(), rest.split_whitespace().nth(1)?.parse().ok()?))
}

/// Most memory that any of the guests below a server ever had, MiB.
fn peak_of_guests(server: i32) -> u64 {
    let names = std::fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .map(|entry| entry.file_name());
    let all: HashMap<i32, (String, i32)> = names
        .filter_map(|name| name.to_str()?.parse().ok())
        .filter_map(|process| Some((process, parent(process)?)))
        .collect();
    let is_below = |mut process: i32| {
        while let Some((_, parent)) = all.get(&process) {
            if *parent == server {
                return true;
            }
            process = *parent;
        }
        false
    };
    let guests = all
        .iter()
        .filter(|(process, (name, _))| name == "guest" && is_below(**process));
    let peaks = guests.filter_map(|(guest, _)| peak(Path::new(&format!("/proc/{guest}"))));
    peaks.max().unwrap_or_default()
}

/// Executes a script as a test to its end. Returns its run, and the most memory of the guest, MiB.
async fn execute(server: &TestServer, script: &str) -> (Value, u64) {
    let test = json!({ "name": "output", "script": script, "timeout": "2h" });
    let plan = server
        .post("/plans", json!({ "name": "output", "tests": [test] }))
        .await;
    let path = format!("/plans/{}", plan["id"].as_str().unwrap());
    let mut guest = 0;
    while server.get(&path).await["finished_at"].is_null() {
        guest = guest.max(peak_of_guests(server.pid().unwrap().cast_signed()));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let tests = server.get(&format!("{path}/tests")).await;
    (tests[0].clone(), guest)
}

/// Reads what a run wrote to standard output and counts and sums it on the way.
async fn sum_of_log(server: &TestServer, run: &str) -> (u64, String) {
    let mut summing = Command::new("sha256sum")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut sum = summing.stdin.take().unwrap();
    let url = format!("{}/api/v1/runs/{run}/logs?base64=true", server.url());
    let mut request = reqwest::Client::new().request(Method::GET, url);
    if let Some(token) = &server.token {
        request = request.bearer_auth(token);
    }
    let mut response = request.send().await.unwrap().error_for_status().unwrap();
    let (mut rest, mut bytes) = (Vec::new(), 0);
    while let Some(chunk) = response.chunk().await.unwrap() {
        rest.extend_from_slice(&chunk);
        let whole = rest
            .iter()
            .rposition(|byte| *byte == b'\n')
            .map_or(0, |end| end + 1);
        let lines: Vec<u8> = rest.drain(..whole).collect();
        for line in lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let line: Value = serde_json::from_slice(line).unwrap();
            assert_eq!(line["stream"], "stdout", "{}", line["stream"]);
            let piece = STANDARD.decode(line["text"].as_str().unwrap()).unwrap();
            bytes += piece.len() as u64;
            sum.write_all(&piece).unwrap();
        }
    }
    drop(sum);
    let output = summing.wait_with_output().unwrap();
    (bytes, String::from_utf8(output.stdout).unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn much_output_is_kept_whole_without_growing_memory() {
    require!(Bubblewrap);
    let bytes = std::env::var("OSTLER_OUTPUT_BYTES").map_or(BYTES, |text| text.parse().unwrap());
    let dir = tempfile::tempdir().unwrap();
    let _left = LeakGuard::new(dir.path());
    let mut server = TestServer::new(env!("CARGO_BIN_EXE_ostler"), dir.path())
        .args(["--dev"])
        .env("OSTLER_DRIVERS__DOCKER", "false")
        .env("OSTLER_DRIVERS__PROCESS", "true")
        .start()
        .await;
    let process = format!("/proc/{}", server.pid().unwrap());
    let own = || peak(Path::new(&process)).unwrap();

    // What is needed for any test is needed for this one.
    let (small, guest_before) = execute(&server, &script(1 << 20)).await;
    sum_of_log(&server, small["run_id"].as_str().unwrap()).await;
    let before = own();
    let begun = Instant::now();
    let (run, guest) = execute(&server, &script(bytes)).await;
    let written = begun.elapsed();
    assert_eq!(run["status"], "succeeded", "{run}");
    assert_eq!(run["problems"], json!([]), "{run}");
    let after_writing = own();
    let (kept, sum) = sum_of_log(&server, run["run_id"].as_str().unwrap()).await;
    let read = begun.elapsed().saturating_sub(written);
    let after = own();
    println!(
        "{bytes} bytes written in {written:?} and read in {read:?}; most memory of the server {before} MiB before, \
         {after_writing} after it was written, {after} after it was read; of the guest {guest_before} and {guest} MiB"
    );
    assert_eq!(kept, bytes);
    assert_eq!(
        sum,
        sum_of(&script(bytes)),
        "what was kept is not what was written"
    );
    assert!(
        after <= before + GROWTH,
        "the server grew from {before} to {after} MiB"
    );
    assert!(guest_before > 0, "the guest was not found");
    assert!(
        guest <= guest_before + GROWTH,
        "the guest grew from {guest_before} to {guest} MiB"
    );
    server.stop().await;
}
