//! What a plan waits for.

use crate::runs::{hindered, impossible};
use crate::{Caller, Control, Result};
use ostler_contracts::{PlanExplanation, PlanStatus, PlanWait};
use ostler_domain::{PlanId, Requirements, RunStatus, TestRecord};
use ostler_store::{Filter, Op, RunFilter, StoreExt};
use std::collections::{BTreeMap, HashSet};

/// Reasons that are told; a plan with more of them is told the most frequent ones.
const MAX_REASONS: usize = 20;

impl Control {
    /// What the tests of a plan wait for.
    pub async fn explain_plan(&self, caller: &Caller, id: PlanId) -> Result<PlanExplanation> {
        let plan = self.plan_of(caller, id).await?;
        let view = self.plan_view(plan.clone()).await?;
        let counters = view.counters;
        let mut classes: BTreeMap<Requirements, (String, u32)> = BTreeMap::new();
        let mut needs: BTreeMap<String, (String, u32)> = BTreeMap::new();
        let mut held = Vec::new();
        if counters.queued + counters.held > 0 {
            let waiting = RunFilter {
                status: Some(RunStatus::Queued),
                ..RunFilter::default()
            };
            self.each_run(&plan, waiting, |run| {
                let Some(test) = run.submitted.spec.test else {
                    return;
                };
                if run.submitted.held {
                    held.push((test.name, test.needs));
                    return;
                }
                let class = classes.entry(run.submitted.requirements);
                class.or_insert((test.name, 0)).1 += 1;
            })
            .await?;
        }
        let ended = if held.iter().any(|(_, needs)| !needs.is_empty()) {
            let ends = Filter::<TestRecord>::by("plan_id", plan.id).and("superseded", Op::Eq, false);
            let ends = self.parts.store.list(ends).await?;
            ends.into_iter().map(|end| end.name).collect()
        } else {
            HashSet::new()
        };
        for (name, wanted) in held {
            let reason = match wanted.iter().find(|need| !ended.contains(*need)) {
                Some(need) => format!("they need `{need}`, which has not ended"),
                None => match plan.max_parallel {
                    Some(most) => format!("only {most} tests of the plan may run at a time"),
                    None => "they are released in a moment".to_owned(),
                },
            };
            needs.entry(reason).or_insert((name, 0)).1 += 1;
        }
        let mut waiting: Vec<PlanWait> = needs
            .into_iter()
            .map(|(reason, (example, tests))| PlanWait {
                tests,
                example,
                reason,
                pools: Vec::new(),
            })
            .collect();
        let mut classes: Vec<_> = classes.into_iter().collect();
        classes.sort_by_key(|(_, (_, tests))| std::cmp::Reverse(*tests));
        for (requirements, (example, tests)) in classes.into_iter().take(MAX_REASONS) {
            let pools = self.verdicts(&requirements).await?;
            let reason = if !pools.iter().any(|pool| pool.suitable) {
                impossible(&pools)
            } else if pools
                .iter()
                .all(|pool| !pool.suitable || !pool.reasons.is_empty())
            {
                hindered(&pools)
            } else {
                match self.why_waiting(plan.tenant_id, &requirements, None).await? {
                    Some(why) => why.to_string(),
                    None => "they are next, and are taken up as slots of the server become free".to_owned(),
                }
            };
            waiting.push(PlanWait {
                tests,
                example,
                reason,
                pools,
            });
        }
        waiting.sort_by_key(|wait| std::cmp::Reverse(wait.tests));
        waiting.truncate(MAX_REASONS);
        let summary = match (view.status, waiting.first()) {
            (PlanStatus::Running, Some(wait)) => format!(
                "{} of {} tests have not begun and {} are being executed; {} of them wait: {}",
                counters.queued + counters.held,
                view.tests,
                counters.running,
                wait.tests,
                wait.reason
            ),
            (PlanStatus::Running, None) if counters.running > 0 => {
                format!("its last {} tests are being executed", counters.running)
            }
            (PlanStatus::Running, None) => {
                "all of its tests have ended, and its end is being written".to_owned()
            }
            (status, _) => format!("it has ended: {}", status.as_str()),
        };
        Ok(PlanExplanation {
            status: view.status,
            summary,
            waiting,
        })
    }
}
