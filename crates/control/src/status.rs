//! What the whole does at this moment, in figures.

use crate::{Caller, Control, Result};
use ostler_contracts::OrchestratorHealth;
use ostler_domain::{Permission, RunStatus, TestPlan, Timestamp};
use ostler_store::{Filter, Op, RunCounters, SandboxCount, StoreExt, as_owner};
use std::collections::BTreeMap;
use std::fmt::Write;

/// The figures, read at one moment.
struct Figures {
    runs: RunCounters,
    plans: usize,
    /// Only for operators.
    sandboxes: Option<Vec<SandboxCount>>,
}

impl Control {
    async fn figures(&self, caller: &Caller) -> Result<Figures> {
        caller.require(Permission::RunsRead)?;
        let store = &self.parts.store;
        let open = |filter: Filter<TestPlan>| filter.and("finished_at", Op::Eq, None::<Timestamp>);
        if caller.permissions.allow(Permission::FleetRead) {
            let plans = store.list(open(Filter::all()));
            let all = async { tokio::try_join!(store.counters(None), plans, store.sandbox_counts()) };
            let (runs, plans, sandboxes) = as_owner(all).await?;
            return Ok(Figures {
                runs,
                plans: plans.len(),
                sandboxes: Some(sandboxes),
            });
        }
        let plans = store.list(open(Filter::by("tenant_id", caller.tenant_id)));
        let (runs, plans) = tokio::try_join!(store.counters(Some(caller.tenant_id)), plans)?;
        Ok(Figures {
            runs,
            plans: plans.len(),
            sandboxes: None,
        })
    }

    /// The queue and what executes it.
    pub async fn orchestrator(&self, caller: &Caller) -> Result<OrchestratorHealth> {
        let figures = self.figures(caller).await?;
        let of = |statuses: &[RunStatus]| -> i64 {
            let counts = statuses.iter().filter_map(|status| figures.runs.get(status));
            counts.sum()
        };
        let all: i64 = figures.runs.values().sum();
        let (queued, active) = (of(&[RunStatus::Queued]), of(&[RunStatus::Running]));
        Ok(OrchestratorHealth {
            queued,
            active,
            completed: all - queued - active,
            failed: of(&[RunStatus::Failed, RunStatus::TimedOut, RunStatus::Lost]),
            plans: i64::try_from(figures.plans).unwrap_or(i64::MAX),
            environments: figures.sandboxes.map(|sandboxes| {
                let mut states = BTreeMap::new();
                for part in sandboxes {
                    *states.entry(part.status.to_string()).or_default() += i64::from(part.count);
                }
                states
            }),
        })
    }

    /// The same in the text format of Prometheus.
    pub async fn metrics(&self, caller: &Caller) -> Result<String> {
        Ok(text(&self.figures(caller).await?))
    }
}

fn text(figures: &Figures) -> String {
    let mut text = String::new();
    let mut say = |line: std::fmt::Arguments<'_>| {
        // Writing to a text cannot fail.
        let _ = writeln!(text, "{line}");
    };
    say(format_args!(
        "# HELP ostler_runs Runs by state; those that ended count from the beginning."
    ));
    say(format_args!("# TYPE ostler_runs gauge"));
    for status in RunStatus::ALL {
        let count = figures.runs.get(status).copied().unwrap_or_default();
        say(format_args!("ostler_runs{{status=\"{status}\"}} {count}"));
    }
    say(format_args!(
        "# HELP ostler_plans_open Plans of tests that have not ended."
    ));
    say(format_args!("# TYPE ostler_plans_open gauge"));
    say(format_args!("ostler_plans_open {}", figures.plans));
    if let Some(sandboxes) = &figures.sandboxes {
        let mut counts: BTreeMap<(&str, String, String), u32> = BTreeMap::new();
        for part in sandboxes {
            let place = (
                part.pool.as_str(),
                part.driver.to_string(),
                part.status.to_string(),
            );
            *counts.entry(place).or_default() += part.count;
        }
        say(format_args!(
            "# HELP ostler_sandboxes Sandboxes by pool and state."
        ));
        say(format_args!("# TYPE ostler_sandboxes gauge"));
        for ((pool, driver, status), count) in counts {
            let pool = pool
                .replace('\\', r"\\")
                .replace('"', "\\\"")
                .replace('\n', r"\n");
            say(format_args!(
                "ostler_sandboxes{{pool=\"{pool}\",driver=\"{driver}\",status=\"{status}\"}} {count}"
            ));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_has_a_line() {
        let figures = Figures {
            runs: [(RunStatus::Running, 3)].into(),
            plans: 2,
            sandboxes: Some(Vec::new()),
        };
        let text = text(&figures);
        assert!(text.contains("ostler_runs{status=\"running\"} 3\n"), "{text}");
        assert!(text.contains("ostler_runs{status=\"skipped\"} 0\n"), "{text}");
        assert!(text.contains("ostler_plans_open 2\n"), "{text}");
    }
}
