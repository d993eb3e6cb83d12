//! Plans of tests.

pub(super) mod follow;

use crate::ServerState;
use crate::auth::Auth;
use crate::error::{ApiError, ApiResult};
use crate::extract::{InBody, InPath, InQuery, InText};
use crate::refusals::{BadRequest, Conflict, Denied, NotFound, Unprocessable};
use axum::Json;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, StatusCode};
use ostler_contracts::{ErrorCode, PlanExplanation, PlanStatus, PlanView, RerunPlan, TestView};
use ostler_control::{PlanChoices, PlanFormat, PlanQuery, TestQuery};
use ostler_domain::{PlanId, ProjectId, RunStatus};
use serde::Deserialize;

/// Which plans are wanted.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct PlanParameters {
    /// Only of this name.
    name: Option<String>,
    /// Only of this project.
    #[param(value_type = Option<String>)]
    project: Option<ProjectId>,
    /// Only those that stand like this.
    status: Option<PlanStatus>,
    /// Only those submitted before this one, to page on.
    #[param(value_type = Option<String>)]
    before: Option<PlanId>,
    /// At most this many; 50 when absent, at most 1000.
    limit: Option<u32>,
}

/// Which tests of a plan are wanted.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct TestParameters {
    /// Only in this state.
    #[param(value_type = Option<String>)]
    status: Option<RunStatus>,
    /// Earlier runs of tests that were tried again, too.
    superseded: Option<bool>,
    /// Only those whose run was submitted before the one with this number (`seq`), to page on.
    before_seq: Option<i64>,
    /// At most this many; 100 when absent, at most 1000.
    limit: Option<u32>,
}

/// What whoever submits a plan chooses besides its text. Each may be left out; `test` and `env` may be repeated.
#[derive(Debug, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(
    dead_code,
    reason = "for the document: repeated parameters are read one by one"
)]
pub(super) struct SubmitParameters {
    /// Whether the first failure cancels what did not begin; as the text says when absent.
    fail_fast: Option<bool>,
    /// Only tests whose name contains this, with what they need.
    test: Option<Vec<String>>,
    /// An environment variable of all tests, `NAME=VALUE`; it comes before those of the text.
    env: Option<Vec<String>>,
    /// The commit of the plan's branch that its tests get; what the branch is at when absent.
    revision: Option<String>,
}

/// Reads them. An error names what is not understood.
fn choices(parameters: Vec<(String, String)>) -> Result<PlanChoices, String> {
    let mut choices = PlanChoices::default();
    for (name, value) in parameters {
        match name.as_str() {
            "fail_fast" => {
                let known = value
                    .parse()
                    .map_err(|_| format!("`fail_fast` is true or false, not `{value}`"))?;
                choices.fail_fast = Some(known);
            }
            "test" => choices.only.push(value),
            "env" => {
                let (name, value) = value
                    .split_once('=')
                    .ok_or_else(|| format!("`env` is NAME=VALUE, not `{value}`"))?;
                choices.env.insert(name.to_owned(), value.to_owned());
            }
            "revision" => choices.revision = Some(value),
            other => {
                return Err(format!(
                    "`{other}` is no parameter; there are fail_fast, test, env and revision"
                ));
            }
        }
    }
    Ok(choices)
}

/// Submits a plan: its text as TOML, YAML or JSON, as the content type says. A plan that is refused for its text has a
/// `PlanMistakes` as `details`.
#[utoipa::path(post, path = "/plans", tag = "plans", params(SubmitParameters),
    request_body(description = "The text of a plan", content(
        (Object = "application/json"), (String = "application/toml"), (String = "application/yaml"),
    )),
    responses((status = 201, description = "Done", body = PlanView), Denied, BadRequest, NotFound, Unprocessable)
)]
pub(super) async fn submit(
    State(state): State<ServerState>,
    Auth(caller): Auth,
    InQuery(parameters): InQuery<Vec<(String, String)>>,
    headers: HeaderMap,
    InText(text): InText,
) -> ApiResult<(StatusCode, Json<PlanView>)> {
    let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    let format = kind.and_then(PlanFormat::from_content_type).ok_or_else(|| {
        ApiError::new(
            ErrorCode::InvalidRequest,
            "the content type must say what the plan is written in: application/toml, application/yaml or application/json",
        )
    })?;
    let choices = choices(parameters).map_err(|why| ApiError::new(ErrorCode::InvalidRequest, why))?;
    let plan = state
        .control
        .submit_plan_with(&caller, text, format, choices)
        .await?;
    Ok((StatusCode::CREATED, Json(plan)))
}

/// Plans, newest first.
#[utoipa::path(get, path = "/plans", tag = "plans", params(PlanParameters),
    responses((status = 200, description = "Done", body = Vec<PlanView>), Denied, BadRequest)
)]
pub(super) async fn list(
    State(state): State<ServerState>,
    Auth(caller): Auth,
    InQuery(query): InQuery<PlanParameters>,
) -> ApiResult<Json<Vec<PlanView>>> {
    let query = PlanQuery {
        name: query.name,
        project_id: query.project,
        status: query.status,
        before: query.before,
        limit: query.limit,
    };
    Ok(Json(state.control.plans(&caller, query).await?))
}

/// One plan, with how many of its tests are in which state.
#[utoipa::path(get, path = "/plans/{id}", tag = "plans", params(("id" = String, Path, description = "Id")),
    responses((status = 200, description = "Done", body = PlanView), Denied, NotFound)
)]
pub(super) async fn get(
    State(state): State<ServerState>,
    Auth(caller): Auth,
    InPath(id): InPath<PlanId>,
) -> ApiResult<Json<PlanView>> {
    Ok(Json(state.control.plan(&caller, id).await?))
}

/// Tests of a plan by their latest runs, the last one that was submitted first.
#[utoipa::path(get, path = "/plans/{id}/tests", tag = "plans",
    params(("id" = String, Path, description = "Id"), TestParameters),
    responses((status = 200, description = "Done", body = Vec<TestView>), Denied, BadRequest, NotFound)
)]
pub(super) async fn tests(
    State(state): State<ServerState>,
    Auth(caller): Auth,
    InPath(id): InPath<PlanId>,
    InQuery(query): InQuery<TestParameters>,
) -> ApiResult<Json<Vec<TestView>>> {
    let query = TestQuery {
        status: query.status,
        superseded: query.superseded.unwrap_or_default(),
        before_seq: query.before_seq,
        limit: query.limit,
    };
    Ok(Json(state.control.plan_tests(&caller, id, query).await?))
}

/// Cancels what of a plan has not ended. The plan and its tests stay to be read.
#[utoipa::path(delete, path = "/plans/{id}", tag = "plans", params(("id" = String, Path, description = "Id")),
    responses((status = 200, description = "Done", body = PlanView), Denied, NotFound)
)]
pub(super) async fn cancel(
    State(state): State<ServerState>,
    Auth(caller): Auth,
    InPath(id): InPath<PlanId>,
) -> ApiResult<Json<PlanView>> {
    Ok(Json(state.control.cancel_plan(&caller, id).await?))
}

/// Executes tests of a plan again, as a new plan of the same name.
#[utoipa::path(post, path = "/plans/{id}/rerun", tag = "plans", request_body = RerunPlan,
    params(("id" = String, Path, description = "Id")),
    responses((status = 201, description = "Done", body = PlanView), Denied, BadRequest, NotFound, Conflict, Unprocessable)
)]
pub(super) async fn rerun(
    State(state): State<ServerState>,
    Auth(caller): Auth,
    InPath(id): InPath<PlanId>,
    InBody(body): InBody<RerunPlan>,
) -> ApiResult<(StatusCode, Json<PlanView>)> {
    let plan = state.control.rerun_plan(&caller, id, body.failed).await?;
    Ok((StatusCode::CREATED, Json(plan)))
}

/// What the tests of a plan wait for.
#[utoipa::path(get, path = "/plans/{id}/explain", tag = "plans", params(("id" = String, Path, description = "Id")),
    responses((status = 200, description = "Done", body = PlanExplanation), Denied, NotFound)
)]
pub(super) async fn explain(
    State(state): State<ServerState>,
    Auth(caller): Auth,
    InPath(id): InPath<PlanId>,
) -> ApiResult<Json<PlanExplanation>> {
    Ok(Json(state.control.explain_plan(&caller, id).await?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_are_read_and_mistakes_named() {
        let read = |pairs: &[(&str, &str)]| {
            let pairs = pairs
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
            choices(pairs.collect())
        };
        let all = read(&[
            ("test", "a"),
            ("test", "b, c"),
            ("env", "X=1=2"),
            ("fail_fast", "false"),
            ("revision", "0d8f"),
        ])
        .unwrap();
        assert_eq!(all.only, ["a", "b, c"]);
        assert_eq!(all.env["X"], "1=2");
        assert_eq!(
            (all.fail_fast, all.revision.as_deref()),
            (Some(false), Some("0d8f"))
        );
        assert_eq!(read(&[]).unwrap(), PlanChoices::default());
        for (pair, wanted) in [
            (("env", "X"), "NAME=VALUE"),
            (("fail_fast", "yes"), "true or false"),
            (("tests", "a"), "`tests` is no parameter"),
        ] {
            assert!(read(&[pair]).unwrap_err().contains(wanted));
        }
    }
}
