//! The real server program, driven over HTTP.

use std::{
    ffi::OsString,
    fs::File,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use reqwest::{Client, Method, StatusCode};
use serde_json::{Value, json};

use crate::{DockerEngine, leak::sweep_server};

/// Longest wait for a start, a request or a stop: several tests share few cores.
const LIMIT: Duration = Duration::from_secs(60);

/// Lines of the server's log that are printed when a test fails.
const LOG_LINES: usize = 300;

/// What of the test's own environment must not steer the server.
const FOREIGN: [&str; 7] = [
    "ANTHROPIC_",
    "CLAUDE_",
    "DOCKER_HOST",
    "GEMINI_",
    "GOOGLE_",
    "OPENAI_",
    "OSTLER_",
];

/// `ostler serve` on a free port of the loopback, with a data directory that the test owns.
///
/// Dropping it kills the server (`kill -9`), and prints its log if the test is failing. So does the end of the thread
/// that started it, thus a killed test leaves no server: start it in the test itself, not in a task for blocking work.
/// Its sandboxes may survive it, by design; they are removed after it, except when the test itself is killed. To see
/// that there are none, use a [`crate::LeakGuard`].
pub struct TestServer {
    program: PathBuf,
    data: PathBuf,
    arguments: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    child: Option<Child>,
    log: File,
    url: String,
    /// Sent as bearer token. Set at the start to the one that the server gives to a local command line: none with
    /// `--dev`.
    pub token: Option<String>,
    http: Client,
    /// Where containers are looked for at the end.
    engine: Option<String>,
}

impl TestServer {
    /// A server that does not run yet. `program` is `env!("CARGO_BIN_EXE_ostler")`.
    pub fn new(program: impl Into<PathBuf>, data: impl Into<PathBuf>) -> Self {
        let log = tempfile::tempfile().unwrap_or_else(|error| panic!("cannot make a file: {error}"));
        // Standard output and standard error write to it.
        fcntl(&log, FcntlArg::F_SETFL(OFlag::O_APPEND))
            .unwrap_or_else(|error| panic!("cannot prepare the log: {error}"));
        Self {
            program: program.into(),
            data: data.into(),
            arguments: Vec::new(),
            environment: Vec::new(),
            child: None,
            log,
            url: String::new(),
            token: None,
            http: Client::new(),
            engine: None,
        }
    }

    /// Adds arguments after `serve`.
    #[must_use]
    pub fn args<A: Into<OsString>>(mut self, arguments: impl IntoIterator<Item = A>) -> Self {
        self.arguments.extend(arguments.into_iter().map(Into::into));
        self
    }

    /// Adds a variable to its environment, which has none of Ostler's and of the model providers' otherwise.
    #[must_use]
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// Gives it this Docker Engine for its docker driver.
    #[must_use]
    pub fn engine(mut self, engine: &DockerEngine) -> Self {
        self.engine = Some(engine.url());
        self.env("OSTLER_DRIVERS__DOCKER__ENGINE", engine.url())
    }

    /// Starts it and waits until it answers.
    #[must_use]
    pub async fn start(mut self) -> Self {
        self.start_again().await;
        self
    }

    /// Starts it after [`Self::kill_9`] or [`Self::stop`], as it was started before, and waits until it answers.
    pub async fn start_again(&mut self) {
        assert!(self.child.is_none(), "the server runs already");
        let connection = self.data.join("server.json");
        if let Some(mut value) = read_json(&connection) {
            // The token is kept from start to start; the new address is to be waited for.
            value["url"] = Value::Null;
            std::fs::write(&connection, value.to_string())
                .unwrap_or_else(|error| panic!("cannot write {}: {error}", connection.display()));
        }
        self.child = Some(self.spawn());
        let end = Instant::now() + LIMIT;
        loop {
            let value = read_json(&connection).unwrap_or_default();
            if let Some(url) = value["url"].as_str() {
                url.clone_into(&mut self.url);
                self.token = value["token"].as_str().map(str::to_owned);
                let health = self.http.get(format!("{url}/api/v1/health")).send().await;
                if health.is_ok_and(|response| response.status().is_success()) {
                    return;
                }
            }
            let ended = self
                .child
                .as_mut()
                .and_then(|child| child.try_wait().ok().flatten());
            assert!(ended.is_none(), "the server ended at its start: {ended:?}");
            assert!(Instant::now() < end, "the server does not answer");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    fn spawn(&self) -> Child {
        let log = || {
            self.log
                .try_clone()
                .unwrap_or_else(|error| panic!("cannot share the log: {error}"))
        };
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig=KILL", "--"])
            .arg(&self.program)
            .args(["serve", "--listen", "127.0.0.1:0", "--data"])
            .arg(&self.data)
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(log())
            .stderr(log());
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if FOREIGN.iter().any(|prefix| text.starts_with(prefix)) {
                command.env_remove(&name);
            }
        }
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {}: {error}", self.program.display()))
    }

    /// Its address, such as `http://127.0.0.1:1234`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Its data directory.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// Its process id, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// A request to the API; `path` is what comes after `/api/v1`. An answer that is not JSON is given as a string.
    pub async fn call(&self, method: Method, path: &str, body: Option<Value>) -> (StatusCode, Value) {
        let mut request = self
            .http
            .request(method, format!("{}/api/v1{path}", self.url))
            .timeout(LIMIT);
        if let Some(token) = &self.token {
            request = request.bearer_auth(token);
        }
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = async {
            let response = request.send().await?;
            Ok::<_, reqwest::Error>((response.status(), response.text().await?))
        };
        let (status, text) = answer.await.unwrap_or_else(|error| panic!("{path}: {error:?}"));
        (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }

    /// What is at `path`, which must be there.
    pub async fn get(&self, path: &str) -> Value {
        let (status, body) = self.call(Method::GET, path, None).await;
        assert_eq!(status, StatusCode::OK, "{path}: {body}");
        body
    }

    /// Creates something, which must be accepted.
    pub async fn post(&self, path: &str, body: Value) -> Value {
        let (status, answer) = self.call(Method::POST, path, Some(body)).await;
        assert!(status.is_success(), "{path}: {status} {answer}");
        answer
    }

    /// Asks for `path` until `holds`; the answer for which it did.
    pub async fn until(&self, path: &str, limit: Duration, holds: impl Fn(&Value) -> bool) -> Value {
        let end = Instant::now() + limit;
        loop {
            let body = self.get(path).await;
            if holds(&body) {
                return body;
            }
            assert!(Instant::now() < end, "{path} within {limit:?}: {body:#}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Adds a project, creates a task in it that goes on by itself, and gives the path of that task.
    pub async fn task(&self, source: &Path, title: &str, description: &str) -> String {
        let project = self.post("/projects", json!({ "source": source })).await;
        let path = format!("/projects/{}/tasks", text(&project, "id"));
        let body = json!({ "title": title, "description": description, "auto": true });
        format!("/tasks/{}", text(&self.post(&path, body).await, "id"))
    }

    /// Ends it without a chance to tidy up.
    pub fn kill_9(&mut self) {
        if let Some(mut child) = self.child.take() {
            // Both fail only if it has ended by itself, which is as good.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Asks it to end (`SIGTERM`), waits for that, and tells how it ended.
    pub async fn stop(&mut self) -> ExitStatus {
        let mut child = self
            .child
            .take()
            .unwrap_or_else(|| panic!("the server does not run"));
        let pid = nix::unistd::Pid::from_raw(child.id().cast_signed());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM)
            .unwrap_or_else(|error| panic!("the server cannot be stopped: {error}"));
        let end = Instant::now() + LIMIT;
        loop {
            match child.try_wait() {
                Ok(Some(status)) => return status,
                Ok(None) if Instant::now() < end => tokio::time::sleep(Duration::from_millis(10)).await,
                other => {
                    self.child = Some(child);
                    panic!("the server does not stop: {other:?}");
                }
            }
        }
    }

    /// Everything it has written to its standard streams, over all its starts.
    pub fn log(&self) -> String {
        let size = self.log.metadata().map_or(0, |meta| meta.len());
        let mut text = vec![0; size as usize];
        self.log
            .read_exact_at(&mut text, 0)
            .unwrap_or_else(|error| panic!("cannot read the log: {error}"));
        String::from_utf8_lossy(&text).into_owned()
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        self.kill_9();
        sweep_server(&self.data, self.engine.as_deref());
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let tail = &lines[lines.len().saturating_sub(LOG_LINES)..];
            eprintln!("--- log of the server\n{}\n---", tail.join("\n"));
        }
    }
}

fn read_json(path: &Path) -> Option<Value> {
    serde_json::from_str(&std::fs::read_to_string(path).ok()?).ok()
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name]
        .as_str()
        .unwrap_or_else(|| panic!("no {name} in {value}"))
}
