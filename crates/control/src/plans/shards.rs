//! What the parts of a test share, divided so that they take about equally long.
//!
//! How long an item takes is what the reports of the last plan of the same name said: a case of that name, or all cases of
//! that suite, class or module together. So an item may be a single case, a file (`tests/orders.py` is the module
//! `tests.orders`) or a module, whatever the command takes.

use crate::artifacts::CASES;
use crate::{Control, Result};
use futures::TryStreamExt;
use ostler_domain::{Artifact, TenantId, TestPlan, TestSpec, Timestamp};
use ostler_plans::{Plan, PlannedTest};
use ostler_reports::{Format, Limits, Report, read, shards};
use ostler_store::{Filter, Op, StoreExt};
use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::time::Duration;

/// Plans before this one in which times are looked for.
const BEFORE: u32 = 5;
/// Reports of one plan that are read, and the largest of them, bytes.
const REPORTS: u32 = 1000;
const LARGEST: i64 = 64 << 20;
/// Where a part finds its items, one in a line.
const ITEMS: &str = "OSTLER_SHARD_ITEMS";

/// How long things took, by name.
type Times = HashMap<String, Duration>;

impl Control {
    /// Gives each part of a sharded test its items.
    pub(super) async fn divide(&self, tenant: TenantId, plan: &mut Plan) -> Result<()> {
        let mut groups: HashMap<String, Vec<usize>> = HashMap::new();
        for (at, test) in plan.tests.iter().enumerate() {
            if !test.items.is_empty() {
                groups.entry(whole(&test.name)).or_default().push(at);
            }
        }
        if groups.is_empty() {
            return Ok(());
        }
        let times = self.times(tenant, &plan.name).await?;
        let none = Times::new();
        for (name, parts) in groups {
            give(&mut plan.tests, &parts, times.get(&name).unwrap_or(&none));
        }
        Ok(())
    }

    /// How long cases took in the newest plan of a name that knows it, by the test that they belong to.
    async fn times(&self, tenant: TenantId, plan: &str) -> Result<HashMap<String, Times>> {
        let store = &self.parts.store;
        let plans = Filter::<TestPlan>::by("tenant_id", tenant)
            .and("name", Op::Eq, plan.to_owned())
            .and("finished_at", Op::Ne, None::<Timestamp>)
            .order_by_desc("id")
            .limit(BEFORE);
        for plan in store.list(plans).await? {
            let reports = Filter::<Artifact>::by("plan_id", plan.id)
                .and("path", Op::Eq, CASES.to_owned())
                .limit(REPORTS);
            let mut times: HashMap<String, Times> = HashMap::new();
            for artifact in store.list(reports).await? {
                let Some(run) = store.run(artifact.run_id).await? else {
                    continue;
                };
                let Some(TestSpec {
                    name, shard: Some(_), ..
                }) = run.submitted.spec.test.as_deref()
                else {
                    continue;
                };
                // Only a help to divide well: what cannot be read any more is no reason to refuse a plan.
                match self.kept_cases(&artifact).await {
                    Ok(report) => add(&report, times.entry(whole(name)).or_default()),
                    Err(error) => tracing::warn!(%error, "the times of a test's cases cannot be read"),
                }
            }
            if !times.is_empty() {
                return Ok(times);
            }
        }
        Ok(HashMap::new())
    }

    /// The cases of a test's reports as they were kept with its files.
    pub(super) async fn kept_cases(&self, artifact: &Artifact) -> Result<Report> {
        if artifact.bytes > LARGEST {
            return Err(crate::ControlError::Unprocessable(format!(
                "the cases of this run are {} MiB, more than is read at once; download {CASES}",
                artifact.bytes >> 20
            )));
        }
        let mut content = self.artifact_content(artifact, None).await?;
        let mut lines = Vec::with_capacity(usize::try_from(artifact.bytes).unwrap_or(0));
        while let Some(piece) = content.try_next().await? {
            lines.extend_from_slice(&piece);
        }
        Ok(read(Format::JsonLines, &lines, &Limits::default()).report)
    }
}

/// The name of the test that a part belongs to.
fn whole(name: &str) -> String {
    let Some((rest, shard)) = name.rsplit_once("shard=") else {
        return name.to_owned();
    };
    let number = |c: char| c.is_ascii_digit() || c == '/';
    if shard
        .strip_suffix(']')
        .is_some_and(|shard| shard.chars().all(number))
    {
        rest.trim_end_matches([',', ' ', '[']).to_owned()
    } else {
        name.to_owned()
    }
}

fn add(report: &Report, times: &mut Times) {
    for (suite, case) in report.cases() {
        let Some(took) = case.duration else { continue };
        let mut names = vec![suite.name.as_str()];
        names.extend(prefixes(&case.name, "::"));
        if let Some(class) = &case.class {
            names.extend(prefixes(class, "::"));
            names.extend(prefixes(class, "."));
        }
        names.retain(|name| !name.is_empty());
        names.sort_unstable();
        names.dedup();
        for name in names {
            let sum = times.entry(name.to_owned()).or_default();
            *sum = sum.saturating_add(took);
        }
    }
}

/// `a.b.c`, `a.b` and `a`.
fn prefixes<'n>(name: &'n str, between: &'n str) -> impl Iterator<Item = &'n str> {
    let shorter = name.match_indices(between).map(|(at, _)| &name[..at]);
    shorter.chain([name])
}

/// How long an item took: by its own words, or as the module that the file of this name is.
fn took(times: &Times, item: &str) -> Option<Duration> {
    times.get(item).copied().or_else(|| {
        let path = item.strip_prefix("./").unwrap_or(item);
        let stem = path.rsplit_once('.').map_or(path, |(stem, _)| stem);
        times.get(&stem.replace('/', ".")).copied()
    })
}

/// Divides the items of one test among its parts.
fn give(tests: &mut [PlannedTest], parts: &[usize], times: &Times) {
    let Some(first) = parts.first().map(|at| &tests[*at]) else {
        return;
    };
    let items = first.items.clone();
    let count = first.shard.map_or(1, |shard| shard.count as usize);
    let Some(count) = NonZeroUsize::new(count) else {
        return;
    };
    let durations: Vec<Option<Duration>> = items.iter().map(|item| took(times, item)).collect();
    let divided = shards(&durations, count);
    for at in parts {
        let test = &mut tests[*at];
        let part = test
            .shard
            .map_or(0, |shard| shard.index.saturating_sub(1) as usize);
        let own: Vec<&str> = divided
            .get(part)
            .into_iter()
            .flatten()
            .map(|place| items[*place].as_str())
            .collect();
        test.env.insert(ITEMS.to_owned(), own.join("\n"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ostler_plans::Format;

    #[test]
    fn parts_have_the_name_of_the_whole() {
        for (name, wanted) in [
            ("unit [shard=1/2]", "unit"),
            ("unit [k=1, shard=12/20]", "unit [k=1"),
            ("unit", "unit"),
            ("shard=x", "shard=x"),
        ] {
            assert_eq!(whole(name), wanted, "{name}");
        }
    }

    #[test]
    fn items_go_where_least_is_to_do() {
        let text = "name: p\ntests: [{name: u, run: x, shards: 2, items: [a, b, c, d]}]";
        let mut plan = Plan::parse(text, Format::Yaml).unwrap();
        let lines = br#"{"name": "one", "class": "b", "outcome": "passed", "time": 4.5}
{"name": "two", "class": "b", "outcome": "passed", "time": 4.5}
{"name": "a", "outcome": "passed", "time": 1}
{"name": "c", "outcome": "failed", "time": 2}"#;
        let report = read(ostler_reports::Format::JsonLines, lines, &Limits::default()).report;
        let mut times = Times::new();
        add(&report, &mut times);
        assert_eq!(times["b"], Duration::from_secs(9));
        let lines = br#"{"name": "t", "class": "tests.orders.Large", "outcome": "passed", "time": 3}"#;
        add(
            &read(ostler_reports::Format::JsonLines, lines, &Limits::default()).report,
            &mut times,
        );
        for item in [
            "tests/orders.py",
            "./tests/orders.py",
            "tests.orders.Large",
            "tests",
        ] {
            assert_eq!(took(&times, item), Some(Duration::from_secs(3)), "{item}");
        }
        assert_eq!(took(&times, "tests/stock.py"), None);
        give(&mut plan.tests, &[0, 1], &times);
        assert_eq!(plan.tests[0].env[ITEMS], "b");
        assert_eq!(plan.tests[1].env[ITEMS], "a\nc\nd");
        // With nothing known, equally many.
        give(&mut plan.tests, &[0, 1], &Times::new());
        assert_eq!(
            (&*plan.tests[0].env[ITEMS], &*plan.tests[1].env[ITEMS]),
            ("a\nc", "b\nd")
        );
    }
}
