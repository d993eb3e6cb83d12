//! Runs.

use crate::ServerState;
use crate::auth::Auth;
use crate::error::ApiResult;
use crate::extract::{InBody, InPath, InQuery};
use crate::refusals::{BadRequest, Denied, NotFound, Unprocessable};
use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use ostler_contracts::{CancelReply, LogLine, RunExplanation, RunView, SubmitRun};
use ostler_control::{LogReader, LogRecord, LogStream, NewCommand};
use ostler_domain::{Clock, CommandSpec, PlanId, ProjectId, RunId, RunKind, RunStatus, SystemClock, TaskId};
use ostler_store::{Cancelled, RunFilter};
use serde::Deserialize;
use std::convert::Infallible;
use std::time::Duration;
use tokio::sync::watch;

/// How often a follower looks again, in case a hint was lost.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Which runs are wanted.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct RunQuery {
    /// Only of this project.
    #[param(value_type = Option<String>)]
    project: Option<ProjectId>,
    /// Only of this task.
    #[param(value_type = Option<String>)]
    task: Option<TaskId>,
    /// Only of this plan of tests.
    #[param(value_type = Option<String>)]
    plan: Option<PlanId>,
    /// Only of this kind.
    #[param(value_type = Option<String>)]
    kind: Option<RunKind>,
    /// Only in this state.
    #[param(value_type = Option<String>)]
    status: Option<RunStatus>,
    /// At most this many; 50 when absent, at most 1000.
    limit: Option<u32>,
}

/// How a log is wanted.
#[derive(Debug, Clone, Copy, Default, Deserialize, utoipa::IntoParams)]
#[serde(default, deny_unknown_fields)]
pub(super) struct LogQuery {
    /// As server-sent events, until the run has ended. Otherwise what there is now, as JSON lines.
    follow: bool,
    /// Only pieces after this number.
    after: u64,
    /// Exact bytes in base 64 instead of text.
    base64: bool,
}

/// Submits a command as a run.
#[utoipa::path(post, path = "/runs", tag = "runs", request_body = SubmitRun,
    responses((status = 201, description = "Done", body = RunView), Denied, BadRequest, NotFound, Unprocessable)
)]
pub(super) async fn submit(
    State(state): State<ServerState>,
    Auth(caller): Auth,
    InBody(body): InBody<SubmitRun>,
) -> ApiResult<(StatusCode, Json<RunView>)> {
    let new = NewCommand {
        command: CommandSpec {
            argv: body.command,
            env: body.env,
            cwd: body.cwd,
            stdin: body.stdin,
        },
        requirements: body.requirements,
        priority: body.priority,
        timeout: body.timeout_seconds.map(Duration::from_secs),
    };
    Ok((
        StatusCode::CREATED,
        Json(state.control.submit_run(&caller, new).await?.into()),
    ))
}

/// Runs, newest first.
#[utoipa::path(get, path = "/runs", tag = "runs", params(RunQuery),
    responses((status = 200, description = "Done", body = Vec<RunView>), Denied, BadRequest, NotFound)
)]
pub(super) async fn list(
    State(state): State<ServerState>,
    Auth(caller): Auth,
    InQuery(query): InQuery<RunQuery>,
) -> ApiResult<Json<Vec<RunView>>> {
    let filter = RunFilter {
        project_id: query.project,
        task_id: query.task,
        plan_id: query.plan,
        kind: query.kind,
        status: query.status,
        limit: query.limit.unwrap_or(50),
        ..RunFilter::default()
    };
    let runs = state.control.runs(&caller, filter).await?;
    Ok(Json(runs.into_iter().map(Into::into).collect()))
}

/// One run.
#[utoipa::path(get, path = "/runs/{id}", tag = "runs", params(("id" = String, Path, description = "Id")),
    responses((status = 200, description = "Done", body = RunView), Denied, NotFound)
)]
pub(super) async fn get(
    State(state): State<ServerState>,
    Auth(caller): Auth,
    InPath(id): InPath<RunId>,
) -> ApiResult<Json<RunView>> {
    Ok(Json(state.control.run(&caller, id).await?.into()))
}

/// Requests the end of a run.
#[utoipa::path(post, path = "/runs/{id}/cancel", tag = "runs", params(("id" = String, Path, description = "Id")),
    responses((status = 200, description = "Done", body = CancelReply), Denied, NotFound)
)]
pub(super) async fn cancel(
    State(state): State<ServerState>,
    Auth(caller): Auth,
    InPath(id): InPath<RunId>,
) -> ApiResult<Json<CancelReply>> {
    let outcome = match state.control.cancel_run(&caller, id).await? {
        Cancelled::AtOnce => "cancelled",
        Cancelled::Requested => "requested",
        Cancelled::TooLate | Cancelled::Unknown => "too_late",
    };
    Ok(Json(CancelReply {
        outcome: outcome.to_owned(),
    }))
}

/// Why a run is where it is.
#[utoipa::path(get, path = "/runs/{id}/explain", tag = "runs", params(("id" = String, Path, description = "Id")),
    responses((status = 200, description = "Done", body = RunExplanation), Denied, NotFound)
)]
pub(super) async fn explain(
    State(state): State<ServerState>,
    Auth(caller): Auth,
    InPath(id): InPath<RunId>,
) -> ApiResult<Json<RunExplanation>> {
    Ok(Json(state.control.explain_run(&caller, id).await?))
}

/// The log of a run: as JSON lines, or followed as server-sent events whose ids are the numbers of the pieces.
#[utoipa::path(get, path = "/runs/{id}/logs", tag = "runs", params(("id" = String, Path, description = "Id"), LogQuery),
    responses((status = 200, description = "Done", body = LogLine), Denied, BadRequest, NotFound)
)]
pub(super) async fn logs(
    State(state): State<ServerState>,
    Auth(caller): Auth,
    InPath(id): InPath<RunId>,
    InQuery(mut query): InQuery<LogQuery>,
    headers: HeaderMap,
) -> ApiResult<Response> {
    let last = headers
        .get("last-event-id")
        .and_then(|value| value.to_str().ok())
        .and_then(|id| id.parse().ok());
    query.after = last.unwrap_or(query.after);
    let reader = state.control.run_log(&caller, id).await?;
    if query.follow {
        let events = follow(state, id, query);
        return Ok(Sse::new(events).keep_alive(KeepAlive::default()).into_response());
    }
    let elsewhere = state
        .control
        .log_elsewhere(&state.control.run(&caller, id).await?);
    let lines = async_stream::stream! {
        let mut last = query.after;
        let json = |line: &LogLine| {
            let mut text = serde_json::to_string(line).unwrap_or_default();
            text.push('\n');
            Ok::<_, Infallible>(text)
        };
        let mut rest = reader;
        while let Some(open) = rest.take() {
            let Some((batch, back)) = next_batch(open).await else { return };
            if !batch.is_empty() {
                rest = Some(back);
            }
            for record in batch.into_iter().filter(|record| record.seq > query.after) {
                last = record.seq;
                yield json(&line(&record, query.base64));
            }
        }
        if let Some(said) = elsewhere {
            yield json(&note(last, &said, query.base64));
        }
    };
    let body = axum::body::Body::from_stream(lines);
    Ok(([("content-type", "application/x-ndjson")], body).into_response())
}

/// Reads on without holding up others; `None` when the file cannot be read.
async fn next_batch(mut reader: LogReader) -> Option<(Vec<LogRecord>, LogReader)> {
    let read = tokio::task::spawn_blocking(move || reader.next_batch().map(|batch| (batch, reader))).await;
    match read {
        Ok(Ok(found)) => Some(found),
        Ok(Err(error)) => {
            tracing::warn!(%error, "a log cannot be read on");
            None
        }
        Err(_) => None,
    }
}

fn follow(
    state: ServerState,
    id: RunId,
    query: LogQuery,
) -> impl futures::Stream<Item = Result<Event, Infallible>> {
    async_stream::stream! {
        let mut reader = None;
        let (mut last, mut elsewhere) = (query.after, None);
        loop {
            // Before reading: a run that had ended by then has its whole log written.
            let run = state.control.store().run(id).await.ok().flatten();
            let ended = run.as_ref().map(|run| run.status).filter(|status| status.is_terminal());
            let mut watch = state.logs.watch(id);
            if let Some(watch) = &mut watch {
                watch.mark_unchanged();
            }
            if reader.is_none() {
                reader = state.logs.reader(id).ok().flatten();
            }
            // Nothing was written yet.
            if reader.is_none()
                && let Some(watch) = &mut watch
                && grows(watch).await
            {
                continue;
            }
            while let Some(open) = reader.take() {
                let Some((batch, back)) = next_batch(open).await else { return };
                reader = Some(back);
                if batch.is_empty() {
                    // As long as the log grows, the state of the run need not be asked for.
                    let grown = match &mut watch {
                        Some(watch) => grows(watch).await,
                        None => false,
                    };
                    if grown {
                        continue;
                    }
                    break;
                }
                for record in batch.into_iter().filter(|record| record.seq > query.after) {
                    last = record.seq;
                    if let Ok(event) = Event::default().id(last.to_string()).event("log").json_data(line(&record, query.base64)) {
                        yield Ok(event);
                    }
                }
            }
            let said = run.and_then(|run| state.control.log_elsewhere(&run));
            if let Some(said) = said.filter(|said| elsewhere.as_ref() != Some(said)) {
                // Without an id: it is no piece of the log here, which may still go on.
                if let Ok(event) = Event::default().event("log").json_data(note(last, &said, query.base64)) {
                    yield Ok(event);
                }
                elsewhere = Some(said);
            }
            if let Some(status) = ended {
                yield Ok(Event::default().event("end").data(status.as_str()));
                return;
            }
            match &mut watch {
                // What had an end, or grew while the file was not there yet.
                Some(watch) => drop(tokio::time::timeout(LOOK_AGAIN, watch.changed()).await),
                None if elsewhere.is_some() => tokio::time::sleep(LOOK_AGAIN).await,
                None => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    }
}

/// Waits for a log that is being written. False when it has ended, or grew no more for a while.
async fn grows(watch: &mut watch::Receiver<u64>) -> bool {
    let grown = tokio::time::timeout(LOOK_AGAIN, watch.changed()).await;
    matches!(grown, Ok(Ok(())))
}

fn line(record: &LogRecord, base64: bool) -> LogLine {
    LogLine {
        seq: record.seq,
        at: record.at.into(),
        stream: record.stream.as_str().to_owned(),
        text: text(&record.bytes, base64),
        base64,
    }
}

/// A sentence that is in no log, after the piece with the number `seq`.
fn note(seq: u64, said: &str, base64: bool) -> LogLine {
    LogLine {
        seq,
        at: SystemClock.now().into(),
        stream: LogStream::Ostler.as_str().to_owned(),
        text: text(format!("{said}\n").as_bytes(), base64),
        base64,
    }
}

/// Output as the interface has it.
pub(super) fn text(bytes: &[u8], base64: bool) -> String {
    if base64 {
        base64::engine::general_purpose::STANDARD.encode(bytes)
    } else {
        String::from_utf8_lossy(bytes).into_owned()
    }
}
