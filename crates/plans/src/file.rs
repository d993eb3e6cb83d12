//! The plan as it is written, before expansion.

use crate::fields::{KernelField, Matrix, ReportField, Requires, Runner};
use crate::values::{Bytes, Period, Scalar, Template, TextOrList, Whole};
use ostler_domain::{TestIsolation, TestNetwork};
use serde::Deserialize;
use std::collections::BTreeMap;

/// From a millisecond to a week.
pub(crate) type Timeout = Period<1, 604_800_000>;
/// Up to an hour.
pub(crate) type RetryDelay = Period<0, 3_600_000>;
pub(crate) type Priority = Whole<-1000, 1000>;
pub(crate) type Retries = Whole<0, 10>;
pub(crate) type Shards = Whole<1, 1000>;

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PlanFile {
    pub(crate) name: String,
    pub(crate) project: Option<String>,
    pub(crate) branch: Option<String>,
    pub(crate) fail_fast: Option<bool>,
    pub(crate) max_parallel: Option<Whole<1, 100_000>>,
    pub(crate) labels: Option<BTreeMap<String, Scalar>>,
    pub(crate) env: Option<BTreeMap<String, Scalar>>,
    pub(crate) matrix: Option<Matrix>,
    pub(crate) defaults: Option<TestSpec>,
    pub(crate) tests: Vec<TestSpec>,
}

/// A test, or what tests have in common.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TestSpec {
    pub(crate) name: Option<String>,
    pub(crate) run: Option<TextOrList>,
    pub(crate) script: Option<String>,
    pub(crate) env: Option<BTreeMap<String, Scalar>>,
    pub(crate) cwd: Option<String>,
    pub(crate) stdin: Option<String>,
    pub(crate) timeout: Option<Template<Timeout>>,
    pub(crate) priority: Option<Template<Priority>>,
    pub(crate) retries: Option<Template<Retries>>,
    pub(crate) retry_delay: Option<Template<RetryDelay>>,
    pub(crate) needs: Option<Vec<String>>,
    pub(crate) runner: Option<Template<Runner>>,
    pub(crate) requires: Option<Requires>,
    pub(crate) image: Option<String>,
    pub(crate) kernel: Option<KernelField>,
    pub(crate) isolation: Option<Template<TestIsolation>>,
    pub(crate) network: Option<Template<TestNetwork>>,
    pub(crate) artifacts: Option<Vec<String>>,
    pub(crate) artifact_limits: Option<Limits>,
    pub(crate) reports: Option<Vec<ReportField>>,
    pub(crate) shards: Option<Template<Shards>>,
    pub(crate) items: Option<Vec<String>>,
    pub(crate) quarantined: Option<Template<bool>>,
    pub(crate) allow_failure: Option<Template<bool>>,
    pub(crate) tags: Option<Vec<String>>,
    pub(crate) matrix: Option<Matrix>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Limits {
    pub(crate) max_files: Option<Whole<0, 1_000_000>>,
    pub(crate) max_bytes: Option<Bytes>,
}

impl TestSpec {
    /// This test with what it does not say taken from `defaults`. Tables (`env`, `requires` and its labels) are merged
    /// key by key, everything else is replaced; `run` and `script` are one choice.
    pub(crate) fn over(&self, defaults: &Self) -> Self {
        macro_rules! first {
            ($($field:ident)*) => {
                Self {
                    run: if self.script.is_some() { None } else { self.run.clone().or_else(|| defaults.run.clone()) },
                    script: if self.run.is_some() { None } else { self.script.clone().or_else(|| defaults.script.clone()) },
                    env: merged(self.env.as_ref(), defaults.env.as_ref()),
                    requires: requires(self.requires.as_ref(), defaults.requires.as_ref()),
                    $($field: self.$field.clone().or_else(|| defaults.$field.clone()),)*
                }
            };
        }
        first! {
            name cwd stdin timeout priority retries retry_delay needs runner image kernel isolation network artifacts
            artifact_limits reports shards items quarantined allow_failure tags matrix
        }
    }
}

/// Both tables; `over` wins.
pub(crate) fn merged(
    over: Option<&BTreeMap<String, Scalar>>,
    under: Option<&BTreeMap<String, Scalar>>,
) -> Option<BTreeMap<String, Scalar>> {
    let mut all = under.or(over)?.clone();
    all.extend(over.into_iter().flatten().map(|(k, v)| (k.clone(), v.clone())));
    Some(all)
}

fn requires(over: Option<&Requires>, under: Option<&Requires>) -> Option<Requires> {
    let (Some(over), Some(under)) = (over, under) else {
        return over.or(under).cloned();
    };
    macro_rules! first {
        ($($field:ident)*) => {
            Requires {
                labels: merged(over.labels.as_ref(), under.labels.as_ref()),
                $($field: over.$field.clone().or_else(|| under.$field.clone()),)*
            }
        };
    }
    Some(first! { pool driver image arch isolation cpus memory_mb disk_mb network devices kernel })
}
