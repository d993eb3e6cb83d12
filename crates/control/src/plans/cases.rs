//! The single cases of a test, as its reports told them.

use crate::artifacts::CASES;
use crate::{Caller, Control, ControlError, Result};
use ostler_contracts::CaseView;
use ostler_domain::RunId;
use ostler_reports::{Case, Outcome};

/// Cases that are given at once.
const MOST: u32 = 10_000;

/// Which cases of a run are wanted, in the order of the reports.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CaseQuery {
    /// Only those that ended like this: passed, failed, skipped or error.
    pub outcome: Option<String>,
    /// Without so many of the first, to page on.
    pub offset: u32,
    /// At most this many; 1000 when absent, 10,000 at most.
    pub limit: Option<u32>,
}

impl Control {
    /// Cases of a run's reports; none if it had no reports, or if they were removed.
    pub async fn run_cases(&self, caller: &Caller, id: RunId, query: CaseQuery) -> Result<Vec<CaseView>> {
        let artifact = match self.artifact(caller, id, CASES).await {
            Ok(artifact) => artifact,
            Err(ControlError::NotFound { what: "artifact", .. }) => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let report = self.kept_cases(&artifact).await?;
        let limit = query.limit.unwrap_or(1000).clamp(1, MOST);
        let wanted = report
            .cases()
            .filter(|(_, case)| {
                query
                    .outcome
                    .as_deref()
                    .is_none_or(|wanted| wanted == case.outcome.as_str())
            })
            .skip(query.offset as usize)
            .take(limit as usize);
        Ok(wanted.map(|(suite, case)| view(&suite.name, case)).collect())
    }
}

fn view(suite: &str, case: &Case) -> CaseView {
    let reason = case.outcome.reason().cloned().unwrap_or_default();
    CaseView {
        suite: suite.to_owned(),
        class: case.class.clone(),
        name: case.name.clone(),
        outcome: case.outcome.as_str().to_owned(),
        flaky: case.outcome == Outcome::Passed && !case.reruns.is_empty(),
        message: reason.message,
        kind: reason.kind,
        details: reason.details,
        duration_us: case
            .duration
            .map(|took| u64::try_from(took.as_micros()).unwrap_or(u64::MAX)),
        stdout: case.stdout.clone(),
        stderr: case.stderr.clone(),
    }
}
