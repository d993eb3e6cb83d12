//! Images of sandboxes.

use crate::ServerState;
use crate::auth::Fleet;
use crate::error::ApiResult;
use crate::extract::{InBody, InPath, InQuery};
use crate::refusals::{BadRequest, Conflict, Denied, NotFound, Unavailable, Unprocessable};
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use ostler_contracts::{BuildImage, ExportRootDrive, ImageLog, ImageView, RootDriveView};
use serde::Deserialize;

/// Which part of a log is wanted.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(default, deny_unknown_fields)]
pub(super) struct LogQuery {
    /// Only what comes after this many bytes: the `next` of the last part.
    after: u64,
}

/// The images, newest first; before them those that are being built or could not be.
#[utoipa::path(get, path = "/images", tag = "fleet",
    responses((status = 200, description = "Done", body = Vec<ImageView>), Denied, Unavailable)
)]
pub(super) async fn list(
    State(state): State<ServerState>,
    Fleet(caller): Fleet,
) -> ApiResult<Json<Vec<ImageView>>> {
    Ok(Json(state.control.images(&caller).await?))
}

/// Builds an image; returns at once, with the one that is there if it is.
#[utoipa::path(post, path = "/images", tag = "fleet", request_body = BuildImage,
    responses(
        (status = 202, description = "It is being built, or is there", body = ImageView),
        Denied, BadRequest, Unprocessable, Unavailable,
    )
)]
pub(super) async fn build(
    State(state): State<ServerState>,
    Fleet(caller): Fleet,
    InBody(body): InBody<BuildImage>,
) -> ApiResult<(StatusCode, Json<ImageView>)> {
    let view = state.control.build_image(&caller, body).await?;
    Ok((StatusCode::ACCEPTED, Json(view)))
}

/// One image, by its hash or the beginning of it.
#[utoipa::path(get, path = "/images/{hash}", tag = "fleet",
    params(("hash" = String, Path, description = "Hash, or the beginning of it")),
    responses((status = 200, description = "Done", body = ImageView), Denied, BadRequest, NotFound, Unavailable)
)]
pub(super) async fn get(
    State(state): State<ServerState>,
    Fleet(caller): Fleet,
    InPath(hash): InPath<String>,
) -> ApiResult<Json<ImageView>> {
    Ok(Json(state.control.image(&caller, &hash).await?))
}

/// Removes an image, or ends its build. One that is in use stays.
#[utoipa::path(delete, path = "/images/{hash}", tag = "fleet",
    params(("hash" = String, Path, description = "Hash, or the beginning of it")),
    responses((status = 204, description = "Done"), Denied, BadRequest, NotFound, Conflict, Unavailable)
)]
pub(super) async fn remove(
    State(state): State<ServerState>,
    Fleet(caller): Fleet,
    InPath(hash): InPath<String>,
) -> ApiResult<StatusCode> {
    state.control.remove_image(&caller, &hash).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// A part of the log of the last build of an image at this server. To follow it, ask again for what comes after `next`
/// until it has ended.
#[utoipa::path(get, path = "/images/{hash}/log", tag = "fleet",
    params(("hash" = String, Path, description = "Hash, or the beginning of it"), LogQuery),
    responses((status = 200, description = "Done", body = ImageLog), Denied, BadRequest, NotFound, Unavailable)
)]
pub(super) async fn log(
    State(state): State<ServerState>,
    Fleet(caller): Fleet,
    InPath(hash): InPath<String>,
    InQuery(query): InQuery<LogQuery>,
) -> ApiResult<Json<ImageLog>> {
    Ok(Json(state.control.image_log(&caller, &hash, query.after).await?))
}

/// Writes the file system of an image as a root drive of virtual machines; returns at once. Asked again, it says how that
/// is doing.
#[utoipa::path(post, path = "/images/{hash}/root-drive", tag = "fleet", request_body = ExportRootDrive,
    params(("hash" = String, Path, description = "Hash, or the beginning of it")),
    responses(
        (status = 202, description = "It is being written, or is there", body = RootDriveView),
        Denied, BadRequest, NotFound, Conflict, Unavailable,
    )
)]
pub(super) async fn root_drive(
    State(state): State<ServerState>,
    Fleet(caller): Fleet,
    InPath(hash): InPath<String>,
    InBody(body): InBody<ExportRootDrive>,
) -> ApiResult<(StatusCode, Json<RootDriveView>)> {
    let view = state.control.export_image(&caller, &hash, body.size_mb).await?;
    Ok((StatusCode::ACCEPTED, Json(view)))
}
