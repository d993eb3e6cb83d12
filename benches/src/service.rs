//! A server of Ostler, asked over HTTP.

use crate::startup::Running;
use anyhow::{Context, Result, ensure};
use reqwest::{Client, Method, Response, StatusCode};
use serde_json::{Value, json};
use std::path::Path;
use std::time::{Duration, Instant};

/// For what a server does at once, and for a pool to be filled.
const LIMIT: Duration = Duration::from_secs(120);
/// Connections that are kept.
pub(crate) const CLIENTS: usize = 64;

/// How a pool is filled: at once, or as one that was never told otherwise.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refill {
    AtOnce,
    Default,
}

/// A server in development mode with a database of its own, and a client.
pub(crate) struct Service {
    server: Running,
    http: Client,
}

impl Service {
    /// Starts the server with these lines of settings besides those that keep it from refusing many requests.
    pub(crate) async fn start(program: &Path, data: &Path, settings: &str) -> Result<Self> {
        std::fs::create_dir_all(data)?;
        let settings = format!("[server]\nrate_per_second = 1000000\nrate_burst = 1000000\n{settings}\n");
        std::fs::write(data.join("config.toml"), settings)?;
        let database = format!("sqlite:{}", data.join("bench.db").display());
        Ok(Self {
            server: Running::start(program, data, &database, &["--dev"]).await?,
            http: Client::builder().pool_max_idle_per_host(CLIENTS).build()?,
        })
    }

    /// Ends the server with all of its sandboxes.
    pub(crate) async fn stop(self) -> Result<()> {
        self.server.stop().await
    }

    pub(crate) fn process(&self) -> Result<u32> {
        self.server.process()
    }

    /// A handle for a task of its own.
    pub(crate) fn caller(&self) -> Caller {
        Caller {
            http: self.http.clone(),
            address: self.server.address.clone(),
        }
    }

    pub(crate) async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> Result<(StatusCode, Value)> {
        self.caller().call(method, path, body).await
    }

    /// An answer that is read piece by piece.
    pub(crate) async fn stream(&self, method: Method, path: &str, body: Option<Value>) -> Result<Response> {
        let answer = self.caller().send(method, path, body).await?;
        ensure!(answer.status().is_success(), "{path}: {}", answer.text().await?);
        Ok(answer)
    }

    /// Makes a pool or changes it, and waits until it is at its target.
    pub(crate) async fn pool(
        &self,
        name: &str,
        template: &Value,
        (target, max): (usize, usize),
        refill: Refill,
    ) -> Result<()> {
        let mut body = json!({ "template": template, "target": target, "max": max });
        let (starts, rate, burst) = match refill {
            Refill::AtOnce => (32, 1_000_000, max.max(1)),
            Refill::Default => (2, 60, 20),
        };
        body["start_concurrency"] = starts.into();
        body["refill_per_minute"] = rate.into();
        body["refill_burst"] = burst.into();
        let (status, answer) = self
            .call(Method::PUT, &format!("/pools/{name}"), Some(body))
            .await?;
        ensure!(status.is_success(), "pool {name}: {status} {answer}");
        if refill == Refill::AtOnce {
            self.filled(name, target).await?;
        }
        Ok(())
    }

    pub(crate) async fn filled(&self, name: &str, target: usize) -> Result<()> {
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

    /// A sandbox of a pool, which is warm or not as expected.
    pub(crate) async fn claim(&self, pool: &str, warm: bool) -> Result<String> {
        self.caller().claim(pool, warm).await
    }

    pub(crate) async fn end(&self, id: &str) -> Result<()> {
        let (status, answer) = self.call(Method::DELETE, &format!("/agents/{id}"), None).await?;
        ensure!(status.is_success(), "agent {id}: {status} {answer}");
        Ok(())
    }
}

/// Asks a server.
#[derive(Clone)]
pub(crate) struct Caller {
    http: Client,
    address: String,
}

impl Caller {
    async fn send(&self, method: Method, path: &str, body: Option<Value>) -> Result<Response> {
        let request = self
            .http
            .request(method, format!("{}/api/v1{path}", self.address));
        let request = match body {
            Some(body) => request.json(&body),
            None => request,
        };
        Ok(request.timeout(LIMIT).send().await?)
    }

    /// A request, and its answer as JSON.
    async fn call(&self, method: Method, path: &str, body: Option<Value>) -> Result<(StatusCode, Value)> {
        let answer = self.send(method, path, body).await?;
        let status = answer.status();
        let text = answer.text().await?;
        Ok((status, serde_json::from_str(&text).unwrap_or(Value::String(text))))
    }

    /// See [`Service::claim`].
    pub(crate) async fn claim(&self, pool: &str, warm: bool) -> Result<String> {
        let body = Some(json!({ "pool": pool }));
        let (status, answer) = self.call(Method::POST, "/agents", body).await?;
        ensure!(status == StatusCode::CREATED, "no sandbox: {status} {answer}");
        ensure!(
            answer["warm"] == warm,
            "the sandbox should have warm = {warm}: {answer}"
        );
        let id = answer["id"].as_str().context("a sandbox without an id")?;
        Ok(id.to_owned())
    }
}
