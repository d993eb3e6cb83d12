//! The API: which request is allowed when, and what it does.

use crate::machine::{Config, Drive, Machine};
use crate::{Whim, schema};
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde_json::{Map, Value, json};
use std::io::Write;
use std::sync::{Arc, Mutex};
use tokio::net::UnixListener;

struct Server {
    id: String,
    whim: Whim,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    config: Config,
    /// Whether anything was configured, after which no snapshot can be loaded.
    configured: bool,
    machine: Option<Machine>,
}

const BEFORE: &str = "the operation is not supported before starting the machine";
const AFTER: &str = "the operation is not supported after starting the machine";

pub(crate) async fn serve(id: String, socket: &str, whim: Whim) -> Result<(), String> {
    schema::inside(socket)?;
    let listener = UnixListener::bind(socket).map_err(|e| format!("{socket}: {e}"))?;
    let server = Arc::new(Server {
        id,
        whim,
        state: Mutex::default(),
    });
    loop {
        let (stream, _) = listener.accept().await.map_err(|e| e.to_string())?;
        let server = server.clone();
        tokio::spawn(async move {
            let service = hyper::service::service_fn(|request| answer(server.clone(), request));
            // Clients may break off.
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

async fn answer(server: Arc<Server>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, String> {
    let (method, path) = (request.method().to_string(), request.uri().path().to_owned());
    let length = request.headers().contains_key(http::header::CONTENT_LENGTH);
    let body = request
        .into_body()
        .collect()
        .await
        .map_err(|e| e.to_string())?
        .to_bytes();
    let text = String::from_utf8_lossy(&body).into_owned();
    note(&format!("{method} {path} {text}"))?;
    let hit = |part: &str| format!("{path} {text}").contains(part);
    match &server.whim {
        Whim::Hangs(part) if hit(part) => std::future::pending::<()>().await,
        Whim::Refuses(part) if hit(part) => return fault("refused by this test"),
        Whim::Babbles(part) if hit(part) => return reply(500, "<html>it broke".into()),
        Whim::Breaks(part) if hit(part) => {
            println!("panicked, says this test");
            std::process::exit(139);
        }
        _ => {}
    }
    if method == "GET" {
        if !body.is_empty() {
            return fault("a GET with a body");
        }
        return match path.as_str() {
            "/" => reply(200, server.describe().to_string()),
            "/version" => reply(
                200,
                json!({ "firecracker_version": server.whim.version() }).to_string(),
            ),
            _ => fault(&format!("invalid request: GET {path}")),
        };
    }
    if !length {
        return fault("a body without a length");
    }
    let Some(fields) = schema::fields(&method, &path) else {
        return fault(&format!("invalid request: {method} {path}"));
    };
    let Ok(Value::Object(body)) = serde_json::from_str(&text) else {
        return fault("the body is not a JSON object");
    };
    let done = match schema::check(&body, &fields) {
        Ok(()) => server.act(&path, &body),
        Err(why) => Err(why),
    };
    match done {
        Ok(()) => reply(204, String::new()),
        Err(why) => {
            let fatal = path == "/snapshot/load";
            if fatal {
                println!("cannot load: {why}");
                // The answer is sent, then the process ends.
                tokio::spawn(async {
                    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                    std::process::exit(1);
                });
            }
            fault(&why)
        }
    }
}

/// For tests that look at the order of calls.
fn note(line: &str) -> Result<(), String> {
    let mut file = std::fs::OpenOptions::new()
        .append(true)
        .create(true)
        .open("requests")
        .map_err(|e| e.to_string())?;
    writeln!(file, "{line}").map_err(|e| e.to_string())
}

fn fault(why: &str) -> Result<Response<Full<Bytes>>, String> {
    reply(400, json!({ "fault_message": why }).to_string())
}

fn reply(status: u16, body: String) -> Result<Response<Full<Bytes>>, String> {
    let status = StatusCode::from_u16(status).map_err(|e| e.to_string())?;
    Response::builder()
        .status(status)
        .header(http::header::CONTENT_TYPE, "application/json")
        .body(Full::new(Bytes::from(body)))
        .map_err(|e| e.to_string())
}

impl Server {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn describe(&self) -> Value {
        let state = match &self.state().machine {
            None => "Not started",
            Some(machine) if machine.paused() => "Paused",
            Some(_) => "Running",
        };
        json!({ "app_name": "Firecracker", "id": self.id, "state": state, "vmm_version": self.whim.version() })
    }

    fn act(&self, path: &str, body: &Map<String, Value>) -> Result<(), String> {
        let text = |name: &str| {
            body.get(name)
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned()
        };
        let number = |name: &str| body.get(name).and_then(Value::as_u64).unwrap_or_default();
        let flag = |name: &str| body.get(name).and_then(Value::as_bool).unwrap_or_default();
        let mut state = self.state();
        let started = state.machine.is_some();
        match path {
            "/vm" => {
                let machine = state.machine.as_ref().ok_or(BEFORE)?;
                machine.pause(text("state") == "Paused");
                return Ok(());
            }
            "/snapshot/create" => {
                let machine = state.machine.as_ref().ok_or(BEFORE)?;
                if !machine.paused() {
                    return Err("the machine must be paused for a snapshot".to_owned());
                }
                if body.contains_key("snapshot_type") && text("snapshot_type") != "Full" {
                    return Err("these tests know full snapshots only".to_owned());
                }
                return state.config.write(&text("snapshot_path"), &text("mem_file_path"));
            }
            "/actions" => {
                return match text("action_type").as_str() {
                    "InstanceStart" if started => Err(AFTER.to_owned()),
                    "InstanceStart" => {
                        state.machine = Some(Machine::boot(&self.id, &mut state.config, &self.whim)?);
                        Ok(())
                    }
                    "SendCtrlAltDel" => {
                        let machine = state.machine.as_ref().ok_or(BEFORE)?;
                        if self.whim != Whim::Stubborn {
                            machine.end();
                        }
                        Ok(())
                    }
                    other => Err(format!("{other} is of no use here")),
                };
            }
            _ if started => return Err(AFTER.to_owned()),
            "/snapshot/load" => {
                if state.configured {
                    return Err("a snapshot is loaded before anything is configured".to_owned());
                }
                let backend = body
                    .get("mem_backend")
                    .and_then(Value::as_object)
                    .ok_or("no backend")?;
                let known: Vec<schema::Field> = vec![
                    ("backend_type", schema::Kind::Word(&["File"]), true),
                    ("backend_path", schema::Kind::Text, true),
                ];
                schema::check(backend, &known)?;
                let memory = backend
                    .get("backend_path")
                    .and_then(Value::as_str)
                    .unwrap_or_default();
                state.config = Config::read(&text("snapshot_path"), memory)?;
                let machine = Machine::boot(&self.id, &mut state.config, &self.whim)?;
                machine.pause(!flag("resume_vm"));
                state.machine = Some(machine);
                return Ok(());
            }
            _ => {}
        }
        state.configured = true;
        match path {
            "/machine-config" => {
                state.config.memory_mb = number("mem_size_mib");
                state.config.cpus = number("vcpu_count");
            }
            "/boot-source" => {
                schema::openable(&text("kernel_image_path"), false)?;
                if body.contains_key("initrd_path") {
                    schema::openable(&text("initrd_path"), false)?;
                    state.config.initrd = Some(text("initrd_path"));
                }
                state.config.arguments = Some(text("boot_args"));
            }
            "/vsock" => {
                schema::inside(&text("uds_path"))?;
                state.config.vsock = Some(text("uds_path"));
            }
            _ if path.starts_with("/drives/") => {
                if path != format!("/drives/{}", text("drive_id")) {
                    return Err("the drive has two names".to_owned());
                }
                let drive = Drive {
                    path: text("path_on_host"),
                    root: flag("is_root_device"),
                    writable: !flag("is_read_only"),
                };
                schema::openable(&drive.path, drive.writable)?;
                if drive.root && state.config.drives.iter().any(|d| d.root) {
                    return Err("a root drive is there already".to_owned());
                }
                state.config.drives.push(drive);
            }
            _ => return Err(format!("{path} is of no use here")),
        }
        Ok(())
    }
}
