//! Programs in agents, and their output.

use crate::ServerState;
use crate::auth::Auth;
use crate::error::ApiResult;
use crate::extract::{InBody, InPath, InQuery};
use crate::refusals::{BadRequest, Conflict, Denied, NotFound, Unprocessable};
use crate::routes::runs::text;
use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use ostler_contracts::{ErrorBody, ExecAgent, ExecStarted, ExecView, LogLine};
use ostler_control::{AgentCommand, AgentOutput, AgentProgram};
use ostler_domain::{CommandSpec, SandboxId};
use serde::Deserialize;
use std::convert::Infallible;
use std::time::Duration;

/// Where to begin.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
pub(in crate::routes) struct ReadQuery {
    /// First piece wanted; 1 when absent.
    from_seq: Option<u64>,
    /// Wait for what it still writes; true when absent. Otherwise the stream ends after the present last piece.
    follow: Option<bool>,
    /// Output as the exact bytes in base 64 instead of text.
    base64: Option<bool>,
}

/// Executes a program. The answer is a stream of server-sent events: `started` with an ExecStarted, `output` with a
/// LogLine each, whose id is its number, and at last one `exit` with an ExecEnd. Whoever closes the connection ends the
/// program with all of its children, unless `grace_seconds` leaves it time for a reader to come back with
/// `GET /agents/{id}/execs/{exec_id}`; so does the time-out. What has to go on by itself is a run.
#[utoipa::path(post, path = "/agents/{id}/exec", tag = "agents", request_body = ExecAgent,
    params(("id" = String, Path, description = "Id")),
    responses(
        (status = 200, description = "It was started", body = LogLine, content_type = "text/event-stream"),
        (status = 503, description = "The agent does not answer", body = ErrorBody),
        Denied, BadRequest, NotFound, Conflict, Unprocessable,
    )
)]
pub(in crate::routes) async fn exec(
    State(state): State<ServerState>,
    Auth(caller): Auth,
    InPath(id): InPath<SandboxId>,
    InBody(body): InBody<ExecAgent>,
) -> ApiResult<Response> {
    let base64 = body.base64;
    let new = AgentCommand {
        command: CommandSpec {
            argv: body.command,
            env: body.env,
            cwd: body.cwd,
            stdin: body.stdin,
        },
        timeout: body.timeout_seconds.map(Duration::from_secs),
        grace: Duration::from_secs(body.grace_seconds),
    };
    let program = state.control.exec_agent(&caller, id, new).await?;
    Ok(stream(program, base64, None))
}

/// The programs that run in an agent, and the last 16 that ended; the newest first.
#[utoipa::path(get, path = "/agents/{id}/execs", tag = "agents",
    params(("id" = String, Path, description = "Id")),
    responses(
        (status = 200, description = "Done", body = Vec<ExecView>),
        (status = 503, description = "The agent does not answer", body = ErrorBody),
        Denied, NotFound, Conflict,
    )
)]
pub(in crate::routes) async fn list(
    State(state): State<ServerState>,
    Auth(caller): Auth,
    InPath(id): InPath<SandboxId>,
) -> ApiResult<Json<Vec<ExecView>>> {
    Ok(Json(state.control.agent_programs(&caller, id).await?))
}

/// Reads the output of a program, also of one that has ended: the same stream as that of `exec`, from any piece on.
/// `Last-Event-ID` takes up again after one. As long as somebody reads it, a program goes on.
#[utoipa::path(get, path = "/agents/{id}/execs/{exec_id}", tag = "agents",
    params(
        ("id" = String, Path, description = "Id"), ("exec_id" = String, Path, description = "Id of the program"),
        ReadQuery
    ),
    responses(
        (status = 200, description = "Done", body = LogLine, content_type = "text/event-stream"),
        (status = 503, description = "The agent does not answer", body = ErrorBody),
        Denied, BadRequest, NotFound, Conflict,
    )
)]
pub(in crate::routes) async fn read(
    State(state): State<ServerState>,
    Auth(caller): Auth,
    InPath((id, exec_id)): InPath<(SandboxId, String)>,
    InQuery(query): InQuery<ReadQuery>,
    headers: HeaderMap,
) -> ApiResult<Response> {
    let after = headers
        .get("last-event-id")
        .and_then(|value| value.to_str().ok())
        .and_then(|id| id.parse::<u64>().ok());
    let from_seq = after.map_or(query.from_seq.unwrap_or(1), |after| after.saturating_add(1));
    let last = if query.follow.unwrap_or(true) {
        None
    } else {
        let programs = state.control.agent_programs(&caller, id).await?;
        let known = programs.into_iter().find(|program| program.exec_id == exec_id);
        // That of one that has ended is followed to its end.
        known
            .filter(|program| program.running)
            .map(|program| program.last_seq)
    };
    let program = state
        .control
        .read_agent_program(&caller, id, &exec_id, from_seq)
        .await?;
    if last.is_some_and(|last| from_seq > last) {
        let nothing = futures::stream::empty::<Result<Event, Infallible>>();
        return Ok(Sse::new(nothing).into_response());
    }
    Ok(stream(program, query.base64.unwrap_or(false), last))
}

/// Ends a program with all of its children. One that has ended stays as it is, with its output.
#[utoipa::path(delete, path = "/agents/{id}/execs/{exec_id}", tag = "agents",
    params(("id" = String, Path, description = "Id"), ("exec_id" = String, Path, description = "Id of the program")),
    responses(
        (status = 204, description = "Done"),
        (status = 503, description = "The agent does not answer", body = ErrorBody),
        Denied, NotFound, Conflict,
    )
)]
pub(in crate::routes) async fn end(
    State(state): State<ServerState>,
    Auth(caller): Auth,
    InPath((id, exec_id)): InPath<(SandboxId, String)>,
) -> ApiResult<StatusCode> {
    state.control.end_agent_program(&caller, id, &exec_id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The output as events, to the end or to a last piece.
fn stream(mut program: AgentProgram, base64: bool, last: Option<u64>) -> Response {
    let events = async_stream::stream! {
        let started = ExecStarted { exec_id: program.exec_id.clone() };
        if let Ok(event) = Event::default().event("started").json_data(started) {
            yield Ok::<_, Infallible>(event);
        }
        while let Some(item) = program.output.recv().await {
            let mut over = false;
            let event = match item {
                AgentOutput::Piece { seq, at, stream, bytes } => {
                    over = last.is_some_and(|last| seq >= last);
                    let line = LogLine {
                        seq,
                        at: at.into(),
                        stream: stream.as_str().to_owned(),
                        text: text(&bytes, base64),
                        base64,
                    };
                    Event::default().id(seq.to_string()).event("output").json_data(line)
                }
                AgentOutput::Ended(end) => Event::default().event("exit").json_data(end),
            };
            if let Ok(event) = event {
                yield Ok::<_, Infallible>(event);
            }
            if over {
                return;
            }
        }
    };
    Sse::new(events).keep_alive(KeepAlive::default()).into_response()
}
