//! Runs.

use crate::ServerState;
use crate::auth::Auth;
use crate::error::ApiResult;
use axum::Json;
use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use ostler_contracts::{CancelReply, ErrorBody, LogLine, RunExplanation, RunView, SubmitRun};
use ostler_control::{LogReader, LogRecord, NewCommand};
use ostler_domain::{CommandSpec, ProjectId, RunId, RunKind, RunStatus, TaskId};
use ostler_store::{Cancelled, RunFilter};
use serde::Deserialize;
use std::convert::Infallible;
use std::time::Duration;

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
    responses(
        (status = 201, description = "Done", body = RunView),
        (status = 401, description = "Who asks is not known", body = ErrorBody),
        (status = 403, description = "The permission is missing", body = ErrorBody),
        (status = 404, description = "There is no such thing for this tenant", body = ErrorBody),
        (status = 400, description = "The request is not understood", body = ErrorBody),
        (status = 422, description = "It cannot be done as asked", body = ErrorBody),
    )
)]
pub(super) async fn submit(
    State(state): State<ServerState>,
    Auth(caller): Auth,
    body: Result<Json<SubmitRun>, JsonRejection>,
) -> ApiResult<(StatusCode, Json<RunView>)> {
    let Json(body) = body?;
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
    responses(
        (status = 200, description = "Done", body = Vec<RunView>),
        (status = 401, description = "Who asks is not known", body = ErrorBody),
        (status = 403, description = "The permission is missing", body = ErrorBody),
        (status = 404, description = "There is no such thing for this tenant", body = ErrorBody),
        (status = 400, description = "The request is not understood", body = ErrorBody),
    )
)]
pub(super) async fn list(
    State(state): State<ServerState>,
    Auth(caller): Auth,
    query: Result<Query<RunQuery>, QueryRejection>,
) -> ApiResult<Json<Vec<RunView>>> {
    let Query(query) = query?;
    let filter = RunFilter {
        project_id: query.project,
        task_id: query.task,
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
    responses(
        (status = 200, description = "Done", body = RunView),
        (status = 401, description = "Who asks is not known", body = ErrorBody),
        (status = 403, description = "The permission is missing", body = ErrorBody),
        (status = 404, description = "There is no such thing for this tenant", body = ErrorBody),
    )
)]
pub(super) async fn get(
    State(state): State<ServerState>,
    Auth(caller): Auth,
    path: Result<Path<RunId>, PathRejection>,
) -> ApiResult<Json<RunView>> {
    let Path(id) = path?;
    Ok(Json(state.control.run(&caller, id).await?.into()))
}

/// Requests the end of a run.
#[utoipa::path(post, path = "/runs/{id}/cancel", tag = "runs", params(("id" = String, Path, description = "Id")),
    responses(
        (status = 200, description = "Done", body = CancelReply),
        (status = 401, description = "Who asks is not known", body = ErrorBody),
        (status = 403, description = "The permission is missing", body = ErrorBody),
        (status = 404, description = "There is no such thing for this tenant", body = ErrorBody),
    )
)]
pub(super) async fn cancel(
    State(state): State<ServerState>,
    Auth(caller): Auth,
    path: Result<Path<RunId>, PathRejection>,
) -> ApiResult<Json<CancelReply>> {
    let Path(id) = path?;
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
    responses(
        (status = 200, description = "Done", body = RunExplanation),
        (status = 401, description = "Who asks is not known", body = ErrorBody),
        (status = 403, description = "The permission is missing", body = ErrorBody),
        (status = 404, description = "There is no such thing for this tenant", body = ErrorBody),
    )
)]
pub(super) async fn explain(
    State(state): State<ServerState>,
    Auth(caller): Auth,
    path: Result<Path<RunId>, PathRejection>,
) -> ApiResult<Json<RunExplanation>> {
    let Path(id) = path?;
    Ok(Json(state.control.explain_run(&caller, id).await?))
}

/// The log of a run: as JSON lines, or followed as server-sent events whose ids are the numbers of the pieces.
#[utoipa::path(get, path = "/runs/{id}/logs", tag = "runs", params(("id" = String, Path, description = "Id"), LogQuery),
    responses(
        (status = 200, description = "Done", body = LogLine),
        (status = 401, description = "Who asks is not known", body = ErrorBody),
        (status = 403, description = "The permission is missing", body = ErrorBody),
        (status = 404, description = "There is no such thing for this tenant", body = ErrorBody),
        (status = 400, description = "The request is not understood", body = ErrorBody),
    )
)]
pub(super) async fn logs(
    State(state): State<ServerState>,
    Auth(caller): Auth,
    path: Result<Path<RunId>, PathRejection>,
    query: Result<Query<LogQuery>, QueryRejection>,
    headers: HeaderMap,
) -> ApiResult<Response> {
    let (Path(id), Query(mut query)) = (path?, query?);
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
    let lines = async_stream::stream! {
        let Some(mut reader) = reader else { return };
        while let Some((batch, back)) = next_batch(reader).await {
            reader = back;
            if batch.is_empty() {
                return;
            }
            for record in batch.into_iter().filter(|record| record.seq > query.after) {
                let mut text = serde_json::to_string(&line(&record, query.base64)).unwrap_or_default();
                text.push('\n');
                yield Ok::<_, Infallible>(text);
            }
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
        loop {
            // Before reading: a run that had ended by then has its whole log written.
            let ended = match state.control.store().run(id).await {
                Ok(Some(run)) => run.status.is_terminal().then_some(run.status),
                Ok(None) | Err(_) => None,
            };
            let mut watch = state.logs.watch(id);
            if let Some(watch) = &mut watch {
                watch.mark_unchanged();
            }
            if reader.is_none() {
                reader = state.logs.reader(id).ok().flatten();
            }
            while let Some(open) = reader.take() {
                let Some((batch, back)) = next_batch(open).await else { return };
                reader = Some(back);
                if batch.is_empty() {
                    break;
                }
                for record in batch.into_iter().filter(|record| record.seq > query.after) {
                    let seq = record.seq;
                    if let Ok(event) = Event::default().id(seq.to_string()).event("log").json_data(line(&record, query.base64)) {
                        yield Ok(event);
                    }
                }
            }
            if let Some(status) = ended {
                yield Ok(Event::default().event("end").data(status.as_str()));
                return;
            }
            match &mut watch {
                Some(watch) => drop(tokio::time::timeout(LOOK_AGAIN, watch.changed()).await),
                None => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    }
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

/// Output as the interface has it.
pub(super) fn text(bytes: &[u8], base64: bool) -> String {
    if base64 {
        base64::engine::general_purpose::STANDARD.encode(bytes)
    } else {
        String::from_utf8_lossy(bytes).into_owned()
    }
}
