//! The single cases of tests, for reports.

use super::story::Story;
use crate::context::Session;
use futures::StreamExt;
use ostler_client::{Client, ClientError};
use ostler_domain::RunId;
use ostler_reports::{Format, Limits, Report, read};
use std::collections::BTreeMap;

/// Where a run keeps the cases of its reports.
const CASES: &str = "ostler/cases.jsonl";
/// Tests whose cases are read at a time.
const AT_ONCE: usize = 4;
/// Cases of one test that are read, bytes; what is longer is left to `ostler test artifacts`.
const LARGEST: usize = 256 << 20;

/// The cases of all tests that have any. Those that cannot be had are said to be missing; the test itself is reported then.
pub(super) async fn fetch(session: &Session, story: &Story) -> BTreeMap<RunId, Report> {
    let with_cases: Vec<(RunId, String)> = story
        .tests()
        .filter(|test| {
            let counts = test.cases.unwrap_or_default();
            u64::from(counts.passed)
                + u64::from(counts.failed)
                + u64::from(counts.skipped)
                + u64::from(counts.errors)
                > 0
        })
        .map(|test| (test.run_id, test.name.clone()))
        .collect();
    let client = &session.client;
    let mut read = futures::stream::iter(with_cases)
        .map(|(run, name)| async move { (run, name, one(client, run).await) })
        .buffer_unordered(AT_ONCE);
    let mut found = BTreeMap::new();
    while let Some((run, name, report)) = read.next().await {
        match report {
            Ok(report) => {
                found.insert(run, report);
            }
            Err(error) => session.out.note(&format!(
                "ostler: the cases of `{name}` are not in the report: {error}"
            )),
        }
    }
    found
}

async fn one(client: &Client, run: RunId) -> Result<Report, ClientError> {
    let mut content = client.download_artifact(run, CASES).await?;
    let mut lines = Vec::new();
    while let Some(piece) = content.next().await? {
        lines.extend_from_slice(&piece);
        if lines.len() > LARGEST {
            break;
        }
    }
    Ok(read(Format::JsonLines, &lines, &Limits::default()).report)
}
