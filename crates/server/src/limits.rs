//! What holds for every request: its id, its time, and errors in our form where a layer answers instead of a handler.

use crate::error::{ApiError, REQUEST_ID};
use crate::{ServerState, routes};
use axum::body::{Body, HttpBody};
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderName, HeaderValue, Method};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures::Stream;
use ostler_contracts::ErrorCode;
use ostler_store::RequestScope;
use std::pin::Pin;
use std::time::{Duration, Instant};

const REQUEST_ID_HEADER: HeaderName = HeaderName::from_static("x-request-id");

/// Gives the request its id (the caller's own, if it is a sane one), limits its time to the first byte, keeps it to what is
/// its caller's, and logs it.
/// Streams begin within that time and may then last as long as they like; an upload is a stream as well, and must only not
/// stand still.
pub(crate) async fn every_request(
    State(state): State<ServerState>,
    request: Request,
    next: Next,
) -> Response {
    let given = request
        .headers()
        .get(&REQUEST_ID_HEADER)
        .and_then(|value| value.to_str().ok());
    let id = match given {
        Some(id)
            if (1..=64).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') =>
        {
            id.to_owned()
        }
        _ => uuid::Uuid::now_v7().simple().to_string(),
    };
    let (method, path, start) = (
        request.method().clone(),
        request.uri().path().to_owned(),
        Instant::now(),
    );
    let limit = Duration::from_secs(state.settings.request_timeout_seconds);
    let upload = method == Method::PUT
        && request
            .extensions()
            .get::<MatchedPath>()
            .is_some_and(|path| path.as_str().ends_with(routes::UPLOAD));
    let served = async {
        if upload {
            return next.run(request).await;
        }
        match tokio::time::timeout(limit, next.run(request)).await {
            Ok(response) => response,
            Err(_) => ApiError::new(
                ErrorCode::Unavailable,
                format!(
                    "the request took longer than {} s; look whether it took effect before repeating it",
                    limit.as_secs()
                ),
            )
            .into_response(),
        }
    };
    let scope = RequestScope::new();
    let served = scope.clone().enter(served);
    let mut response = REQUEST_ID.scope(id.clone(), served).await;
    // A stream is made by and by, when the handler has long answered.
    if response.body().size_hint().exact().is_none() {
        response = response.map(|body| Body::from_stream(scoped(scope, body.into_data_stream())));
    }
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID_HEADER, value);
    }
    tracing::debug!(
        request.id = %id, http.method = %method, http.path = %path, http.status = response.status().as_u16(),
        duration_ms = start.elapsed().as_millis() as u64, "served"
    );
    response
}

/// A stream that is made in a scope.
fn scoped<S: Stream + Unpin>(scope: RequestScope, mut stream: S) -> impl Stream<Item = S::Item> {
    futures::stream::poll_fn(move |context| scope.enter_sync(|| Pin::new(&mut stream).poll_next(context)))
}

/// A path that is not there.
pub(crate) async fn no_such_path() -> ApiError {
    ApiError::new(
        ErrorCode::NotFound,
        "there is no such path; /api/v1/openapi.json lists those that there are",
    )
}

/// A path that is there, but not with this method.
pub(crate) async fn no_such_method() -> ApiError {
    ApiError::new(
        ErrorCode::InvalidRequest,
        "this path does not take this method; see /api/v1/openapi.json",
    )
}
