//! P11: output on its way from a program in a sandbox to a reader of server-sent events.

use crate::bench::Results;
use crate::probe::milliseconds;
use crate::sandboxes::{docker_command, engine, has};
use crate::service::{Refill, Service};
use anyhow::{Context, Result, ensure};
use ostler_test_kit::{DockerEngine, Part};
use reqwest::Method;
use serde_json::{Value, json};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{Child, Command};

pub(crate) const LINE_RUN: &str = "a line of a run's log (process) to its reader";
pub(crate) const LINE_EXEC: &str = "a line of an agent's program (process) to its reader";
pub(crate) const LINE_DOCKER: &str = "a line to the reader of `docker logs -f`";
pub(crate) const BULK_RUN: &str = "log of a run (process), followed";
pub(crate) const BULK_EXEC: &str = "output of an agent's program (process)";
pub(crate) const BULK_DOCKER: &str = "`docker logs -f`";

const POOL: &str = "output";
/// Longer than a reader takes to be there.
const BEGIN: &str = "sleep 1";
const MEGABYTE: usize = 1_000_000;
/// A line of bulk output: 99 bytes and its end.
const LINE: usize = 100;

/// The server with the process driver, and an engine to compare with.
pub(crate) struct Output {
    service: Service,
    engine: Option<(DockerEngine, String)>,
}

impl Output {
    /// `None`, with a note, where there is no process driver.
    pub(crate) async fn start(program: &Path, data: &Path, notes: &mut Vec<String>) -> Result<Option<Self>> {
        if !has(
            Part::Bubblewrap,
            "output of sandboxes of the process driver",
            notes,
        ) {
            return Ok(None);
        }
        let docker = has(Part::BaseImage, "output of containers", notes);
        let settings = "[drivers]\nprocess = true\ndocker = false\nqemu = false\nfirecracker = false\n";
        let service = Service::start(program, data, settings).await?;
        let template = json!({ "driver": "process", "memory_mb": 1024 });
        service.pool(POOL, &template, (1, 4), Refill::AtOnce).await?;
        Ok(Some(Self {
            service,
            engine: docker.then(engine),
        }))
    }

    pub(crate) async fn stop(self) -> Result<()> {
        self.service.stop().await
    }

    /// `lines` one after the other, and `megabytes` at once, on every way.
    pub(crate) async fn round(&self, lines: usize, megabytes: usize, results: &mut Results) -> Result<()> {
        let slow = format!("{BEGIN}; for i in $(seq {lines}); do date +%s%N; sleep 0.01; done");
        let count = megabytes * MEGABYTE / LINE;
        let word = "x".repeat(LINE - 1);
        // By a program that costs next to nothing itself.
        let block = MEGABYTE / LINE;
        let bulk = format!(
            "yes {word} | head -n {block} > /tmp/block; {BEGIN}; for i in $(seq {megabytes}); do cat /tmp/block; done"
        );

        let mut times = Times::default();
        self.run(&slow, |line| times.take(line)).await?;
        results.sandbox(LINE_RUN, times.complete(lines)?);
        let mut times = Times::default();
        self.exec(&slow, |line| times.take(line)).await?;
        results.sandbox(LINE_EXEC, times.complete(lines)?);
        let mut flow = Flow::default();
        self.run_raw(&bulk, |piece| flow.take(piece)).await?;
        results.rate(BULK_RUN, flow.megabytes_per_second(count)?);
        let mut flow = Flow::default();
        self.exec_raw(&bulk, |piece| flow.take(piece)).await?;
        results.rate(BULK_EXEC, flow.megabytes_per_second(count)?);

        if let Some((engine, image)) = &self.engine {
            let mut times = Times::default();
            let mut logs = Logs::of(&engine.url(), image, &slow).await?;
            while let Some(line) = logs.lines.next_line().await? {
                times.take(&line);
            }
            logs.remove().await?;
            results.sandbox(LINE_DOCKER, times.complete(lines)?);
            let mut flow = Flow::ends_with(b'\n');
            let mut logs = Logs::of(&engine.url(), image, &bulk).await?;
            let mut piece = vec![0; 256 << 10];
            loop {
                let n = logs.lines.get_mut().read(&mut piece).await?;
                if n == 0 {
                    break;
                }
                flow.take(&piece[..n]);
            }
            logs.remove().await?;
            results.rate(BULK_DOCKER, flow.megabytes_per_second(count)?);
        }
        Ok(())
    }

    /// A run, and its log as it grows, event by event.
    async fn run(&self, script: &str, mut line: impl FnMut(&str)) -> Result<()> {
        let mut events = Events::default();
        self.run_raw(script, |piece| events.take(piece, &mut line)).await
    }

    async fn run_raw(&self, script: &str, mut piece: impl FnMut(&[u8])) -> Result<()> {
        self.service.filled(POOL, 1).await?;
        let body = json!({ "command": ["sh", "-c", script], "requirements": { "pool": POOL } });
        let (status, run) = self.service.call(Method::POST, "/runs", Some(body)).await?;
        ensure!(status.is_success(), "no run: {status} {run}");
        let id = run["id"].as_str().context("a run without an id")?;
        let path = format!("/runs/{id}/logs?follow=true");
        let mut answer = self.service.stream(Method::GET, &path, None).await?;
        while let Some(bytes) = answer.chunk().await? {
            piece(&bytes);
        }
        Ok(())
    }

    /// A program of an agent, and its output event by event.
    async fn exec(&self, script: &str, mut line: impl FnMut(&str)) -> Result<()> {
        let mut events = Events::default();
        self.exec_raw(script, |piece| events.take(piece, &mut line)).await
    }

    async fn exec_raw(&self, script: &str, mut piece: impl FnMut(&[u8])) -> Result<()> {
        self.service.filled(POOL, 1).await?;
        let id = self.service.claim(POOL, true).await?;
        let body = json!({ "command": ["sh", "-c", script] });
        let path = format!("/agents/{id}/exec");
        let mut answer = self.service.stream(Method::POST, &path, Some(body)).await?;
        while let Some(bytes) = answer.chunk().await? {
            piece(&bytes);
        }
        self.service.end(&id).await
    }
}

/// Server-sent events, taken apart.
#[derive(Default)]
struct Events(Vec<u8>);

impl Events {
    /// Calls `line` with each line of text in the events that are complete.
    fn take(&mut self, piece: &[u8], line: &mut impl FnMut(&str)) {
        self.0.extend(piece);
        while let Some(end) = self.0.iter().position(|byte| *byte == b'\n') {
            let row: Vec<u8> = self.0.drain(..=end).collect();
            let data = row
                .strip_prefix(b"data: ")
                .and_then(|data| serde_json::from_slice::<Value>(data).ok());
            if let Some(text) = data.as_ref().and_then(|data| data["text"].as_str()) {
                text.lines().for_each(&mut *line);
            }
        }
    }
}

/// How old lines are that hold the nanoseconds of their birth.
#[derive(Default)]
struct Times(Vec<f64>);

impl Times {
    fn take(&mut self, line: &str) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        if let Ok(born) = line.parse::<u64>() {
            self.0
                .push(milliseconds(now.saturating_sub(Duration::from_nanos(born))));
        }
    }

    fn complete(self, count: usize) -> Result<Vec<f64>> {
        ensure!(self.0.len() == count, "{} of {count} lines arrived", self.0.len());
        Ok(self.0)
    }
}

/// How fast output arrives, from its first piece on.
struct Flow {
    /// What every line has once.
    end: u8,
    first: Option<Instant>,
    last: Option<Instant>,
    lines: usize,
}

/// The only backslash in a line of JSON is that of its end.
impl Default for Flow {
    fn default() -> Self {
        Self::ends_with(b'\\')
    }
}

impl Flow {
    fn ends_with(end: u8) -> Self {
        Self {
            end,
            first: None,
            last: None,
            lines: 0,
        }
    }

    fn take(&mut self, piece: &[u8]) {
        let ends = piece
            .iter()
            .map(|byte| usize::from(*byte == self.end))
            .sum::<usize>();
        if ends > 0 {
            let now = Instant::now();
            self.first.get_or_insert(now);
            self.last = Some(now);
            self.lines += ends;
        }
    }

    fn megabytes_per_second(&self, count: usize) -> Result<f64> {
        ensure!(self.lines == count, "{} of {count} lines arrived", self.lines);
        let (first, last) = self.first.zip(self.last).context("no output")?;
        Ok((count * LINE / MEGABYTE) as f64 / last.duration_since(first).as_secs_f64())
    }
}

/// A container and a reader of its log.
struct Logs {
    engine: String,
    id: String,
    _reader: Child,
    lines: tokio::io::Lines<BufReader<tokio::process::ChildStdout>>,
}

impl Logs {
    async fn of(engine: &str, image: &str, script: &str) -> Result<Self> {
        let run = ["run", "-d", "--network", "none", image, "sh", "-c", script];
        let (_, id) = docker_command(engine, &run).await?;
        let mut reader = Command::new("docker")
            .args(["-H", engine, "logs", "-f", &id])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()?;
        let stdout = reader.stdout.take().context("no output of docker logs")?;
        Ok(Self {
            engine: engine.to_owned(),
            id,
            _reader: reader,
            lines: BufReader::new(stdout).lines(),
        })
    }

    async fn remove(self) -> Result<()> {
        docker_command(&self.engine, &["rm", "-f", &self.id]).await?;
        Ok(())
    }
}
