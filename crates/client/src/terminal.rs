//! Terminals in agents, over WebSocket.
//!
//! The connection is made like any other request, so that it has the same sign-in, the same certificates and the same
//! errors; only then it is upgraded.

use crate::{Client, ClientError};
use base64::Engine;
use bytes::Bytes;
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use ostler_contracts::{TerminalNews, TerminalOrder};
use ostler_domain::SandboxId;
use reqwest::header::{
    CONNECTION, HeaderMap, HeaderValue, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use reqwest::{Method, StatusCode, Upgraded};
use std::time::Duration;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;

/// The server says something at least every 20 s.
const SILENCE: Duration = Duration::from_secs(65);
/// For the first message.
const FIRST: Duration = Duration::from_secs(15);

/// Which terminal is wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TerminalQuery {
    /// Program and arguments; the shell when empty.
    pub command: Vec<String>,
    /// Rows and columns; 24 and 80 when absent.
    pub size: Option<(u16, u16)>,
    /// Value of TERM.
    pub term: Option<String>,
    /// Working directory.
    pub cwd: Option<String>,
    /// Go back to this one, from a piece on, instead of opening one.
    pub back_to: Option<(String, u64)>,
}

/// A terminal that somebody is at. Dropping it leaves its program a minute for somebody to come back.
#[derive(Debug)]
pub struct Terminal {
    /// Id, to come back to it.
    pub exec_id: String,
    /// Number of the first piece that comes.
    pub next_seq: u64,
    /// What can be done at it.
    pub keyboard: Keyboard,
    /// What it shows.
    pub screen: Screen,
}

/// What can be done at a terminal.
#[derive(Debug)]
pub struct Keyboard {
    sink: SplitSink<WebSocketStream<Upgraded>, Message>,
    url: String,
}

/// What a terminal shows.
#[derive(Debug)]
pub struct Screen {
    source: SplitStream<WebSocketStream<Upgraded>>,
    url: String,
}

/// What comes from a terminal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shown {
    /// A piece; each is one number higher.
    Piece(Bytes),
    /// Something else.
    News(TerminalNews),
}

impl Keyboard {
    /// Types.
    ///
    /// # Errors
    ///
    /// When the connection is broken.
    pub async fn text(&mut self, text: Bytes) -> Result<(), ClientError> {
        self.send(Message::Binary(text)).await
    }

    /// Gives an order.
    ///
    /// # Errors
    ///
    /// When the connection is broken.
    pub async fn order(&mut self, order: &TerminalOrder) -> Result<(), ClientError> {
        let text = serde_json::to_string(order).map_err(|error| broken(&self.url, &error))?;
        self.send(Message::Text(text.into())).await
    }

    async fn send(&mut self, message: Message) -> Result<(), ClientError> {
        let sent = self.sink.send(message).await;
        sent.map_err(|error| broken(&self.url, &error))
    }
}

impl Screen {
    /// What comes next.
    ///
    /// # Errors
    ///
    /// When the connection breaks, or nothing is heard of the server for a minute: the terminal can be gone back to.
    pub async fn next(&mut self) -> Result<Shown, ClientError> {
        loop {
            let message = match tokio::time::timeout(SILENCE, self.source.next()).await {
                Ok(Some(Ok(message))) => message,
                Ok(Some(Err(error))) => return Err(broken(&self.url, &error)),
                Ok(None) => return Err(broken(&self.url, &"the server closed it")),
                Err(_) => return Err(broken(&self.url, &"the server is silent")),
            };
            match message {
                Message::Binary(bytes) => return Ok(Shown::Piece(bytes)),
                Message::Text(text) => {
                    let news = serde_json::from_str(&text).map_err(|error| ClientError::Foreign {
                        url: self.url.clone(),
                        reason: format!("a message of a terminal: {error}"),
                    })?;
                    return Ok(Shown::News(news));
                }
                Message::Close(_) => return Err(broken(&self.url, &"the server closed it")),
                _ => {}
            }
        }
    }
}

fn broken(url: &str, reason: &impl std::fmt::Display) -> ClientError {
    ClientError::Broken {
        url: url.to_owned(),
        reason: reason.to_string(),
    }
}

impl Client {
    /// Opens a terminal in an agent, or goes back to one.
    ///
    /// # Errors
    ///
    /// When the server cannot be reached or refuses.
    pub async fn terminal(&self, id: SandboxId, query: &TerminalQuery) -> Result<Terminal, ClientError> {
        let mut url = self.path(&["agents", &id.to_string(), "terminal"]);
        {
            let mut pairs = url.query_pairs_mut();
            if !query.command.is_empty() {
                pairs.append_pair("command", &serde_json::json!(query.command).to_string());
            }
            if let Some((rows, columns)) = query.size {
                pairs.append_pair("rows", &rows.to_string());
                pairs.append_pair("columns", &columns.to_string());
            }
            for (name, value) in [("term", &query.term), ("cwd", &query.cwd)] {
                if let Some(value) = value {
                    pairs.append_pair(name, value);
                }
            }
            if let Some((exec_id, from_seq)) = &query.back_to {
                pairs.append_pair("exec_id", exec_id);
                pairs.append_pair("from_seq", &from_seq.to_string());
            }
        }
        let mut headers = HeaderMap::new();
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        let key = base64::engine::general_purpose::STANDARD.encode(rand::random::<[u8; 16]>());
        if let Ok(key) = HeaderValue::from_str(&key) {
            headers.insert(SEC_WEBSOCKET_KEY, key);
        }
        let response = self.stream(Method::GET, &url, headers, None::<&()>).await?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(self.foreign(format!("status {} instead of a terminal", response.status())));
        }
        let upgraded = response
            .upgrade()
            .await
            .map_err(|error| broken(self.url(), &error))?;
        let socket = WebSocketStream::from_raw_socket(upgraded, Role::Client, None).await;
        let (sink, source) = socket.split();
        let mut screen = Screen {
            source,
            url: self.url().to_owned(),
        };
        let first = tokio::time::timeout(FIRST, screen.next()).await;
        match first.map_err(|_| broken(self.url(), &"the terminal says nothing"))?? {
            Shown::News(TerminalNews::Started { exec_id, next_seq }) => Ok(Terminal {
                exec_id,
                next_seq,
                keyboard: Keyboard {
                    sink,
                    url: self.url().to_owned(),
                },
                screen,
            }),
            _ => Err(self.foreign("a terminal began with something else".to_owned())),
        }
    }
}
