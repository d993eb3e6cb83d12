//! Runs: submitting, ending, and saying why one waits.

use crate::{Caller, Control, ControlError, LogReader, Result};
use ostler_contracts::{PoolVerdict, RunExplanation};
use ostler_domain::{
    CommandSpec, Isolation, KernelOffer, NewRun, Offer, Permission, Pool, Requirements, Run, RunId, RunKind,
    RunSpec, RunStatus, SubtaskId,
};
use ostler_store::{Cancelled, Change, Filter, RunFilter, StoreExt, as_owner};
use serde_json::json;
use std::time::Duration;

/// A command that a person submits.
#[derive(Debug, Clone, Default)]
pub struct NewCommand {
    /// What is executed.
    pub command: CommandSpec,
    /// What it needs.
    pub requirements: Requirements,
    /// Higher goes first; −1000 to 1000.
    pub priority: i32,
    /// Time from its start to its forced end; the default of the settings when absent.
    pub timeout: Option<Duration>,
}

/// Longest time-out that can be asked for.
const MAX_TIMEOUT: Duration = Duration::from_secs(7 * 24 * 3600);

impl Control {
    /// Puts a command on the queue. What no pool can ever satisfy is refused at once, with the reason of each pool.
    pub async fn submit_run(&self, caller: &Caller, new: NewCommand) -> Result<Run> {
        caller.require(Permission::RunsWrite)?;
        let program = new.command.argv.first().map_or("", String::as_str);
        if program.is_empty() {
            return Err(ControlError::Invalid(
                "a run needs a command; give it after `--`".into(),
            ));
        }
        if new.command.argv.iter().any(|word| word.contains('\0')) {
            return Err(ControlError::Invalid("a command cannot hold a zero byte".into()));
        }
        if !(-1000..=1000).contains(&new.priority) {
            return Err(ControlError::Invalid(
                "the priority must be from -1000 to 1000".into(),
            ));
        }
        if new.timeout.is_some_and(|t| t.is_zero() || t > MAX_TIMEOUT) {
            return Err(ControlError::Invalid(
                "the time-out must be from 1 second to 7 days".into(),
            ));
        }
        let verdicts = self.verdicts(&new.requirements).await?;
        if !verdicts.iter().any(|v| v.suitable) {
            return Err(ControlError::Unprocessable(impossible(&verdicts)));
        }
        let id = RunId::new();
        let run = NewRun {
            id,
            tenant_id: caller.tenant_id,
            kind: RunKind::Command,
            project_id: None,
            task_id: None,
            subtask_id: None,
            plan_id: None,
            ordinal: 1,
            requirements: new.requirements,
            priority: new.priority,
            max_attempts: self.parts.work.run_attempts,
            not_before: None,
            held: false,
            spec: RunSpec {
                commands: vec![new.command],
                timeout: Some(
                    new.timeout
                        .unwrap_or(Duration::from_secs(self.parts.work.agent_timeout_seconds)),
                ),
                ..RunSpec::default()
            },
            created_at: self.now(),
        };
        // Arguments may hold what is secret, so that only the program is told.
        let details = json!({ "kind": run.kind, "program": program_of(&run) });
        let by = self.acting(caller, "run.submit", id, details);
        by.commit(vec![Change::enqueue(run)]).await?;
        self.run(caller, id).await
    }

    /// One run.
    pub async fn run(&self, caller: &Caller, id: RunId) -> Result<Run> {
        let run = self
            .parts
            .store
            .run(id)
            .await?
            .filter(|run| run.submitted.tenant_id == caller.tenant_id);
        let run = run.ok_or_else(|| ControlError::NotFound {
            what: "run",
            id: id.to_string(),
        })?;
        caller.require(Permission::RunsRead)?;
        Ok(run)
    }

    /// The tenant's runs that the filter describes, newest first.
    pub async fn runs(&self, caller: &Caller, filter: RunFilter) -> Result<Vec<Run>> {
        caller.require(Permission::RunsRead)?;
        let filter = RunFilter {
            tenant_id: Some(caller.tenant_id),
            limit: filter.limit.min(1000),
            ..filter
        };
        Ok(self.parts.store.runs(filter).await?)
    }

    /// The runs of a subtask, newest first.
    pub async fn subtask_runs(&self, caller: &Caller, id: SubtaskId) -> Result<Vec<Run>> {
        let subtask = self.subtask_of(caller.tenant_id, id).await?;
        let filter = RunFilter {
            subtask_id: Some(subtask.id),
            limit: 1000,
            ..RunFilter::default()
        };
        self.runs(caller, filter).await
    }

    /// Requests the end of a run; asking twice, or too late, is no error.
    pub async fn cancel_run(&self, caller: &Caller, id: RunId) -> Result<Cancelled> {
        let run = self.run(caller, id).await?;
        caller.require(Permission::RunsWrite)?;
        if run.status.is_terminal() {
            return Ok(Cancelled::TooLate);
        }
        let by = self.acting(caller, "run.cancel", id, ());
        by.commit(vec![Change::CancelRun(id)]).await?;
        let now = self.parts.store.run(id).await?;
        let outcome = match now {
            Some(now) if now.status == RunStatus::Cancelled => Cancelled::AtOnce,
            Some(now) if !now.status.is_terminal() => Cancelled::Requested,
            _ => Cancelled::TooLate,
        };
        if outcome == Cancelled::AtOnce {
            self.settle_run(&run).await;
        }
        Ok(outcome)
    }

    /// A run's log from the beginning; `None` when it has none (yet), or when another server executed it.
    pub async fn run_log(&self, caller: &Caller, id: RunId) -> Result<Option<LogReader>> {
        self.run(caller, id).await?;
        self.parts
            .logs
            .reader(id)
            .map_err(|error| ControlError::Unavailable(format!("the log of {id} cannot be read: {error}")))
    }

    /// Where the log of a run is, or the rest of it, if not on this server: a sentence for people.
    pub fn log_elsewhere(&self, run: &Run) -> Option<String> {
        let server = run.server_id.filter(|id| *id != self.parts.server_id)?;
        Some(format!(
            "it was taken up by another server, {server}, and what it writes is in the log there"
        ))
    }

    /// Why a run is where it is.
    pub async fn explain_run(&self, caller: &Caller, id: RunId) -> Result<RunExplanation> {
        let run = self.run(caller, id).await?;
        let verdicts = self.verdicts(&run.submitted.requirements).await?;
        // Those of others go before it as well.
        let ahead = as_owner(self.parts.store.position(id)).await?;
        let summary = match run.status {
            RunStatus::Queued => match (run.submitted.not_before, ahead) {
                _ if !verdicts.iter().any(|v| v.suitable) => impossible(&verdicts),
                _ if run.submitted.held => held(&run),
                _ if verdicts.iter().all(|v| !v.suitable || !v.reasons.is_empty()) => hindered(&verdicts),
                (Some(due), _) if due > self.now() => {
                    format!(
                        "it waits until {}, after an earlier failure",
                        ostler_contracts::Time(due)
                    )
                }
                (_, ahead) => {
                    let wanted = &run.submitted;
                    let why = self
                        .why_waiting(wanted.tenant_id, &wanted.requirements, Some(wanted.priority))
                        .await?;
                    let why = match why {
                        Some(why) => why.to_string(),
                        None => "it is next, and is taken up as soon as a slot of the server is free".into(),
                    };
                    match ahead {
                        Some(ahead) if ahead > 0 => {
                            format!(
                                "{ahead} runs with the same requirements go first, of which the next: {why}"
                            )
                        }
                        _ => why,
                    }
                }
            },
            RunStatus::Running => match run.sandbox_id {
                Some(sandbox) => format!("it is being executed in {sandbox}"),
                None => "it was taken up, and waits for its sandbox to start".into(),
            },
            status => match &run.outcome.error {
                Some(error) => format!("it is {status}: {error}"),
                None => format!("it is {status}"),
            },
        };
        Ok(RunExplanation {
            status: run.status,
            summary,
            ahead,
            pools: verdicts,
        })
    }

    /// Lets the task and subtask, or the plan, of a run that has ended go on.
    pub(crate) async fn settle_run(&self, run: &Run) {
        let submitted = &run.submitted;
        if let Some(plan) = submitted.plan_id {
            self.plan_moved(plan);
            return;
        }
        let settled = match (submitted.subtask_id, submitted.task_id) {
            (Some(subtask), _) => self.settle_subtask(subtask).await,
            (None, Some(task)) => self.settle_task(task).await,
            (None, None) => Ok(()),
        };
        if let Err(error) = settled {
            tracing::warn!(%error, run.id = %submitted.id, "what the run belongs to could not go on; it is tried again");
        }
    }

    /// What each pool has to say to these requirements.
    pub(crate) async fn verdicts(&self, requirements: &Requirements) -> Result<Vec<PoolVerdict>> {
        let pools: Vec<Pool> = self.parts.store.list(Filter::all()).await?;
        let counts = self.counts().await?;
        let mut verdicts = Vec::new();
        for pool in pools {
            let offer = self.offer(&pool).unwrap_or_else(|| {
                // Another server may have the driver, or this one later: what only the driver knows is taken as wanted.
                let isolation = requirements.isolation.unwrap_or(Isolation::Process);
                let kernel = requirements.kernel.iter().map(|wanted| KernelOffer {
                    name: wanted.clone(),
                    version: None,
                });
                let arch = requirements.arch.as_deref().unwrap_or_default();
                pool.offer(isolation, arch, &kernel.collect::<Vec<_>>())
            });
            let mut reasons = requirements.unmet(&offer);
            let suitable = reasons.is_empty();
            if let Some(why) = self.unavailable(pool.template.driver).filter(|_| suitable) {
                reasons.push(why);
            } else if suitable {
                let live = counts.get(&pool.name).map_or(0, |counts| counts.live());
                if live >= pool.max {
                    reasons.push(format!("all {} sandboxes are in use", pool.max));
                }
                reasons.extend(
                    pool.last_error
                        .map(|error| format!("the last start failed: {error}")),
                );
            }
            verdicts.push(PoolVerdict {
                pool: pool.name,
                suitable,
                reasons,
            });
        }
        Ok(verdicts)
    }

    /// What the sandboxes of a pool offer here; `None` without its driver.
    pub(crate) fn offer(&self, pool: &Pool) -> Option<Offer> {
        let driver = self.parts.drivers.of(pool)?;
        let capabilities = driver.capabilities();
        Some(pool.offer(capabilities.isolation, &capabilities.arch, &capabilities.kernels))
    }
}

pub(crate) fn impossible(verdicts: &[PoolVerdict]) -> String {
    if verdicts.is_empty() {
        return "no pool is set up; make one with `ostler pool set`, or let `ostler doctor` say why there is none".into();
    }
    format!("no pool satisfies the requirements. {}", listed(verdicts.iter()))
}

/// Why a test is held.
fn held(run: &Run) -> String {
    let needs = run.submitted.spec.test.as_ref().map(|test| test.needs.as_slice());
    match needs.unwrap_or_default() {
        [] => "it waits until fewer tests of its plan are executed".to_owned(),
        needs => format!("it waits for the tests that it needs: {}", needs.join(", ")),
    }
}

/// Why a run waits that some pool suits, but none can take.
pub(crate) fn hindered(verdicts: &[PoolVerdict]) -> String {
    format!("it waits. {}", listed(verdicts.iter().filter(|v| v.suitable)))
}

fn listed<'a>(verdicts: impl Iterator<Item = &'a PoolVerdict>) -> String {
    let reasons: Vec<String> = verdicts
        .map(|v| format!("{}: {}", v.pool, v.reasons.join(", ")))
        .collect();
    reasons.join("; ")
}

/// The name of the program that a run begins with.
fn program_of(run: &NewRun) -> &str {
    let command = run.spec.commands.first();
    command.and_then(|c| c.argv.first()).map_or("", String::as_str)
}
