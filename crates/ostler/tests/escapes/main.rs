//! Ways out of sandboxes, tried from within them, over the real server and each driver: the allowed ones are open, and all
//! others are closed, arrive nowhere, and are told to whoever holds the sandbox if they came as far as the filter.
//!
//! Also: a network policy of `none` closes all, and a server that is killed opens nothing.

#![allow(clippy::unwrap_used, reason = "test code")]

mod stage;

use ostler_test_kit::{DockerEngine, MachineParts, Part, TestServer};
use reqwest::{Client, Method};
use serde_json::{Value, json};
use stage::Stage;
use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(180);
const SCRIPT: &str = include_str!("ways_out.py");
/// As many ways at least are tried through the filter, and in all.
const WAYS: usize = 80;

/// One driver's sandboxes.
struct Scene {
    driver: &'static str,
    /// Whether sandboxes have an interface behind the packet filter.
    interface: bool,
    template: Value,
    engine: Option<DockerEngine>,
    /// Seconds that an attempt waits for an answer.
    limit: u32,
}

/// A server, and what the script is told.
struct World {
    stage: Stage,
    server: TestServer,
    scene: Scene,
    client: Client,
    _dir: tempfile::TempDir,
}

/// What the script says of one way.
#[derive(Debug, Clone)]
struct Way {
    name: String,
    allowed: bool,
    open: bool,
    logged: Option<String>,
    detail: String,
}

fn play(scene: Scene) {
    let stage = Stage::enter();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut world = World::start(stage, scene).await;
        world.all().await;
    });
}

impl World {
    async fn start(stage: Stage, scene: Scene) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut server = TestServer::new(env!("CARGO_BIN_EXE_ostler"), dir.path().join("data"))
            .env(
                "OSTLER_EGRESS__NAME_SERVERS",
                json!([format!("{}:53", stage::NAMES)]).to_string(),
            )
            .env("OSTLER_EGRESS__PUBLIC", r#"["192.0.2.0/24"]"#)
            .env("OSTLER_EGRESS__INTERFACES", scene.interface.to_string());
        for driver in ["process", "docker", "qemu", "firecracker"] {
            let used = driver == scene.driver;
            server = server.env(
                format!("OSTLER_DRIVERS__{}__ENABLED", driver.to_uppercase()),
                used.to_string(),
            );
        }
        if let Some(engine) = &scene.engine {
            server = server.engine(engine);
        }
        if scene.driver == "qemu" {
            let parts = MachineParts::find().unwrap();
            server = server
                .env("OSTLER_DRIVERS__QEMU__KERNEL", parts.kernel)
                .env("OSTLER_DRIVERS__QEMU__MODULES", parts.modules);
        }
        Self {
            stage,
            server: server.start().await,
            scene,
            client: Client::new(),
            _dir: dir,
        }
    }

    fn api_port(&self) -> u16 {
        self.server.url().rsplit(':').next().unwrap().parse().unwrap()
    }

    async fn pool(&self, name: &str, network: &str) {
        let mut template = self.scene.template.clone();
        template["driver"] = json!(self.scene.driver);
        template["network"] = json!(network);
        template["memory_mb"] = json!(512);
        if network == "filtered" {
            // One domain and one address; and what somebody who has a listed name could make of it.
            let domains = ["web.test", "rebind.test", "private.test", "flip.test"].map(str::to_owned);
            let domains = [&domains[..], &[format!("inside.test:{}", self.api_port())]].concat();
            template["egress"] =
                json!({ "domains": domains, "addresses": [format!("{}:5432", stage::DATABASE)] });
        }
        let body = json!({ "template": template, "target": 0, "max": 4 });
        let (status, answer) = self
            .server
            .call(Method::PUT, &format!("/pools/{name}"), Some(body))
            .await;
        assert!(status.is_success(), "{answer}");
    }

    async fn agent(&self, pool: &str) -> String {
        let agent = self.server.post("/agents", json!({ "pool": pool })).await;
        let id = agent["id"].as_str().or_else(|| agent["sandbox"]["id"].as_str());
        let id = id.unwrap_or_else(|| panic!("{agent}")).to_owned();
        let path = format!(
            "{}/api/v1/agents/{id}/files?path=/tmp/ways_out.py",
            self.server.url()
        );
        let sent = self
            .client
            .put(path)
            .bearer_auth(self.token())
            .body(SCRIPT)
            .send()
            .await
            .unwrap();
        assert!(sent.status().is_success(), "{}", sent.text().await.unwrap());
        id
    }

    fn token(&self) -> String {
        self.server.token.clone().unwrap()
    }

    /// What a program prints.
    async fn exec(&self, agent: &str, command: &[&str]) -> String {
        let body = json!({ "command": command, "timeout_seconds": 170, "grace_seconds": 600 });
        let path = format!("{}/api/v1/agents/{agent}/exec", self.server.url());
        let request = self.client.post(path).bearer_auth(self.token()).json(&body);
        let text = match request.send().await {
            Ok(answer) => answer.text().await.unwrap_or_default(),
            // A server that was killed.
            Err(error) => error.to_string(),
        };
        text.lines()
            .filter_map(|line| serde_json::from_str::<Value>(line.strip_prefix("data:")?.trim()).ok())
            .filter_map(|data| Some(data["text"].as_str()?.to_owned()))
            .collect()
    }

    fn told(&self, neighbour: Option<&str>, wait: u32, proxy: bool) -> String {
        let data = self.server.data();
        let mut sockets: Vec<String> = [
            "/var/run/docker.sock",
            "/run/docker.sock",
            "/run/containerd/containerd.sock",
        ]
        .map(str::to_owned)
        .into();
        sockets.extend(
            self.scene
                .engine
                .as_ref()
                .map(|engine| engine.url().replace("unix://", "")),
        );
        sockets.extend(sockets_below(data));
        json!({
            "limit": self.scene.limit, "wait": wait, "pause": 0.1, "result": "/tmp/ways_out.result",
            "interface": self.scene.interface, "proxy": proxy, "neighbour": neighbour, "sockets": sockets, "spoil": true,
            "web": stage::WEB, "evil": stage::EVIL, "database": stage::DATABASE, "names": stage::NAMES,
            "metadata": stage::METADATA, "host": stage::HOST, "six": stage::SIX,
            "api": self.api_port(), "service": stage::SERVICE,
        })
        .to_string()
    }

    /// Where nobody is to answer, nobody needs to be waited for.
    fn briefly(&self, wait: u32) -> String {
        let mut told: Value = serde_json::from_str(&self.told(None, wait, false)).unwrap();
        told["limit"] = json!(1);
        told["pause"] = json!(0.02);
        told["result"] = json!("/tmp/brief.result");
        told.to_string()
    }

    async fn try_all(&self, agent: &str, told: &str) -> Vec<Way> {
        let said = self.exec(agent, &["python3", "/tmp/ways_out.py", told]).await;
        ways(&said)
    }

    /// What the holder of an agent was told.
    async fn denials(&self, agent: &str) -> BTreeSet<String> {
        let command = tokio::process::Command::new(env!("CARGO_BIN_EXE_ostler"))
            .args(["agent", "events", agent])
            .env("OSTLER_SERVER", self.server.url())
            .env("OSTLER_TOKEN", self.token())
            .output();
        let output = command.await.unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines()
            .filter(|line| line.contains("agent.denied"))
            .map(str::to_owned)
            .collect()
    }

    async fn all(&mut self) {
        self.the_stage_is_real().await;
        self.pool("out", "filtered").await;
        self.pool("shut", "none").await;
        let agent = self.filtered().await;
        self.run().await;
        self.none().await;
        self.killed(agent).await;
        assert!(self.server.stop().await.success());
        let left = stage::sh("ip -o link show; nft list ruleset; ip netns list");
        assert!(!left.contains("ostler"), "{left}");
    }

    /// From the host itself the ways lead somewhere, so that a failure in a sandbox means something.
    async fn the_stage_is_real(&self) {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("ways_out.py");
        std::fs::write(&file, SCRIPT).unwrap();
        let mut told: Value = serde_json::from_str(&self.told(None, 0, false)).unwrap();
        told["limit"] = json!(1);
        told["pause"] = json!(0);
        told["interface"] = json!(true);
        told["result"] = json!(dir.path().join("result"));
        told["spoil"] = json!(false);
        let script = format!("exec timeout 60 /usr/bin/python3 {} '{told}'", file.display());
        let output = tokio::task::spawn_blocking(move || stage::sh(&script))
            .await
            .unwrap();
        let open: Vec<String> = ways(&output)
            .into_iter()
            .filter(|way| way.open)
            .map(|way| way.name)
            .collect();
        println!("open from the host itself: {open:?}");
        for name in [
            "TCP to an address",
            "IPv6",
            "the metadata service",
            "ICMP, raw",
            "a service on the host's loopback",
        ] {
            assert!(open.iter().any(|way| way == name), "{name}: {open:?}");
        }
        assert!(open.len() >= 25, "{open:?}");
        self.stage.forget();
    }

    async fn filtered(&self) -> String {
        // Where there are no interfaces, other sandboxes have no addresses.
        let address = if self.scene.interface {
            let neighbour = self.agent("out").await;
            Some(self.neighbour(&neighbour).await)
        } else {
            None
        };
        let agent = self.agent("out").await;
        self.stage.forget();
        let tried = self
            .try_all(&agent, &self.told(address.as_deref(), 0, true))
            .await;
        let (allowed, closed): (Vec<&Way>, Vec<&Way>) = tried.iter().partition(|way| way.allowed);
        let interface = if self.scene.interface {
            ", with an interface"
        } else {
            ""
        };
        println!(
            "{}{interface}: {} ways tried, {} allowed ones of which {} are open, {} others of which {} are open",
            self.scene.driver,
            tried.len(),
            allowed.len(),
            allowed.iter().filter(|way| way.open).count(),
            closed.len(),
            closed.iter().filter(|way| way.open).count(),
        );
        for way in &tried {
            println!(
                "  {} {}: {}",
                if way.open { "open  " } else { "closed" },
                way.name,
                way.detail
            );
        }
        assert!(closed.len() >= WAYS, "only {} ways were tried", closed.len());
        let wrong: Vec<&Way> = tried.iter().filter(|way| way.open != way.allowed).collect();
        assert!(wrong.is_empty(), "{wrong:#?}");
        let allowed = |to: &str, port: u16| {
            [
                (stage::WEB, 443),
                (stage::WEB, 80),
                (stage::DATABASE, 5432),
                (stage::NAMES, 53),
            ]
            .contains(&(to, port))
        };
        assert_eq!(self.stage.escaped(allowed), Vec::<String>::new());

        // What came to the filter is told, by the way it came.
        let end = Instant::now() + Duration::from_secs(10);
        loop {
            let told = self.denials(&agent).await;
            let silent: Vec<&Way> = closed
                .iter()
                .filter(|way| {
                    way.logged
                        .as_ref()
                        .is_some_and(|word| !told.iter().any(|line| line.contains(word.as_str())))
                })
                .copied()
                .collect();
            if silent.is_empty() {
                println!("  {} denials were told", told.len());
                break;
            }
            assert!(
                Instant::now() < end,
                "nothing is told of {silent:#?}; told was {told:#?}"
            );
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        assert!(self.server.log().contains("a sandbox was not let out"));
        agent
    }

    /// The address of another sandbox, in which somebody listens.
    async fn neighbour(&self, id: &str) -> String {
        let listen = "import socket,threading,time\n\
             s=socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); s.bind(('',7000)); s.listen()\n\
             u=socket.socket(socket.AF_INET,socket.SOCK_DGRAM); u.bind(('',7000))\n\
             def f():\n \
               while 1:\n  c,_=s.accept(); c.sendall(b'another sandbox sees you'); c.close()\n\
             def g():\n \
               while 1:\n  d,a=u.recvfrom(4096); u.sendto(b'another sandbox sees you',a)\n\
             threading.Thread(target=f,daemon=True).start(); threading.Thread(target=g,daemon=True).start()\n\
             time.sleep(160)";
        let body =
            json!({ "command": ["python3", "-c", listen], "timeout_seconds": 170, "grace_seconds": 600 });
        let path = format!("{}/api/v1/agents/{id}/exec", self.server.url());
        let request = self
            .client
            .post(path)
            .bearer_auth(self.token())
            .json(&body)
            .send();
        drop(request.await.unwrap());
        let said = self
            .exec(id, &["ip", "-4", "-o", "addr", "show", "dev", "eth0"])
            .await;
        let address = said.split_whitespace().skip_while(|word| *word != "inet").nth(1);
        let address = address.unwrap_or_else(|| panic!("no address in `{said}`"));
        address.split('/').next().unwrap().to_owned()
    }

    /// A run has the same ways, and what it was denied is told as its own.
    async fn run(&self) {
        if self.scene.driver == "qemu" {
            // It would boot one more machine for the same code.
            return;
        }
        let script = "import urllib.request as u\n\
            print(u.urlopen('http://web.test/', timeout=20).read())\n\
            try: print(u.urlopen('http://evil.test/', timeout=20).read())\n\
            except Exception as e: print('closed', e)";
        let body = json!({ "command": ["python3", "-c", script], "requirements": { "pool": "out" } });
        let run = self.server.post("/runs", body).await;
        let id = run["id"].as_str().unwrap();
        let over = |run: &Value| !run["finished_at"].is_null();
        let ended = self.server.until(&format!("/runs/{id}"), LIMIT, over).await;
        let log = self
            .server
            .call(Method::GET, &format!("/runs/{id}/logs"), None)
            .await
            .1
            .to_string();
        assert!(
            log.contains("outside sees") && log.contains("closed"),
            "{ended:#} {log}"
        );
        let events = format!("/events?subject={id}&follow=false&after=0");
        let told = self.server.call(Method::GET, &events, None).await.1.to_string();
        assert!(
            told.contains("run.denied") && told.contains("evil.test"),
            "{told}"
        );
    }

    async fn none(&self) {
        let agent = self.agent("shut").await;
        self.stage.forget();
        let tried = self.try_all(&agent, &self.briefly(0)).await;
        let open: Vec<&Way> = tried.iter().filter(|way| way.open).collect();
        println!(
            "{} without a network: {} ways tried, {} are open",
            self.scene.driver,
            tried.len(),
            open.len()
        );
        assert!(tried.len() >= WAYS && open.is_empty(), "{open:#?}");
        assert_eq!(self.stage.escaped(|_, _| false), Vec::<String>::new());
        self.server
            .call(Method::DELETE, &format!("/agents/{agent}"), None)
            .await;
    }

    /// With the server gone nothing is let through but what the packet filter itself lets through.
    async fn killed(&mut self, agent: String) {
        self.stage.forget();
        let told = self.briefly(2);
        let path = format!("{}/api/v1/agents/{agent}/exec", self.server.url());
        let body = json!({
            "command": ["python3", "/tmp/ways_out.py", told], "timeout_seconds": 170, "grace_seconds": 600,
        });
        let request = self.client.post(path).bearer_auth(self.token()).json(&body);
        let answer = request.send().await.unwrap();
        assert!(answer.status().is_success(), "{answer:?}");
        tokio::time::sleep(Duration::from_millis(500)).await;
        self.server.kill_9();
        drop(answer);
        // As long as the attempts take, and longer.
        let long = if self.scene.driver == "qemu" { 30 } else { 12 };
        tokio::time::sleep(Duration::from_secs(long)).await;
        let direct = self.scene.interface;
        let allowed = |to: &str, port: u16| direct && (to, port) == (stage::DATABASE, 5432);
        assert_eq!(self.stage.escaped(allowed), Vec::<String>::new());
        self.server.start_again().await;
        let end = Instant::now() + LIMIT;
        let tried = loop {
            let path = format!(
                "{}/api/v1/agents/{agent}/files?path=/tmp/brief.result",
                self.server.url()
            );
            let answer = self
                .client
                .get(path)
                .bearer_auth(self.token())
                .send()
                .await
                .unwrap();
            let (status, text) = (answer.status(), answer.text().await.unwrap());
            if status.is_success() {
                break ways(&text);
            }
            assert!(Instant::now() < end, "no result: {text}");
            tokio::time::sleep(Duration::from_millis(200)).await;
        };
        let direct = ["TCP to the address", "UDP to the address"];
        let open: Vec<&Way> = tried
            .iter()
            .filter(|way| way.open && !direct.contains(&way.name.as_str()))
            .collect();
        println!(
            "{} with a dead server: {} ways tried, {} are open",
            self.scene.driver,
            tried.len(),
            open.len()
        );
        assert!(tried.len() >= WAYS && open.is_empty(), "{open:#?}");
        // And then the way out is there again.
        let said = self.exec(&agent, &["python3", "-c", AGAIN]).await;
        assert!(said.contains("outside sees"), "{said}");
    }
}

/// Asks the proxy for the allowed domain.
const AGAIN: &str =
    "import urllib.request; print(urllib.request.urlopen('http://web.test/', timeout=20).read())";

fn ways(said: &str) -> Vec<Way> {
    let found = said
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let found: Vec<Way> = found
        .map(|way| Way {
            name: way["name"].as_str().unwrap().to_owned(),
            allowed: way["kind"] == "allowed",
            open: way["open"].as_bool().unwrap(),
            logged: way["logged"].as_str().map(str::to_owned),
            detail: way["detail"].as_str().unwrap_or_default().to_owned(),
        })
        .collect();
    assert!(!found.is_empty(), "the script says: {said}");
    found
}

/// Sockets of the server in its data directory.
fn sockets_below(dir: &Path) -> Vec<String> {
    use std::os::unix::fs::FileTypeExt;
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let Ok(kind) = entry.file_type() else { continue };
        if kind.is_dir() {
            found.extend(sockets_below(&entry.path()));
        } else if kind.is_socket() {
            found.push(entry.path().display().to_string());
        }
    }
    found
}

fn ready(parts: &[Part]) -> bool {
    ostler_test_kit::has(&[&[Part::HostNetwork], parts].concat())
}

#[test]
fn of_processes_behind_the_packet_filter() {
    if ready(&[Part::Bubblewrap]) {
        play(Scene {
            driver: "process",
            interface: true,
            template: json!({}),
            engine: None,
            limit: 2,
        });
    }
}

#[test]
fn of_processes_with_a_loopback() {
    if ready(&[Part::Bubblewrap]) {
        play(Scene {
            driver: "process",
            interface: false,
            template: json!({}),
            engine: None,
            limit: 2,
        });
    }
}

#[test]
fn of_containers() {
    if ready(&[Part::BaseImage]) {
        // Before this thread has another network: others share the engine.
        let engine = DockerEngine::start();
        play(Scene {
            driver: "docker",
            interface: false,
            template: json!({ "image": engine.base_image() }),
            engine: Some(engine),
            limit: 2,
        });
    }
}

#[test]
fn of_machines() {
    if ready(&[Part::Qemu]) {
        let parts = MachineParts::find().unwrap();
        play(Scene {
            driver: "qemu",
            interface: false,
            template: json!({ "root_drive": parts.root_drive }),
            engine: None,
            limit: 4,
        });
    }
}
