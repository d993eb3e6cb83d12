//! P1 and P2: sandboxes claimed and started over HTTP, by the server itself with the real guest program.

use crate::bench::Results;
use crate::probe::milliseconds;
use anyhow::{Context, Result, ensure};
use ostler_test_kit::{DockerEngine, Part};
use reqwest::{Client, Method, StatusCode};
use serde_json::{Value, json};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};
use tokio::process::Command;
use tokio::task::JoinSet;

pub(crate) const CLAIM_SIM: &str = "claim of a warm sandbox (sim driver), 1 client";
pub(crate) const CLAIM_SIM_MANY: &str = "claim of a warm sandbox (sim driver), 64 clients";
pub(crate) const CLAIM_PROCESS: &str = "claim of a warm sandbox (process) and first output of a command";
pub(crate) const CLAIM_DOCKER: &str = "claim of a warm sandbox (docker) and first output of a command";
pub(crate) const COLD_PROCESS: &str = "cold start (process) to first output";
pub(crate) const COLD_DOCKER: &str = "cold start (docker) to first output";
pub(crate) const COLD_DOCKER_LIMIT: &str = "`docker run --rm` of the same image";
pub(crate) const START_DOCKER: &str = "`docker start -a` of a created container";

/// Clients of [`CLAIM_SIM_MANY`].
pub(crate) const CLIENTS: usize = 64;
/// Warm sandboxes of the sim driver: one round of claims.
const SIM_WARM: usize = 256;
const LIMIT: Duration = Duration::from_secs(60);

/// The server, the engine that it uses, and the way to both.
pub(crate) struct Sandboxes {
    server: crate::startup::Running,
    http: Client,
    engine: Option<(DockerEngine, String)>,
    process: bool,
}

impl Sandboxes {
    /// Starts the server with every driver that this machine can have; notes those it cannot.
    pub(crate) async fn start(server: &Path, data: &Path, notes: &mut Vec<String>) -> Result<Self> {
        let mut has = |part: Part, name: &str| {
            let here = part.check().is_ok();
            if !here {
                notes.push(format!(
                    "sandboxes of the {name} driver: {part:?} is not on this machine"
                ));
            }
            here
        };
        let process = has(Part::Bubblewrap, "process");
        let docker = has(Part::BaseImage, "docker");
        // The engine is started by blocking calls.
        let engine = docker.then(|| tokio::task::block_in_place(DockerEngine::start));
        let engine = engine.map(|engine| {
            let image = tokio::task::block_in_place(|| engine.base_image());
            (engine, image)
        });
        std::fs::create_dir_all(data)?;
        let docker = engine.as_ref().map_or_else(
            || "docker = false".to_owned(),
            |(engine, _)| format!("docker = {{ enabled = true, engine = \"{}\" }}", engine.url()),
        );
        let settings = format!(
            "[server]\nrate_per_second = 1000000\nrate_burst = 1000000\n\
             [drivers]\nsim = true\nprocess = {process}\n{docker}\n"
        );
        std::fs::write(data.join("config.toml"), settings)?;
        let database = format!("sqlite:{}", data.join("bench.db").display());
        let server = crate::startup::Running::start(server, data, &database, &["--dev"]).await?;
        Ok(Self {
            server,
            http: Client::builder().pool_max_idle_per_host(CLIENTS).build()?,
            engine,
            process,
        })
    }

    /// Ends the server with all of its sandboxes.
    pub(crate) async fn stop(self) -> Result<()> {
        self.server.stop().await
    }

    async fn call(&self, method: Method, path: &str, body: Option<Value>) -> Result<(StatusCode, Value)> {
        call(&self.http, &self.server.address, method, path, body).await
    }

    /// Makes a pool, and waits until it is at its target.
    async fn pool(&self, name: &str, template: Value, target: usize, max: usize) -> Result<()> {
        let body = json!({ "template": template, "target": target, "max": max });
        let (status, answer) = self
            .call(Method::PUT, &format!("/pools/{name}"), Some(body))
            .await?;
        ensure!(status.is_success(), "pool {name}: {status} {answer}");
        self.filled(name, target).await
    }

    async fn filled(&self, name: &str, target: usize) -> Result<()> {
        let end = Instant::now() + LIMIT;
        loop {
            let (_, pools) = self.call(Method::GET, "/pools", None).await?;
            let pool = pools
                .as_array()
                .and_then(|pools| pools.iter().find(|pool| pool["name"] == name))
                .context("the pool is not there")?;
            if pool["warm"] == target {
                return Ok(());
            }
            ensure!(Instant::now() < end, "the pool does not fill: {pool}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn end(&self, id: &str) -> Result<()> {
        let (status, answer) = self.call(Method::DELETE, &format!("/agents/{id}"), None).await?;
        ensure!(status.is_success(), "agent {id}: {status} {answer}");
        Ok(())
    }

    /// One round of everything; `samples` of what is slow.
    pub(crate) async fn round(&self, samples: usize, results: &mut Results) -> Result<()> {
        let sim = json!({ "driver": "sim" });
        self.pool("sim", sim.clone(), SIM_WARM, SIM_WARM * 2).await?;
        results.sandbox(CLAIM_SIM, self.claims(1, samples * 5).await?);
        self.filled("sim", SIM_WARM).await?;
        results.sandbox(CLAIM_SIM_MANY, self.claims(CLIENTS, SIM_WARM / CLIENTS).await?);
        // So that it is not refilled beside what follows.
        self.pool("sim", sim, 0, 0).await?;
        if self.process {
            let template = json!({ "driver": "process", "memory_mb": 256 });
            let names = ("process", CLAIM_PROCESS, COLD_PROCESS);
            self.driver(names, template, samples, results).await?;
        }
        if let Some((engine, image)) = &self.engine {
            let template = json!({ "driver": "docker", "image": image, "memory_mb": 256 });
            let names = ("docker", CLAIM_DOCKER, COLD_DOCKER);
            self.driver(names, template, samples, results).await?;
            let (runs, starts) = docker(&engine.url(), image, samples).await?;
            results.sandbox(COLD_DOCKER_LIMIT, runs);
            results.sandbox(START_DOCKER, starts);
        }
        Ok(())
    }

    /// `each` claims of every client, all at once; milliseconds. All of them must be warm.
    async fn claims(&self, clients: usize, each: usize) -> Result<Vec<f64>> {
        let mut tasks = JoinSet::new();
        for _ in 0..clients {
            let (http, address) = (self.http.clone(), self.server.address.clone());
            tasks.spawn(async move {
                let mut claimed = Vec::with_capacity(each);
                for _ in 0..each {
                    let start = Instant::now();
                    let body = Some(json!({ "pool": "sim" }));
                    let (status, answer) = call(&http, &address, Method::POST, "/agents", body).await?;
                    let took = milliseconds(start.elapsed());
                    ensure!(status == StatusCode::CREATED, "no sandbox: {status} {answer}");
                    ensure!(answer["warm"] == true, "a sandbox was not warm: {answer}");
                    claimed.push((took, answer["id"].as_str().unwrap_or_default().to_owned()));
                }
                anyhow::Ok(claimed)
            });
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
            self.end(&id).await?;
        }
        Ok(times)
    }

    async fn driver(
        &self,
        (name, warm, cold): (&str, &'static str, &'static str),
        template: Value,
        samples: usize,
        results: &mut Results,
    ) -> Result<()> {
        self.pool(name, template.clone(), 2, 8).await?;
        let mut times = Vec::new();
        for _ in 0..samples {
            self.filled(name, 2).await?;
            times.push(self.first_output(name, true).await?);
        }
        results.sandbox(warm, times);
        self.pool(name, template, 0, 8).await?;
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
        let body = Some(json!({ "pool": pool }));
        let (status, answer) = self.call(Method::POST, "/agents", body).await?;
        ensure!(status == StatusCode::CREATED, "no sandbox: {status} {answer}");
        ensure!(
            answer["warm"] == warm,
            "the sandbox should have warm = {warm}: {answer}"
        );
        let id = answer["id"].as_str().unwrap_or_default().to_owned();
        let url = format!("{}/api/v1/agents/{id}/exec", self.server.address);
        let body = json!({ "command": ["echo", "here"] }).to_string();
        let request = self
            .http
            .post(url)
            .header("content-type", "application/json")
            .body(body);
        let mut answer = request.timeout(LIMIT).send().await?;
        let mut said = String::new();
        while !said.contains("here") {
            let piece = answer.chunk().await?;
            let piece = piece.with_context(|| format!("the command said nothing: {said}"))?;
            said += &String::from_utf8_lossy(&piece);
        }
        let took = milliseconds(start.elapsed());
        drop(answer);
        self.end(&id).await?;
        Ok(took)
    }
}

/// A request, and its answer as JSON.
async fn call(
    http: &Client,
    address: &str,
    method: Method,
    path: &str,
    body: Option<Value>,
) -> Result<(StatusCode, Value)> {
    let mut request = http
        .request(method, format!("{address}/api/v1{path}"))
        .timeout(LIMIT);
    if let Some(body) = body {
        request = request.json(&body);
    }
    let answer = request.send().await?;
    let status = answer.status();
    let text = answer.text().await?;
    Ok((status, serde_json::from_str(&text).unwrap_or(Value::String(text))))
}

/// What the engine's own command takes: to the end of `docker run --rm`, and of `docker start -a`.
async fn docker(engine: &str, image: &str, samples: usize) -> Result<(Vec<f64>, Vec<f64>)> {
    let command = |arguments: Vec<String>| async move {
        let start = Instant::now();
        let done = Command::new("docker")
            .args(["-H", engine])
            .args(&arguments)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await?;
        let took = milliseconds(start.elapsed());
        let said = String::from_utf8_lossy(&done.stderr);
        ensure!(done.status.success(), "docker {arguments:?}: {said}");
        let said = String::from_utf8_lossy(&done.stdout).trim().to_owned();
        Ok((took, said))
    };
    let words = |text: &str| -> Vec<String> { text.split(' ').map(str::to_owned).collect() };
    let (mut runs, mut starts) = (Vec::new(), Vec::new());
    for _ in 0..samples {
        let (took, _) = command(words(&format!("run --rm --network none {image} echo here"))).await?;
        runs.push(took);
        let (_, id) = command(words(&format!("create --network none {image} echo here"))).await?;
        let (took, _) = command(words(&format!("start -a {id}"))).await?;
        starts.push(took);
        command(words(&format!("rm {id}"))).await?;
    }
    Ok((runs, starts))
}
