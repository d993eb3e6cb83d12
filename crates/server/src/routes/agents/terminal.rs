//! Terminals in agents, over WebSocket.

use crate::ServerState;
use crate::auth::Auth;
use crate::error::{ApiError, ApiResult};
use crate::extract::{InPath, InQuery};
use crate::refusals::{BadRequest, Conflict, Denied, NotFound, Unprocessable};
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade, close_code};
use axum::extract::{FromRequestParts, State};
use axum::http::header::{AUTHORIZATION, SEC_WEBSOCKET_PROTOCOL};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue};
use axum::response::Response;
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use ostler_contracts::{ErrorBody, ExecEnd, TerminalNews, TerminalOrder};
use ostler_control::{AgentOutput, AgentTerminal, Caller, ControlError, Keyboard, LogStream, NewTerminal};
use ostler_domain::SandboxId;
use serde::Deserialize;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

/// The protocol of the messages, which a client may name.
const PROTOCOL: &str = "ostler.terminal";
/// What comes before the token where a client can send no header: web pages. A URL would end up in logs.
const TOKEN: &str = "ostler.token.";
/// Largest message from a client.
const MAX_MESSAGE: usize = 256 * 1024;
/// How often a client is asked whether it is there; one that does not answer twice is gone.
const PING: Duration = Duration::from_secs(20);
/// A terminal at which nothing was typed or shown for so long is closed.
const IDLE: Duration = Duration::from_secs(4 * 3600);
/// For a message to be taken; a client that takes longer is gone.
const SEND: Duration = Duration::from_secs(60);
/// Answers to a client that wait to be sent.
const ANSWERS: usize = 8;

/// The terminal.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(default, deny_unknown_fields)]
pub(in crate::routes) struct TerminalQuery {
    /// Program and arguments as a JSON array of texts; the shell when absent.
    command: Option<String>,
    /// Rows; 24 when absent.
    rows: u32,
    /// Columns; 80 when absent.
    columns: u32,
    /// Value of TERM; `xterm-256color` when absent.
    term: Option<String>,
    /// Working directory; the workspace when absent.
    cwd: Option<String>,
    /// Go back to this terminal instead of opening one.
    exec_id: Option<String>,
    /// First piece wanted of it; 1 when absent.
    from_seq: Option<u64>,
}

/// The caller, also when the token comes in the name of a protocol.
pub(in crate::routes) struct PageAuth(Caller);

impl FromRequestParts<ServerState> for PageAuth {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &ServerState) -> Result<Self, ApiError> {
        if !parts.headers.contains_key(AUTHORIZATION)
            && let Some(token) = shown_token(&parts.headers)
            && let Ok(mut value) = HeaderValue::from_str(&format!("Bearer {token}"))
        {
            value.set_sensitive(true);
            parts.headers.insert(AUTHORIZATION, value);
        }
        let Auth(caller) = <Auth as FromRequestParts<ServerState>>::from_request_parts(parts, state).await?;
        Ok(Self(caller))
    }
}

fn shown_token(headers: &HeaderMap) -> Option<String> {
    headers
        .get_all(SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .find_map(|protocol| protocol.trim().strip_prefix(TOKEN).map(str::to_owned))
}

/// A terminal over WebSocket, with a program or the shell in it. Binary messages are what is typed and what is shown;
/// text messages are a TerminalOrder from the client and a TerminalNews from the server, which ends with `exit` and closes.
/// A client that is cut off has a minute to come back, with `exec_id` and `from_seq`; after that the program is hung up.
/// A web page, which cannot send a header, names the protocols `ostler.terminal` and `ostler.token.TOKEN`.
#[utoipa::path(get, path = "/agents/{id}/terminal", tag = "agents",
    params(("id" = String, Path, description = "Id"), TerminalQuery),
    responses(
        (status = 101, description = "Switches to WebSocket; see TerminalOrder and TerminalNews"),
        (status = 426, description = "This is not a WebSocket request", body = ErrorBody),
        (status = 503, description = "The agent does not answer", body = ErrorBody),
        Denied, BadRequest, NotFound, Conflict, Unprocessable,
    )
)]
pub(in crate::routes) async fn terminal(
    State(state): State<ServerState>,
    PageAuth(caller): PageAuth,
    InPath(id): InPath<SandboxId>,
    InQuery(query): InQuery<TerminalQuery>,
    upgrade: Result<WebSocketUpgrade, axum::extract::ws::rejection::WebSocketUpgradeRejection>,
) -> ApiResult<Response> {
    // Who may not is told so before what a terminal needs.
    state.control.agent(&caller, id).await?;
    let upgrade = upgrade.map_err(|rejection| {
        ControlError::Invalid(format!(
            "a terminal needs a WebSocket request ({}); `ostler agent shell` makes one",
            rejection.body_text()
        ))
    })?;
    let terminal = match &query.exec_id {
        Some(exec_id) => {
            let from_seq = query.from_seq.unwrap_or(1);
            state
                .control
                .attach_terminal(&caller, id, exec_id, from_seq)
                .await?
        }
        None => state.control.open_terminal(&caller, id, wanted(query)?).await?,
    };
    Ok(upgrade
        .protocols([PROTOCOL])
        .max_message_size(MAX_MESSAGE)
        .on_upgrade(|socket| serve(socket, terminal)))
}

fn wanted(query: TerminalQuery) -> Result<NewTerminal, ControlError> {
    let command = match query.command.as_deref() {
        None | Some("") => Vec::new(),
        Some(text) => serde_json::from_str(text).map_err(|error| {
            ControlError::Invalid(format!("`command` must be a JSON array of texts: {error}"))
        })?,
    };
    Ok(NewTerminal {
        command,
        cwd: query.cwd,
        rows: query.rows,
        columns: query.columns,
        term: query.term,
        ..NewTerminal::default()
    })
}

/// Why a terminal is closed while its program goes on.
enum Closed {
    /// The client is gone.
    Gone,
    /// The client is told.
    Because(String),
}

/// Carries a terminal until its program has ended or the client has gone; then the program has its time for another.
async fn serve(socket: WebSocket, mut terminal: AgentTerminal) {
    let (mut sink, source) = socket.split();
    let started = TerminalNews::Started {
        exec_id: terminal.exec_id.clone(),
        next_seq: terminal.next_seq,
    };
    if tell(&mut sink, &started).await.is_err() {
        return;
    }
    let (answers, answered) = mpsc::channel(ANSWERS);
    let (typed, typing) = watch::channel(Instant::now());
    let keyboard = terminal.keyboard();
    let outcome = tokio::select! {
        shown = show(&mut sink, &mut terminal, answered, typing) => shown,
        closed = obey(source, keyboard, answers, typed) => Err(closed),
    };
    let frame = match outcome {
        Ok(end) => {
            let _ = tell(&mut sink, &TerminalNews::Exit(end)).await;
            close_code::NORMAL
        }
        Err(Closed::Because(reason)) => {
            let _ = tell(&mut sink, &TerminalNews::Closed { reason }).await;
            close_code::POLICY
        }
        Err(Closed::Gone) => return,
    };
    let close = CloseFrame {
        code: frame,
        reason: "".into(),
    };
    let _ = tokio::time::timeout(SEND, sink.send(Message::Close(Some(close)))).await;
}

type Sink = SplitSink<WebSocket, Message>;

async fn send(sink: &mut Sink, message: Message) -> Result<(), Closed> {
    match tokio::time::timeout(SEND, sink.send(message)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) | Err(_) => Err(Closed::Gone),
    }
}

async fn tell(sink: &mut Sink, news: &TerminalNews) -> Result<(), Closed> {
    let text = serde_json::to_string(news).map_err(|error| Closed::Because(error.to_string()))?;
    send(sink, Message::Text(text.into())).await
}

/// Sends what the program shows, to its end. A client that does not keep up holds up this, and not the program.
async fn show(
    sink: &mut Sink,
    terminal: &mut AgentTerminal,
    mut answers: mpsc::Receiver<Message>,
    typing: watch::Receiver<Instant>,
) -> Result<ExecEnd, Closed> {
    let mut ping = tokio::time::interval(PING);
    ping.reset();
    let mut shown = Instant::now();
    loop {
        tokio::select! {
            item = terminal.output.recv() => match item {
                Some(AgentOutput::Piece { seq, stream: LogStream::Ostler, .. }) => {
                    tell(sink, &TerminalNews::Dropped { up_to: seq }).await?;
                }
                Some(AgentOutput::Piece { bytes, .. }) => {
                    shown = Instant::now();
                    send(sink, Message::Binary(bytes)).await?;
                }
                Some(AgentOutput::Ended(end)) => return Ok(end),
                None => return Err(Closed::Because("the server is being stopped".into())),
            },
            Some(answer) = answers.recv() => send(sink, answer).await?,
            _ = ping.tick() => {
                let last = shown.max(*typing.borrow());
                if last.elapsed() > IDLE {
                    let hours = IDLE.as_secs() / 3600;
                    return Err(Closed::Because(format!("nothing happened for {hours} hours")));
                }
                send(sink, Message::Ping(axum::body::Bytes::new())).await?;
            }
        }
    }
}

/// Does what the client says, until it is gone.
async fn obey(
    mut source: SplitStream<WebSocket>,
    keyboard: Keyboard,
    answers: mpsc::Sender<Message>,
    typed: watch::Sender<Instant>,
) -> Closed {
    loop {
        // Whoever is there answers each ping.
        let Ok(Some(Ok(message))) = tokio::time::timeout(PING * 3, source.next()).await else {
            return Closed::Gone;
        };
        let done = match message {
            Message::Binary(text) => {
                typed.send_replace(Instant::now());
                keyboard.text(text).await;
                Ok(())
            }
            Message::Text(text) => match serde_json::from_str(&text) {
                Ok(order) => act(&keyboard, order).await,
                Err(error) => return Closed::Because(format!("a message is not understood: {error}")),
            },
            Message::Ping(data) => {
                let _ = answers.try_send(Message::Pong(data));
                Ok(())
            }
            Message::Pong(_) => Ok(()),
            Message::Close(_) => return Closed::Gone,
        };
        match done {
            Ok(()) => {}
            Err(error @ ControlError::Invalid(_)) => return Closed::Because(error.to_string()),
            // The program may just have ended, which is told in its place.
            Err(error) => tracing::debug!(%error, "an order to a terminal was not carried out"),
        }
    }
}

async fn act(keyboard: &Keyboard, order: TerminalOrder) -> Result<(), ControlError> {
    match order {
        TerminalOrder::Resize { rows, columns } => keyboard.resize(rows, columns).await,
        TerminalOrder::Signal(name) => keyboard.signal(&name).await,
        TerminalOrder::EndOfInput {} => {
            keyboard.end_of_input().await;
            Ok(())
        }
        TerminalOrder::HangUp {} => keyboard.hang_up().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_found_among_protocols() {
        let mut headers = HeaderMap::new();
        assert_eq!(shown_token(&headers), None);
        headers.append(
            SEC_WEBSOCKET_PROTOCOL,
            HeaderValue::from_static("ostler.terminal"),
        );
        assert_eq!(shown_token(&headers), None);
        headers.append(
            SEC_WEBSOCKET_PROTOCOL,
            HeaderValue::from_static("x, ostler.token.abc"),
        );
        assert_eq!(shown_token(&headers).as_deref(), Some("abc"));
    }

    #[test]
    fn a_command_is_a_list() {
        let of = |command: &str| {
            wanted(TerminalQuery {
                command: Some(command.to_owned()),
                ..TerminalQuery::default()
            })
        };
        assert_eq!(of(r#"["a","b c"]"#).unwrap().command, ["a", "b c"]);
        assert!(of("").unwrap().command.is_empty());
        assert!(of("a b").is_err() && of("{}").is_err());
    }
}
