//! Agents: the sandboxes of a tenant.

pub(super) mod programs;
pub(super) mod terminal;

use crate::ServerState;
use crate::auth::Auth;
use crate::error::ApiResult;
use crate::extract::{InBody, InPath, InQuery};
use crate::refusals::{BadRequest, Conflict, Denied, NotFound, Unavailable, Unprocessable};
use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use ostler_contracts::{
    ClaimPhase, ConfigureAgent, ErrorBody, ProvisionAgent, ProvisionReply, SandboxView, SnapshotAgent,
    UploadedFile,
};
use ostler_control::{AgentUpload, ControlError, NewAgent};
use ostler_domain::SandboxId;
use serde::Deserialize;
use std::time::Instant;

/// Which file.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct FileQuery {
    /// Path in the sandbox, absolute or below the workspace.
    path: String,
    /// As a tar archive of what is in the directory.
    #[serde(default)]
    tar: bool,
}

/// Which file is written, and how.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct UploadQuery {
    /// Path in the sandbox, absolute or below the workspace; directories on the way are made.
    path: String,
    /// The content is a tar archive, to be unpacked in this directory.
    #[serde(default)]
    tar: bool,
    /// Permission bits as an octal number; 644 when absent.
    mode: Option<String>,
}

/// Gives the tenant a sandbox: a warm one of the pool if there is one, otherwise a new one, and says why. If the
/// connection is closed before the answer, the sandbox ends.
#[utoipa::path(post, path = "/agents", tag = "agents", request_body = ProvisionAgent,
    responses(
        (status = 201, description = "Done", body = ProvisionReply),
        (status = 422, description = "No pool satisfies the requirements; the message says of each why", body = ErrorBody),
        (status = 503, description = "The pool is full, or its sandboxes do not start", body = ErrorBody),
        Denied, BadRequest,
    )
)]
pub(super) async fn provision(
    State(state): State<ServerState>,
    Auth(caller): Auth,
    InBody(body): InBody<ProvisionAgent>,
) -> ApiResult<(StatusCode, Json<ProvisionReply>)> {
    let start = Instant::now();
    let new = NewAgent {
        department_id: body.department_id,
        pool: body.pool,
        requirements: body.requirements,
        config: body.config,
        tool_allowlist: body.tool_allowlist,
    };
    let claimed = state.control.provision_agent(&caller, new).await?;
    let reply = ProvisionReply {
        agent: claimed.sandbox.into(),
        warm: claimed.cold_reason.is_none(),
        cold_reason: claimed.cold_reason,
        phases: claimed
            .phases
            .into_iter()
            .map(|phase| ClaimPhase {
                name: phase.name.to_owned(),
                ms: phase.took.as_secs_f64() * 1000.0,
            })
            .collect(),
        ready_ms: start.elapsed().as_millis() as u64,
    };
    Ok((StatusCode::CREATED, Json(reply)))
}

/// The tenant's agents that are not gone, newest first.
#[utoipa::path(get, path = "/agents", tag = "agents",
    responses((status = 200, description = "Done", body = Vec<SandboxView>), Denied)
)]
pub(super) async fn list(
    State(state): State<ServerState>,
    Auth(caller): Auth,
) -> ApiResult<Json<Vec<SandboxView>>> {
    let agents = state.control.agents(&caller).await?;
    Ok(Json(agents.into_iter().map(Into::into).collect()))
}

/// One agent, also one that is gone.
#[utoipa::path(get, path = "/agents/{id}", tag = "agents", params(("id" = String, Path, description = "Id")),
    responses((status = 200, description = "Done", body = SandboxView), Denied, NotFound)
)]
pub(super) async fn get(
    State(state): State<ServerState>,
    Auth(caller): Auth,
    InPath(id): InPath<SandboxId>,
) -> ApiResult<Json<SandboxView>> {
    Ok(Json(state.control.agent(&caller, id).await?.into()))
}

/// Ends an agent with everything in it. Repeating it changes nothing; what could not be removed is tried again.
#[utoipa::path(delete, path = "/agents/{id}", tag = "agents", params(("id" = String, Path, description = "Id")),
    responses(
        (status = 204, description = "Done"),
        (status = 503, description = "Not everything of it could be removed; the message says what", body = ErrorBody),
        Denied, NotFound,
    )
)]
pub(super) async fn destroy(
    State(state): State<ServerState>,
    Auth(caller): Auth,
    InPath(id): InPath<SandboxId>,
) -> ApiResult<StatusCode> {
    state.control.destroy_agent(&caller, id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Changes the configuration or the list of commands of an agent, for programs started from now on.
#[utoipa::path(post, path = "/agents/{id}/configure", tag = "agents", request_body = ConfigureAgent,
    params(("id" = String, Path, description = "Id")),
    responses((status = 200, description = "Done", body = SandboxView), Denied, BadRequest, NotFound, Conflict)
)]
pub(super) async fn configure(
    State(state): State<ServerState>,
    Auth(caller): Auth,
    InPath(id): InPath<SandboxId>,
    InBody(body): InBody<ConfigureAgent>,
) -> ApiResult<Json<SandboxView>> {
    let agent = state
        .control
        .configure_agent(&caller, id, body.config, body.tool_allowlist)
        .await?;
    Ok(Json(agent.into()))
}

/// Keeps the state of an agent under a name, from which a pool can start. One that was given secrets is refused: they
/// would be in the snapshot.
#[utoipa::path(post, path = "/agents/{id}/snapshot", tag = "agents", request_body = SnapshotAgent,
    params(("id" = String, Path, description = "Id")),
    responses(
        (status = 204, description = "Done"),
        (status = 422, description = "Its driver cannot make snapshots", body = ErrorBody),
        Denied, BadRequest, NotFound, Conflict, Unavailable,
    )
)]
pub(super) async fn snapshot(
    State(state): State<ServerState>,
    Auth(caller): Auth,
    InPath(id): InPath<SandboxId>,
    InBody(body): InBody<SnapshotAgent>,
) -> ApiResult<StatusCode> {
    state.control.snapshot_agent(&caller, id, &body.name).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Freezes all programs of an agent, where its driver can. Nothing in it answers until it is resumed.
#[utoipa::path(post, path = "/agents/{id}/pause", tag = "agents", params(("id" = String, Path, description = "Id")),
    responses(
        (status = 204, description = "Done"),
        (status = 422, description = "Its driver cannot pause", body = ErrorBody),
        Denied, NotFound, Conflict, Unavailable,
    )
)]
pub(super) async fn pause(
    State(state): State<ServerState>,
    Auth(caller): Auth,
    InPath(id): InPath<SandboxId>,
) -> ApiResult<StatusCode> {
    state.control.pause_agent(&caller, id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Lets the programs of a paused agent go on.
#[utoipa::path(post, path = "/agents/{id}/resume", tag = "agents", params(("id" = String, Path, description = "Id")),
    responses(
        (status = 204, description = "Done"),
        (status = 422, description = "Its driver cannot pause", body = ErrorBody),
        Denied, NotFound, Conflict, Unavailable,
    )
)]
pub(super) async fn resume(
    State(state): State<ServerState>,
    Auth(caller): Auth,
    InPath(id): InPath<SandboxId>,
) -> ApiResult<StatusCode> {
    state.control.resume_agent(&caller, id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Writes a file in an agent, whole or not at all, or unpacks an archive there. It may take as long as it likes, but not stand still for a minute.
#[utoipa::path(put, path = "/agents/{id}/files", tag = "agents",
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    params(("id" = String, Path, description = "Id"), UploadQuery),
    responses(
        (status = 200, description = "Done", body = UploadedFile),
        (status = 413, description = "The file is larger than allowed", body = ErrorBody),
        (status = 503, description = "The agent does not answer", body = ErrorBody),
        Denied, BadRequest, NotFound, Conflict, Unprocessable,
    )
)]
pub(super) async fn upload(
    State(state): State<ServerState>,
    Auth(caller): Auth,
    InPath(id): InPath<SandboxId>,
    InQuery(query): InQuery<UploadQuery>,
    body: Body,
) -> ApiResult<Json<UploadedFile>> {
    let mode = query.mode.as_deref().unwrap_or("0");
    let mode = u32::from_str_radix(mode, 8).map_err(|_| {
        ControlError::Invalid(format!("`mode` must be an octal number like 644, not `{mode}`"))
    })?;
    let to = AgentUpload {
        path: &query.path,
        tar: query.tar,
        mode,
        limit: state.settings.upload_limit,
    };
    let content = body.into_data_stream();
    let bytes = state.control.upload_to_agent(&caller, id, to, content).await?;
    Ok(Json(UploadedFile { bytes }))
}

/// Reads a file of an agent, or all of a directory.
#[utoipa::path(get, path = "/agents/{id}/files", tag = "agents",
    params(("id" = String, Path, description = "Id"), FileQuery),
    responses(
        (status = 200, description = "Done", body = Vec<u8>, content_type = "application/octet-stream"),
        (status = 404, description = "There is no such agent for this tenant, or no such file in it", body = ErrorBody),
        (status = 503, description = "The agent does not answer", body = ErrorBody),
        Denied, BadRequest, Conflict, Unprocessable,
    )
)]
pub(super) async fn download(
    State(state): State<ServerState>,
    Auth(caller): Auth,
    InPath(id): InPath<SandboxId>,
    InQuery(query): InQuery<FileQuery>,
) -> ApiResult<Response> {
    let mut file = state
        .control
        .download_from_agent(&caller, id, &query.path, query.tar)
        .await?;
    let pieces = async_stream::stream! {
        while let Some(piece) = file.next().await {
            if let Err(error) = &piece {
                tracing::warn!(%error, "a download broke off");
            }
            yield piece as Result<Bytes, ControlError>;
        }
    };
    let kind = (CONTENT_TYPE, "application/octet-stream");
    Ok(([kind], Body::from_stream(pieces)).into_response())
}
