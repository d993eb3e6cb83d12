//! What sandboxes tried to reach and were not allowed: logged, and told to their holders.

use crate::Control;
use ostler_domain::{Run, RunStatus, Sandbox, SandboxId, TenantId};
use ostler_egress::Denial;
use ostler_store::{RunFilter, StoreExt};
use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// For how long the same is told once.
const WINDOW: Duration = Duration::from_secs(60);
/// Different denials of one sandbox that are told within it.
const MOST: usize = 200;

/// What was told of one sandbox.
struct Window {
    since: Instant,
    told: HashSet<String>,
}

/// Keeps what a sandbox does over and over from filling the log and the events.
#[derive(Default)]
struct Windows(HashMap<SandboxId, Window>);

/// Whether a denial is told.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Tell,
    /// It is the first of those that are too many.
    TooMany,
    Keep,
}

impl Windows {
    fn verdict(&mut self, sandbox: SandboxId, what: String, now: Instant) -> Verdict {
        self.0
            .retain(|_, window| now.duration_since(window.since) < WINDOW);
        let window = self.0.entry(sandbox).or_insert_with(|| Window {
            since: now,
            told: HashSet::new(),
        });
        if window.told.len() > MOST || !window.told.insert(what) {
            Verdict::Keep
        } else if window.told.len() > MOST {
            Verdict::TooMany
        } else {
            Verdict::Tell
        }
    }
}

impl Control {
    /// Logs denials and tells the holders of the sandboxes, until the channel ends. Each sandbox's are limited.
    pub async fn tell_denials(&self, mut denied: mpsc::Receiver<Denial>) {
        let mut windows = Windows::default();
        while let Some(denial) = denied.recv().await {
            let Denial {
                sandbox,
                kind,
                target,
                reason,
                ..
            } = denial;
            let (kind, what) = (kind.as_str(), format!("{} {target}", kind.as_str()));
            let data = match windows.verdict(sandbox, what, Instant::now()) {
                Verdict::Keep => continue,
                Verdict::Tell => {
                    tracing::info!(sandbox.id = %sandbox, kind, target, reason, "a sandbox was not let out");
                    serde_json::json!({ "kind": kind, "target": target, "reason": reason })
                }
                Verdict::TooMany => {
                    tracing::warn!(sandbox.id = %sandbox, "a sandbox tries many ways out; not each is told");
                    let reason = format!(
                        "more than {MOST} different attempts within {} s; the others are not told",
                        WINDOW.as_secs()
                    );
                    serde_json::json!({ "kind": "limit", "target": "", "reason": reason })
                }
            };
            if let Err(error) = self.tell(sandbox, data).await {
                tracing::warn!(%error, sandbox.id = %sandbox, "a holder is not told what was denied");
            }
        }
    }

    /// As an event of the agent, or of the run whose sandbox it is. Of a warm one there is nobody to tell.
    async fn tell(&self, id: SandboxId, data: serde_json::Value) -> crate::Result<()> {
        let sandbox: Option<Sandbox> = self.parts.store.get(id).await?;
        let Some((tenant, for_run)) = sandbox.and_then(|s| Some((s.tenant_id?, s.for_run))) else {
            return Ok(());
        };
        let event = if for_run {
            let Some(run) = self.run_in(tenant, id).await? else {
                return Ok(());
            };
            self.event(tenant, "run.denied", run.submitted.id, data)
        } else {
            self.event(tenant, "agent.denied", id, data)
        };
        self.commit(vec![event]).await
    }

    /// The run that a sandbox carries, or carried a moment ago.
    async fn run_in(&self, tenant: TenantId, id: SandboxId) -> crate::Result<Option<Run>> {
        for (status, limit) in [(Some(RunStatus::Running), 1000), (None, 100)] {
            let filter = RunFilter {
                tenant_id: Some(tenant),
                status,
                limit,
                ..RunFilter::default()
            };
            let mut runs = self.parts.store.runs(filter).await?.into_iter();
            if let Some(run) = runs.find(|run| run.sandbox_id == Some(id)) {
                return Ok(Some(run));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repetitions_and_floods_are_told_once() {
        let (mut windows, now) = (Windows::default(), Instant::now());
        let (one, other) = (SandboxId::new(), SandboxId::new());
        assert_eq!(windows.verdict(one, "a".into(), now), Verdict::Tell);
        assert_eq!(windows.verdict(one, "a".into(), now), Verdict::Keep);
        for n in 1..MOST {
            assert_eq!(windows.verdict(one, n.to_string(), now), Verdict::Tell);
        }
        assert_eq!(windows.verdict(one, "b".into(), now), Verdict::TooMany);
        assert_eq!(windows.verdict(one, "c".into(), now), Verdict::Keep);
        assert_eq!(windows.verdict(other, "a".into(), now), Verdict::Tell);
        assert_eq!(windows.verdict(one, "a".into(), now + WINDOW), Verdict::Tell);
    }
}
