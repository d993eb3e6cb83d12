//! Files that tests left: the list, and their contents for downloads.
//!
//! Contents were made by whatever ran in a sandbox, so that no browser may show them as a page of this server: they come
//! as attachments, with the type that their name tells and nothing guessed.

use crate::ServerState;
use crate::auth::Auth;
use crate::error::{ApiError, ApiResult};
use crate::extract::{InPath, InQuery};
use crate::refusals::{BadRequest, Denied, NotFound, Unavailable};
use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_LOCATION, CONTENT_RANGE,
    CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, IF_NONE_MATCH, IF_RANGE, RANGE, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, StatusCode, response};
use axum::response::Response;
use futures::StreamExt;
use ostler_artifacts::content_type;
use ostler_contracts::{ArtifactView, ErrorCode};
use ostler_domain::{Artifact, RunId};
use serde::Deserialize;
use std::fmt::Write;
use std::ops::Range;

/// Which artifacts are wanted.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct ArtifactQuery {
    /// Only those whose path comes after this one: for the next page, the last path of the one before.
    after: Option<String>,
    /// At most this many; 1000 when absent, at most 10000.
    limit: Option<u32>,
}

/// The files that a run left, in the order of their paths.
#[utoipa::path(get, path = "/runs/{id}/artifacts", tag = "tests",
    params(("id" = String, Path, description = "Id"), ArtifactQuery),
    responses((status = 200, description = "Done", body = Vec<ArtifactView>), Denied, BadRequest, NotFound)
)]
pub(super) async fn list(
    State(state): State<ServerState>,
    Auth(caller): Auth,
    InPath(id): InPath<RunId>,
    InQuery(query): InQuery<ArtifactQuery>,
) -> ApiResult<Json<Vec<ArtifactView>>> {
    let limit = query.limit.unwrap_or(1000);
    let found = state.control.artifacts(&caller, id, query.after, limit).await?;
    Ok(Json(found.into_iter().map(ArtifactView::from).collect()))
}

/// The content of a file that a run left. Takes `Range`, `If-Range` and `If-None-Match`; the `ETag` is the SHA-256 of the
/// content.
#[utoipa::path(get, path = "/runs/{id}/artifacts/{*path}", tag = "tests",
    params(("id" = String, Path, description = "Id"), ("path" = String, Path, description = "Path, with its slashes")),
    responses(
        (status = 200, description = "Done", body = Vec<u8>, content_type = "application/octet-stream"),
        (status = 206, description = "The part", body = Vec<u8>, content_type = "application/octet-stream"),
        (status = 304, description = "The caller has it"),
        (status = 416, description = "The range begins behind its end"),
        Denied, NotFound, Unavailable,
    )
)]
pub(super) async fn read(
    State(state): State<ServerState>,
    Auth(caller): Auth,
    InPath((id, path)): InPath<(RunId, String)>,
    headers: HeaderMap,
) -> ApiResult<Response> {
    let artifact = state.control.artifact(&caller, id, &path).await?;
    send(&state, artifact, &headers).await
}

/// The content of a file of this path that the latest run of a test left that left one. `Content-Location` tells which run
/// that is.
#[utoipa::path(get, path = "/tests/{key}/artifacts/latest/{*path}", tag = "tests",
    params(
        ("key" = String, Path, description = "Key of the test"),
        ("path" = String, Path, description = "Path, with its slashes"),
    ),
    responses(
        (status = 200, description = "Done", body = Vec<u8>, content_type = "application/octet-stream"),
        (status = 206, description = "The part", body = Vec<u8>, content_type = "application/octet-stream"),
        (status = 304, description = "The caller has it"),
        (status = 416, description = "The range begins behind its end"),
        Denied, NotFound, Unavailable,
    )
)]
pub(super) async fn latest(
    State(state): State<ServerState>,
    Auth(caller): Auth,
    InPath((key, path)): InPath<(String, String)>,
    headers: HeaderMap,
) -> ApiResult<Response> {
    let artifact = state.control.latest_artifact(&caller, &key, &path).await?;
    send(&state, artifact, &headers).await
}

async fn send(state: &ServerState, artifact: Artifact, headers: &HeaderMap) -> ApiResult<Response> {
    let header = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let tag = format!("\"{}\"", artifact.sha256);
    let size = u64::try_from(artifact.bytes).unwrap_or(0);
    let name = artifact.path.rsplit('/').next().unwrap_or_default();
    let location = format!(
        "/api/v1/runs/{}/artifacts/{}",
        artifact.run_id,
        escaped(&artifact.path, "/")
    );
    let answer = Response::builder()
        .header(ETAG, &tag)
        .header(ACCEPT_RANGES, "bytes")
        .header(CACHE_CONTROL, "private, no-cache")
        .header(CONTENT_LOCATION, location)
        .header(X_CONTENT_TYPE_OPTIONS, "nosniff")
        .header(CONTENT_SECURITY_POLICY, "default-src 'none'; sandbox");
    if header(IF_NONE_MATCH).is_some_and(|tags| tags.trim() == "*" || has_tag(tags, &tag)) {
        return finish(answer.status(StatusCode::NOT_MODIFIED), Body::empty());
    }
    let wanted = match header(RANGE) {
        Some(range) if header(IF_RANGE).is_none_or(|known| known == tag) => wanted(range, size),
        _ => Wanted::All,
    };
    let (answer, range) = match wanted {
        Wanted::All => (answer.header(CONTENT_LENGTH, size), None),
        Wanted::Part(part) => {
            let answer = answer
                .status(StatusCode::PARTIAL_CONTENT)
                .header(CONTENT_LENGTH, part.end - part.start)
                .header(
                    CONTENT_RANGE,
                    format!("bytes {}-{}/{size}", part.start, part.end - 1),
                );
            (answer, Some(part))
        }
        Wanted::Nothing => {
            let answer = answer
                .status(StatusCode::RANGE_NOT_SATISFIABLE)
                .header(CONTENT_RANGE, format!("bytes */{size}"));
            return finish(answer, Body::empty());
        }
    };
    let content = state.control.artifact_content(&artifact, range).await?;
    let place = artifact.object.clone();
    let content = content.inspect(move |piece| {
        if let Err(error) = piece {
            tracing::warn!(%error, %place, "the download of an artifact broke off");
        }
    });
    let disposition = format!("attachment; filename*=UTF-8''{}", escaped(name, ""));
    let answer = answer
        .header(CONTENT_TYPE, content_type(&artifact.path))
        .header(CONTENT_DISPOSITION, disposition);
    finish(answer, Body::from_stream(content))
}

fn finish(answer: response::Builder, body: Body) -> ApiResult<Response> {
    let answer = answer.body(body);
    answer.map_err(|error| ApiError::new(ErrorCode::Internal, error.to_string()))
}

/// Whether a tag is in a list of tags; weak ones count, since contents are compared byte by byte.
fn has_tag(list: &str, tag: &str) -> bool {
    list.split(',')
        .any(|one| one.trim().trim_start_matches("W/") == tag)
}

/// What of the content is wanted.
#[derive(Debug, PartialEq, Eq)]
enum Wanted {
    All,
    Part(Range<u64>),
    /// A range that begins behind the end.
    Nothing,
}

/// Understands one range (RFC 9110, 14.2). Several at once, and what is no range, are answered with everything, as it is
/// allowed.
fn wanted(header: &str, size: u64) -> Wanted {
    let Some((first, last)) = header
        .trim()
        .strip_prefix("bytes=")
        .and_then(|range| range.split_once('-'))
    else {
        return Wanted::All;
    };
    let number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        digits.then(|| text.parse().unwrap_or(u64::MAX))
    };
    let part = match (first.trim(), last.trim()) {
        ("", last) => match number(last) {
            Some(0) => return Wanted::Nothing,
            Some(last) => size.saturating_sub(last)..size,
            None => return Wanted::All,
        },
        (first, last) => match (
            number(first),
            last.is_empty().then_some(u64::MAX).or_else(|| number(last)),
        ) {
            (Some(first), Some(last)) if first <= last => first..last.saturating_add(1).min(size),
            _ => return Wanted::All,
        },
    };
    if part.start >= size {
        Wanted::Nothing
    } else {
        Wanted::Part(part)
    }
}

/// A text for an address or a header: all but letters, digits, `-._~` and the bytes of `kept` as `%XX`.
fn escaped(text: &str, kept: &str) -> String {
    text.bytes()
        .fold(String::with_capacity(text.len()), |mut all, byte| {
            if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) || kept.as_bytes().contains(&byte) {
                all.push(byte as char);
            } else {
                // Writing to a text cannot fail.
                let _ = write!(all, "%{byte:02X}");
            }
            all
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_understood() {
        use Wanted::{All, Nothing, Part};
        let cases = [
            ("bytes=0-0", Part(0..1)),
            ("bytes=2-5", Part(2..6)),
            ("bytes=2-", Part(2..10)),
            ("bytes=2-99999999999999999999999", Part(2..10)),
            ("bytes=-3", Part(7..10)),
            ("bytes=-30", Part(0..10)),
            ("bytes=9-9", Part(9..10)),
            ("bytes=10-", Nothing),
            ("bytes=10-11", Nothing),
            ("bytes=-0", Nothing),
            ("bytes=5-2", All),
            ("bytes=0-1,4-5", All),
            ("bytes=-", All),
            ("bytes=a-b", All),
            ("bytes=+1-2", All),
            ("lines=0-1", All),
            ("", All),
        ];
        for (header, expected) in cases {
            assert_eq!(wanted(header, 10), expected, "{header}");
        }
        assert_eq!(wanted("bytes=0-", 0), Nothing);
        assert_eq!(wanted("bytes=-5", 0), Nothing);
    }

    #[test]
    fn names_stay_within_their_header() {
        assert_eq!(escaped("a\"b\r\n: ü.xml", ""), "a%22b%0D%0A%3A%20%C3%BC.xml");
        assert_eq!(escaped("a/b c", "/"), "a/b%20c");
    }

    #[test]
    fn tags_are_found_in_lists() {
        assert!(has_tag("W/\"x\", \"a\"", "\"a\"") && has_tag("W/\"a\"", "\"a\""));
        assert!(!has_tag("a", "\"a\""));
    }
}
