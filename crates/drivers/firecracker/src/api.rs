//! The client of Firecracker's API: HTTP with JSON over a unix socket, one connection per request.
//!
//! Every request has a deadline, and what Firecracker refuses is told in its own words.

use crate::error::Error;
use bytes::Bytes;
use http::{Method, Request, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Most of an answer that is read, bytes.
const ANSWER: usize = 1 << 20;

/// The API of one virtual machine.
#[derive(Debug, Clone)]
pub(crate) struct Api {
    socket: PathBuf,
    limit: Duration,
}

/// What Firecracker says of itself and its machine.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Instance {
    /// `Not started`, `Running` or `Paused`.
    pub(crate) state: String,
    pub(crate) vmm_version: String,
}

impl Instance {
    pub(crate) fn paused(&self) -> bool {
        self.state == "Paused"
    }
}

impl Api {
    /// The API at a socket. `limit` is for each request that has no limit of its own.
    pub(crate) fn new(socket: &Path, limit: Duration) -> Self {
        Self {
            socket: socket.to_owned(),
            limit,
        }
    }

    /// The same with another limit.
    pub(crate) fn within(&self, limit: Duration) -> Self {
        Self::new(&self.socket, limit)
    }

    pub(crate) async fn instance(&self) -> Result<Instance, Error> {
        let answer = self.request(Method::GET, "/", None).await?;
        serde_json::from_value(answer).map_err(|e| Error::Broken {
            method: "GET",
            path: "/".into(),
            why: format!("its answer cannot be read: {e}"),
        })
    }

    pub(crate) async fn put(&self, path: &str, body: Value) -> Result<(), Error> {
        self.request(Method::PUT, path, Some(body)).await.map(|_| ())
    }

    pub(crate) async fn patch(&self, path: &str, body: Value) -> Result<(), Error> {
        self.request(Method::PATCH, path, Some(body)).await.map(|_| ())
    }

    /// `Paused` or `Resumed`; asking for what is there already does nothing.
    pub(crate) async fn set_state(&self, state: &str) -> Result<(), Error> {
        self.patch("/vm", serde_json::json!({ "state": state })).await
    }

    pub(crate) async fn action(&self, kind: &str) -> Result<(), Error> {
        self.put("/actions", serde_json::json!({ "action_type": kind }))
            .await
    }

    async fn request(&self, method: Method, path: &str, body: Option<Value>) -> Result<Value, Error> {
        let name = match method {
            Method::PUT => "PUT",
            Method::PATCH => "PATCH",
            _ => "GET",
        };
        match tokio::time::timeout(self.limit, self.exchange(method, path, body)).await {
            Err(_) => Err(Error::Silent {
                method: name,
                path: path.to_owned(),
                limit: self.limit,
            }),
            Ok(Err(why)) => Err(Error::Broken {
                method: name,
                path: path.to_owned(),
                why,
            }),
            Ok(Ok((status, answer))) if (200..300).contains(&status) => {
                if answer.is_empty() {
                    return Ok(Value::Null);
                }
                serde_json::from_slice(&answer).map_err(|e| Error::Broken {
                    method: name,
                    path: path.to_owned(),
                    why: format!("its answer is no JSON: {e}"),
                })
            }
            Ok(Ok((status, answer))) => Err(Error::Refused {
                method: name,
                path: path.to_owned(),
                status,
                fault: fault(&answer),
            }),
        }
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> Result<(u16, Bytes), String> {
        let text = |e: &dyn std::error::Error| e.to_string();
        let stream = ostler_sandbox::connect_socket(&self.socket)
            .await
            .map_err(|e| text(&e))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|e| text(&e))?;
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "localhost")
            .header(header::ACCEPT, "application/json");
        if body.is_some() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        let bytes = body.map_or_else(Bytes::new, |b| Bytes::from(b.to_string()));
        let request = request.body(Full::new(bytes)).map_err(|e| text(&e))?;
        // The connection lives in this future and not in a task: given up, it is gone.
        let work = async {
            let answer = sender.send_request(request).await.map_err(|e| text(&e))?;
            let status = answer.status().as_u16();
            let body = Limited::new(answer.into_body(), ANSWER)
                .collect()
                .await
                .map_err(|e| e.to_string())?;
            Ok((status, body.to_bytes()))
        };
        tokio::pin!(work, connection);
        tokio::select! {
            done = &mut work => done,
            ended = &mut connection => match ended {
                // What was read before the end may be the whole answer.
                Ok(()) => work.await,
                Err(e) => Err(text(&e)),
            },
        }
    }
}

/// The `fault_message` of an error, or whatever came instead.
fn fault(answer: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Fault {
        fault_message: String,
    }
    match serde_json::from_slice::<Fault>(answer) {
        Ok(fault) => fault.fault_message,
        Err(_) if answer.is_empty() => "it gave no reason".to_owned(),
        Err(_) => String::from_utf8_lossy(answer).chars().take(500).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_quoted_whatever_its_form() {
        assert_eq!(fault(br#"{"fault_message":"no such drive"}"#), "no such drive");
        assert_eq!(fault(b""), "it gave no reason");
        assert_eq!(fault(b"<html>"), "<html>");
        assert_eq!(fault(br#"{"error":1}"#), r#"{"error":1}"#);
    }
}
