//! P1 and P2: sandboxes claimed and started over HTTP, by the server itself with the real guest program.

use crate::bench::Results;
use crate::probe::milliseconds;
use crate::service::{CLIENTS, Caller, Refill, Service};
use anyhow::{Context, Result, ensure};
use ostler_test_kit::{DockerEngine, Part};
use reqwest::Method;
use serde_json::{Value, json};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};
use tokio::process::Command;
use tokio::task::JoinSet;

pub(crate) const CLAIM_SIM: &str = "claim of a warm sandbox (sim driver), 1 client";
pub(crate) const CLAIM_SIM_MANY: &str = "claim of a warm sandbox (sim driver), 64 clients with pauses";
pub(crate) const CLAIM_SIM_FLOOD: &str = "claim of a warm sandbox (sim driver), 64 clients without a pause";
pub(crate) const CLAIM_PROCESS: &str = "claim of a warm sandbox (process) and first output of a command";
pub(crate) const CLAIM_DOCKER: &str = "claim of a warm sandbox (docker) and first output of a command";
pub(crate) const COLD_PROCESS: &str = "cold start (process) to first output";
pub(crate) const COLD_DOCKER: &str = "cold start (docker) to first output";
pub(crate) const COLD_DOCKER_LIMIT: &str = "`docker run --rm` of the same image";
pub(crate) const START_DOCKER: &str = "`docker start -a` of a created container";

/// Warm sandboxes of the sim driver: as many as 64 clients claim in a round.
const SIM_WARM: usize = 512;
/// What a client of [`CLAIM_SIM_MANY`] does between two claims, on average: together they claim 256 times a second.
const PAUSE: Duration = Duration::from_millis(250);

/// The server, and the engine that it uses.
pub(crate) struct Sandboxes {
    service: Service,
    engine: Option<(DockerEngine, String)>,
    process: bool,
}

/// Whether a part is here; one that is not is noted.
pub(crate) fn has(part: Part, what: &str, notes: &mut Vec<String>) -> bool {
    match part.check() {
        Ok(()) => true,
        Err(missing) => {
            notes.push(format!("{what}: {missing}"));
            false
        }
    }
}

/// An engine of its own, and the image for its containers. Starting it blocks.
pub(crate) fn engine() -> (DockerEngine, String) {
    tokio::task::block_in_place(|| {
        let engine = DockerEngine::start();
        let image = engine.base_image();
        (engine, image)
    })
}

impl Sandboxes {
    /// Starts the server with every driver that this machine can have; notes those it cannot.
    pub(crate) async fn start(server: &Path, data: &Path, notes: &mut Vec<String>) -> Result<Self> {
        let process = has(Part::Bubblewrap, "sandboxes of the process driver", notes);
        let docker = has(Part::BaseImage, "sandboxes of the docker driver", notes);
        let engine = docker.then(engine);
        let docker = engine.as_ref().map_or_else(
            || "docker = false".to_owned(),
            |(engine, _)| format!("docker = {{ enabled = true, engine = \"{}\" }}", engine.url()),
        );
        let settings = format!(
            "[drivers]\nsim = true\nprocess = {process}\n{docker}\nqemu = false\nfirecracker = false\n"
        );
        Ok(Self {
            service: Service::start(server, data, &settings).await?,
            engine,
            process,
        })
    }

    /// Ends the server with all of its sandboxes.
    pub(crate) async fn stop(self) -> Result<()> {
        self.service.stop().await
    }

    /// One round of everything; `samples` of what is slow.
    pub(crate) async fn round(&self, samples: usize, results: &mut Results) -> Result<()> {
        let each = (samples * 2 / 5).clamp(1, SIM_WARM / CLIENTS);
        for (what, clients, each, pause) in [
            (CLAIM_SIM, 1, samples * 10, Duration::ZERO),
            (CLAIM_SIM_MANY, CLIENTS, each, PAUSE),
            (CLAIM_SIM_FLOOD, CLIENTS, each, Duration::ZERO),
        ] {
            let times = self.claims(clients, each, pause).await?;
            results.sandbox(what, times);
        }
        // So that it is not refilled beside what follows.
        let sim = json!({ "driver": "sim" });
        self.service.pool("sim", &sim, (0, 0), Refill::AtOnce).await?;
        if self.process {
            let template = json!({ "driver": "process", "memory_mb": 256 });
            let names = ("process", CLAIM_PROCESS, COLD_PROCESS);
            self.driver(names, &template, samples, results).await?;
        }
        if let Some((engine, image)) = &self.engine {
            let template = json!({ "driver": "docker", "image": image, "memory_mb": 256 });
            let names = ("docker", CLAIM_DOCKER, COLD_DOCKER);
            self.driver(names, &template, samples, results).await?;
            let (runs, starts) = docker(&engine.url(), image, samples).await?;
            results.sandbox(COLD_DOCKER_LIMIT, runs);
            results.sandbox(START_DOCKER, starts);
        }
        Ok(())
    }

    /// `each` claims of every client, all at once, with a pause of `pause` on average before each; milliseconds. All of
    /// them must be warm. Meanwhile the pool is refilled as fast as one that was never told otherwise.
    async fn claims(&self, clients: usize, each: usize, pause: Duration) -> Result<Vec<f64>> {
        let sim = json!({ "driver": "sim" });
        let sizes = (SIM_WARM, SIM_WARM * 2);
        self.service.pool("sim", &sim, sizes, Refill::AtOnce).await?;
        self.service.pool("sim", &sim, sizes, Refill::Default).await?;
        let mut tasks = JoinSet::new();
        for client in 0..clients {
            tasks.spawn(client_of(self.service.caller(), client, each, pause));
        }
        let mut times = Vec::new();
        let mut ids = Vec::new();
        while let Some(done) = tasks.join_next().await {
            for (took, id) in done?? {
                times.push(took);
                ids.push(id);
            }
        }
        for id in ids {
            self.service.end(&id).await?;
        }
        Ok(times)
    }

    async fn driver(
        &self,
        (name, warm, cold): (&str, &'static str, &'static str),
        template: &Value,
        samples: usize,
        results: &mut Results,
    ) -> Result<()> {
        let service = &self.service;
        service.pool(name, template, (2, 8), Refill::AtOnce).await?;
        let mut times = Vec::new();
        for _ in 0..samples {
            service.filled(name, 2).await?;
            times.push(self.first_output(name, true).await?);
        }
        results.sandbox(warm, times);
        service.pool(name, template, (0, 8), Refill::AtOnce).await?;
        let mut times = Vec::new();
        for _ in 0..samples {
            times.push(self.first_output(name, false).await?);
        }
        results.sandbox(cold, times);
        Ok(())
    }

    /// Milliseconds from the request for a sandbox to the first output of a command in it.
    async fn first_output(&self, pool: &str, warm: bool) -> Result<f64> {
        let start = Instant::now();
        let id = self.service.claim(pool, warm).await?;
        let body = json!({ "command": ["echo", "here"] });
        let path = format!("/agents/{id}/exec");
        let mut answer = self.service.stream(Method::POST, &path, Some(body)).await?;
        let mut said = String::new();
        while !said.contains("here") {
            let piece = answer.chunk().await?;
            let piece = piece.with_context(|| format!("the command said nothing: {said}"))?;
            said += &String::from_utf8_lossy(&piece);
        }
        let took = milliseconds(start.elapsed());
        drop(answer);
        self.service.end(&id).await?;
        Ok(took)
    }
}

/// One client: its claims, with the milliseconds that each took.
async fn client_of(
    caller: Caller,
    number: usize,
    each: usize,
    pause: Duration,
) -> Result<Vec<(f64, String)>> {
    let mut claimed = Vec::with_capacity(each);
    // The same pauses in every round, between nothing and twice the average, and other ones for every client.
    let mut dice = (number as u32 + 1).wrapping_mul(0x9E37_79B9);
    for _ in 0..each {
        if !pause.is_zero() {
            dice = dice.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            tokio::time::sleep(pause * 2 * (dice >> 16) / (1 << 16)).await;
        }
        let start = Instant::now();
        let id = caller.claim("sim", true).await?;
        claimed.push((milliseconds(start.elapsed()), id));
    }
    Ok(claimed)
}

/// A command of the engine's own program, to its end: milliseconds, and what it said.
pub(crate) async fn docker_command(engine: &str, arguments: &[&str]) -> Result<(f64, String)> {
    let start = Instant::now();
    let done = Command::new("docker")
        .args(["-H", engine])
        .args(arguments)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await?;
    let took = milliseconds(start.elapsed());
    let said = String::from_utf8_lossy(&done.stderr);
    ensure!(done.status.success(), "docker {arguments:?}: {said}");
    Ok((took, String::from_utf8_lossy(&done.stdout).trim().to_owned()))
}

/// What the engine's own command takes: to the end of `docker run --rm`, and of `docker start -a`.
async fn docker(engine: &str, image: &str, samples: usize) -> Result<(Vec<f64>, Vec<f64>)> {
    let (mut runs, mut starts) = (Vec::new(), Vec::new());
    for _ in 0..samples {
        let run = ["run", "--rm", "--network", "none", image, "echo", "here"];
        runs.push(docker_command(engine, &run).await?.0);
        let create = ["create", "--network", "none", image, "echo", "here"];
        let (_, id) = docker_command(engine, &create).await?;
        starts.push(docker_command(engine, &["start", "-a", &id]).await?.0);
        docker_command(engine, &["rm", &id]).await?;
    }
    Ok((runs, starts))
}
