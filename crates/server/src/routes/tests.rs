//! Tests beyond the life of their plans: history, charts, flaky tests, quarantine, and their single cases.

use crate::ServerState;
use crate::auth::Auth;
use crate::error::{ApiError, ApiResult};
use crate::extract::{InBody, InPath, InQuery};
use crate::refusals::{BadRequest, Denied, NotFound, Unavailable, Unprocessable};
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use ostler_contracts::{
    CaseView, ErrorCode, FlakyTest, QuarantineTest, QuarantinedTestView, TestChart, TestHistory,
};
use ostler_control::{CaseQuery, TestIdentity};
use ostler_domain::{Measure, RunId};
use serde::Deserialize;

/// Of which test the history is wanted: by its `key`, or by `plan` and `test`.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct HistoryParameters {
    /// Identity of the test, as tests of plans have it.
    key: Option<String>,
    /// Name of the plan.
    plan: Option<String>,
    /// Name of the test.
    test: Option<String>,
    /// At most this many runs; 100 when absent, at most 1000.
    limit: Option<u32>,
}

/// Which chart is wanted: of the test with `key`, or with `plan` and `test`.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct ChartParameters {
    /// Identity of the test, as tests of plans have it.
    key: Option<String>,
    /// Name of the plan.
    plan: Option<String>,
    /// Name of the test.
    test: Option<String>,
    /// duration (when absent), cpu or peak_memory.
    #[param(value_type = Option<String>)]
    measure: Option<Measure>,
    /// At most this many runs; 100 when absent, at most 1000.
    limit: Option<u32>,
}

/// Which cases of a run are wanted.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct CaseParameters {
    /// Only those that ended like this: passed, failed, skipped or error.
    outcome: Option<String>,
    /// Without so many of the first, to page on.
    offset: Option<u32>,
    /// At most this many; 1000 when absent, at most 10000.
    limit: Option<u32>,
}

/// A test by its key, or by the names of its plan and itself.
fn identity(key: Option<String>, plan: Option<String>, test: Option<String>) -> ApiResult<TestIdentity> {
    match (key, plan, test) {
        (Some(key), None, None) => Ok(TestIdentity::Key(key)),
        (None, Some(plan), Some(test)) => Ok(TestIdentity::Names { plan, test }),
        _ => Err(ApiError::new(
            ErrorCode::InvalidRequest,
            "name the test by `key`, or by `plan` and `test`",
        )),
    }
}

/// Over what time flaky tests are looked for.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct FlakyParameters {
    /// Days up to now; 30 when absent.
    days: Option<u32>,
}

/// How runs of a test ended, in plans of the same name, and whether it has become slower.
#[utoipa::path(get, path = "/tests/history", tag = "plans", params(HistoryParameters),
    responses((status = 200, description = "Done", body = TestHistory), Denied, BadRequest)
)]
pub(super) async fn history(
    State(state): State<ServerState>,
    Auth(caller): Auth,
    InQuery(query): InQuery<HistoryParameters>,
) -> ApiResult<Json<TestHistory>> {
    let test = identity(query.key, query.plan, query.test)?;
    Ok(Json(
        state.control.test_history(&caller, test, query.limit).await?,
    ))
}

/// One measure of the runs of a test that passed, each beside what was usual before it.
#[utoipa::path(get, path = "/tests/chart", tag = "plans", params(ChartParameters),
    responses((status = 200, description = "Done", body = TestChart), Denied, BadRequest)
)]
pub(super) async fn chart(
    State(state): State<ServerState>,
    Auth(caller): Auth,
    InQuery(query): InQuery<ChartParameters>,
) -> ApiResult<Json<TestChart>> {
    let test = identity(query.key, query.plan, query.test)?;
    let measure = query.measure.unwrap_or(Measure::Duration);
    let chart = state.control.test_chart(&caller, test, measure, query.limit);
    Ok(Json(chart.await?))
}

/// Cases of a run's reports, in their order; none if it had no reports.
#[utoipa::path(get, path = "/runs/{id}/cases", tag = "tests",
    params(("id" = String, Path, description = "Id"), CaseParameters),
    responses((status = 200, description = "Done", body = Vec<CaseView>), Denied, BadRequest, NotFound, Unavailable)
)]
pub(super) async fn cases(
    State(state): State<ServerState>,
    Auth(caller): Auth,
    InPath(id): InPath<RunId>,
    InQuery(query): InQuery<CaseParameters>,
) -> ApiResult<Json<Vec<CaseView>>> {
    let query = CaseQuery {
        outcome: query.outcome,
        offset: query.offset.unwrap_or_default(),
        limit: query.limit,
    };
    Ok(Json(state.control.run_cases(&caller, id, query).await?))
}

/// Tests in quarantine.
#[utoipa::path(get, path = "/tests/quarantine", tag = "plans",
    responses((status = 200, description = "Done", body = Vec<QuarantinedTestView>), Denied)
)]
pub(super) async fn quarantined(
    State(state): State<ServerState>,
    Auth(caller): Auth,
) -> ApiResult<Json<Vec<QuarantinedTestView>>> {
    Ok(Json(state.control.quarantined_tests(&caller).await?))
}

/// Puts a test in quarantine: in plans that are submitted from now on, its failures count for nothing.
#[utoipa::path(post, path = "/tests/quarantine", tag = "plans", request_body = QuarantineTest,
    responses(
        (status = 201, description = "Done", body = QuarantinedTestView), Denied, BadRequest, NotFound, Unprocessable,
    )
)]
pub(super) async fn quarantine(
    State(state): State<ServerState>,
    Auth(caller): Auth,
    InBody(body): InBody<QuarantineTest>,
) -> ApiResult<(StatusCode, Json<QuarantinedTestView>)> {
    let test = identity(body.key, body.plan, body.test)?;
    let listed = state.control.quarantine_test(&caller, test, body.reason).await?;
    Ok((StatusCode::CREATED, Json(listed)))
}

/// Takes a test out of quarantine.
#[utoipa::path(delete, path = "/tests/quarantine/{key}", tag = "plans",
    params(("key" = String, Path, description = "Key of the test")),
    responses((status = 204, description = "Done"), Denied, NotFound)
)]
pub(super) async fn release(
    State(state): State<ServerState>,
    Auth(caller): Auth,
    InPath(key): InPath<String>,
) -> ApiResult<StatusCode> {
    state.control.release_test(&caller, &key).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Tests that passed only when they were tried again, or both passed and failed on one commit; the flakiest first.
#[utoipa::path(get, path = "/tests/flaky", tag = "plans", params(FlakyParameters),
    responses((status = 200, description = "Done", body = Vec<FlakyTest>), Denied, BadRequest)
)]
pub(super) async fn flaky(
    State(state): State<ServerState>,
    Auth(caller): Auth,
    InQuery(query): InQuery<FlakyParameters>,
) -> ApiResult<Json<Vec<FlakyTest>>> {
    Ok(Json(state.control.flaky_tests(&caller, query.days).await?))
}
