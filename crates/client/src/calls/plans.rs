//! Plans of tests.

use crate::http::Patience::{Long, Usual};
use crate::{Client, ClientError};
use ostler_contracts::{
    FlakyTest, PlanExplanation, PlanStatus, PlanView, QuarantineTest, QuarantinedTestView, RerunPlan,
    TestChart, TestHistory, TestView,
};
use ostler_domain::{Measure, PlanId, ProjectId, RunStatus};
use reqwest::{Method, Url};
use std::collections::BTreeMap;

/// Which plans are wanted; all when empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PlanQuery {
    /// Only of this name.
    pub name: Option<String>,
    /// Only of this project.
    pub project: Option<ProjectId>,
    /// Only those that stand like this.
    pub status: Option<PlanStatus>,
    /// Only those submitted before this one, to page on.
    pub before: Option<PlanId>,
    /// At most this many; the server's default when absent, at most 1000.
    pub limit: Option<u32>,
}

/// Which tests of a plan are wanted; all when empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TestQuery {
    /// Only in this state.
    pub status: Option<RunStatus>,
    /// Earlier runs of tests that were tried again, too.
    pub superseded: bool,
    /// Only those whose run was submitted before the one with this number, to page on.
    pub before_seq: Option<i64>,
    /// At most this many; the server's default when absent, at most 1000.
    pub limit: Option<u32>,
}

/// Of which test the history is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TestIdentity {
    /// By its key.
    Key(String),
    /// By the names of its plan and of itself.
    Names {
        /// Name of the plan.
        plan: String,
        /// Name of the test.
        test: String,
    },
}

/// What whoever submits a plan chooses besides its text; by default nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PlanChoices {
    /// Whether the first failure cancels what did not begin; as the text says when absent.
    pub fail_fast: Option<bool>,
    /// Only tests whose name contains one of these, with what they need; all when empty.
    pub only: Vec<String>,
    /// Environment variables of all tests, by name.
    pub env: BTreeMap<String, String>,
    /// The commit of the plan's branch that its tests get.
    pub revision: Option<String>,
}

/// Most tests that the server gives at once.
const PAGE: u32 = 1000;

impl Client {
    /// Submits a plan, with what whoever submits it chooses besides: its text and that text's media type, such as `application/toml`. A plan that is refused for its
    /// text has [`ostler_contracts::PlanMistakes`] as the details of the refusal.
    pub async fn submit_plan(
        &self,
        text: String,
        content_type: &str,
        choices: &PlanChoices,
    ) -> Result<PlanView, ClientError> {
        let mut url = self.path(&["plans"]);
        for test in &choices.only {
            url.query_pairs_mut().append_pair("test", test);
        }
        for (name, value) in &choices.env {
            url.query_pairs_mut()
                .append_pair("env", &format!("{name}={value}"));
        }
        let fail_fast = choices.fail_fast.map(|fail_fast| fail_fast.to_string());
        let pairs = [("fail_fast", fail_fast), ("revision", choices.revision.clone())];
        self.post_text(with_pairs(url, pairs), text, content_type).await
    }

    /// Plans, newest first.
    pub async fn plans(&self, query: &PlanQuery) -> Result<Vec<PlanView>, ClientError> {
        let url = self.path(&["plans"]);
        self.get(with_pairs(
            url,
            [
                ("name", query.name.clone()),
                ("project", query.project.map(|v| v.to_string())),
                ("status", query.status.map(|v| v.as_str().to_owned())),
                ("before", query.before.map(|v| v.to_string())),
                ("limit", query.limit.map(|v| v.to_string())),
            ],
        ))
        .await
    }

    /// One plan.
    pub async fn plan(&self, id: PlanId) -> Result<PlanView, ClientError> {
        self.get(self.path(&["plans", &id.to_string()])).await
    }

    /// Some of the tests of a plan, the last one that was submitted first.
    pub async fn plan_tests(&self, id: PlanId, query: &TestQuery) -> Result<Vec<TestView>, ClientError> {
        let url = self.path(&["plans", &id.to_string(), "tests"]);
        self.get(with_pairs(
            url,
            [
                ("status", query.status.map(|v| v.to_string())),
                ("superseded", query.superseded.then(|| "true".to_owned())),
                ("before_seq", query.before_seq.map(|v| v.to_string())),
                ("limit", query.limit.map(|v| v.to_string())),
            ],
        ))
        .await
    }

    /// All tests of a plan, page by page, in the order of the plan.
    pub async fn all_plan_tests(&self, id: PlanId) -> Result<Vec<TestView>, ClientError> {
        let mut tests: Vec<TestView> = Vec::new();
        let mut query = TestQuery {
            limit: Some(PAGE),
            ..TestQuery::default()
        };
        loop {
            let page = self.plan_tests(id, &query).await?;
            let full = page.len() == PAGE as usize;
            query.before_seq = page.last().map(|test| test.seq);
            tests.extend(page);
            if !full {
                break;
            }
        }
        // A test may be tried again between two pages, and is then seen twice or not at all; its newest run counts.
        tests.sort_by_key(|test| (test.index, std::cmp::Reverse(test.ordinal)));
        tests.dedup_by_key(|test| test.index);
        Ok(tests)
    }

    /// Cancels what of a plan has not ended; asking twice, or too late, is no error.
    pub async fn cancel_plan(&self, id: PlanId) -> Result<PlanView, ClientError> {
        let path = ["plans", &id.to_string()];
        self.call(Method::DELETE, &path, None::<&()>, Long).await
    }

    /// Executes tests of a plan again, as a new plan.
    pub async fn rerun_plan(&self, id: PlanId, what: RerunPlan) -> Result<PlanView, ClientError> {
        let path = ["plans", &id.to_string(), "rerun"];
        self.call(Method::POST, &path, Some(&what), Long).await
    }

    /// What a plan waits for.
    pub async fn explain_plan(&self, id: PlanId) -> Result<PlanExplanation, ClientError> {
        self.get(self.path(&["plans", &id.to_string(), "explain"])).await
    }

    /// How runs of a test ended, newest first: at most `limit`, or as many as the server gives by itself.
    pub async fn test_history(
        &self,
        test: &TestIdentity,
        limit: Option<u32>,
    ) -> Result<TestHistory, ClientError> {
        let (key, plan, name) = test.parts();
        let url = self.path(&["tests", "history"]);
        self.get(with_pairs(
            url,
            [
                ("key", key),
                ("plan", plan),
                ("test", name),
                ("limit", limit.map(|v| v.to_string())),
            ],
        ))
        .await
    }

    /// One measure of the runs of a test that passed, oldest first: at most `limit`, or as many as the server gives by itself.
    pub async fn test_chart(
        &self,
        test: &TestIdentity,
        measure: Measure,
        limit: Option<u32>,
    ) -> Result<TestChart, ClientError> {
        let (key, plan, name) = test.parts();
        let url = self.path(&["tests", "chart"]);
        self.get(with_pairs(
            url,
            [
                ("key", key),
                ("plan", plan),
                ("test", name),
                ("measure", Some(measure.to_string())),
                ("limit", limit.map(|v| v.to_string())),
            ],
        ))
        .await
    }

    /// Tests in quarantine.
    pub async fn quarantined_tests(&self) -> Result<Vec<QuarantinedTestView>, ClientError> {
        self.get(self.path(&["tests", "quarantine"])).await
    }

    /// Puts a test in quarantine.
    pub async fn quarantine_test(
        &self,
        test: &TestIdentity,
        reason: String,
    ) -> Result<QuarantinedTestView, ClientError> {
        let (key, plan, test) = test.parts();
        let body = QuarantineTest {
            key,
            plan,
            test,
            reason,
        };
        self.call(Method::POST, &["tests", "quarantine"], Some(&body), Usual)
            .await
    }

    /// Takes the test with this key out of quarantine.
    pub async fn release_test(&self, key: &str) -> Result<(), ClientError> {
        self.act(Method::DELETE, &["tests", "quarantine", key], Usual)
            .await
    }

    /// Tests that passed only when they were tried again, within this many days (30 when absent); the flakiest first.
    pub async fn flaky_tests(&self, days: Option<u32>) -> Result<Vec<FlakyTest>, ClientError> {
        let url = self.path(&["tests", "flaky"]);
        self.get(with_pairs(url, [("days", days.map(|v| v.to_string()))]))
            .await
    }
}

impl TestIdentity {
    /// Key, name of the plan, name of the test.
    fn parts(&self) -> (Option<String>, Option<String>, Option<String>) {
        match self {
            Self::Key(key) => (Some(key.clone()), None, None),
            Self::Names { plan, test } => (None, Some(plan.clone()), Some(test.clone())),
        }
    }
}

fn with_pairs<const N: usize>(mut url: Url, pairs: [(&str, Option<String>); N]) -> Url {
    for (name, value) in pairs {
        if let Some(value) = value {
            url.query_pairs_mut().append_pair(name, &value);
        }
    }
    url
}
