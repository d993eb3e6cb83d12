//! Starting one sandbox.

use super::claim::Stopwatch;
use super::hosts::host_change;
use crate::conflict::retry_on_conflict;
use crate::guest::Guest;
use crate::hosts::{DriverHost, LOCAL};
use crate::probe;
use crate::{Control, ControlError, Result};
use ostler_domain::{Host, Pool, Sandbox, SandboxId, SandboxStatus, SandboxTemplate};
use ostler_sandbox::worker::{WORKER_ID, WORKER_TYPE};
use ostler_sandbox::{DriverError, SandboxSpec};
use ostler_store::{Change, Filter, Op, StoreError, StoreExt};
use std::sync::Arc;
use std::time::Duration;

/// How often a free vsock context id is looked for, when others take it at the same moment.
const CID_TRIES: u32 = 50;
/// The first context id that a sandbox can have: those below are the hypervisor's and the host's.
const FIRST_CID: u32 = 3;

/// What to do about one that takes too long.
const SLOW: &str = "; see `ostler doctor`, or give it more time by `sandboxes.start_seconds`";

/// How far a start goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Until {
    /// Until the back end has started it.
    Started,
    /// Until its guest answers.
    Ready,
}

/// Why a start came to nothing.
struct Failed {
    message: String,
    /// Whether it speaks against the host, and not against what was asked of it.
    host: bool,
}

/// The template with what is each worker's own. The record has it as the pool does, by which it is claimed.
fn own_template(sandbox: &Sandbox) -> SandboxTemplate {
    let mut template = sandbox.template.clone();
    if template.env.contains_key(WORKER_TYPE) {
        let id = template.env.entry(WORKER_ID.into());
        id.or_insert_with(|| sandbox.id.to_string());
    }
    template
}

impl Control {
    pub(super) fn new_sandbox(&self, pool: &Pool) -> Sandbox {
        Sandbox {
            id: SandboxId::new(),
            tenant_id: None,
            department_id: None,
            pool: pool.name.clone(),
            driver: pool.template.driver,
            driver_ref: None,
            server_id: self.parts.server_id,
            host: LOCAL.into(),
            status: SandboxStatus::Provisioning,
            paused: None,
            template: pool.template.clone(),
            config: serde_json::Value::Null,
            tool_allowlist: None,
            vsock_cid: None,
            for_run: false,
            failures: 0,
            reason: None,
            created_at: self.now(),
            claimed_at: None,
            checked_at: None,
            used_at: None,
            version: 0,
        }
    }

    /// Starts a sandbox on the best host, one in the room `on` before others, or on the next best if that one fails, and
    /// writes it down as `status`. A failure leaves nothing behind.
    pub(super) async fn start_placed(
        &self,
        mut sandbox: Sandbox,
        status: SandboxStatus,
        until: Until,
        on: Option<&str>,
        watch: &mut Stopwatch,
    ) -> Result<Sandbox> {
        let (mut tried, mut failures) = (Vec::new(), Vec::new());
        loop {
            // Until its record is written, nobody else knows what it takes of the machine.
            let turn = self.placing.lock().await;
            let Some((host, failed_before)) = self.place(&sandbox.template, on, &tried).await? else {
                break;
            };
            watch.lap("place");
            if !failures.is_empty() {
                // The record of a failed start stays; a further one needs a name of its own.
                sandbox.id = SandboxId::new();
            }
            sandbox.host.clone_from(&host.name);
            self.write_down(&mut sandbox, &host).await?;
            drop(turn);
            let failed = match self.start_on(&host, &mut sandbox, until, watch).await {
                Ok(()) => {
                    sandbox.transition(status)?;
                    self.commit(vec![Change::update(&sandbox)]).await?;
                    sandbox.version += 1;
                    if failed_before {
                        self.note_host(&host, None).await?;
                    }
                    return Ok(sandbox);
                }
                Err(failed) => failed,
            };
            // A host that is away cannot remove anything either; that must not keep the next one from being tried.
            self.destroyed(&sandbox, &failed.message).await;
            if failed.host {
                self.note_host(&host, Some(&failed.message)).await?;
            }
            failures.push(if host.name == LOCAL {
                failed.message
            } else {
                format!("on {}: {}", host.name, failed.message)
            });
            tried.push(host.name);
        }
        Err(ControlError::Unavailable(format!(
            "a sandbox of the pool {} did not start: {}",
            sandbox.pool,
            failures.join("; ")
        )))
    }

    /// Writes the record, with a vsock context id where the driver needs one.
    async fn write_down(&self, sandbox: &mut Sandbox, host: &DriverHost) -> Result<()> {
        if !host.driver.capabilities().vsock {
            return self.commit(vec![Change::insert(sandbox)]).await;
        }
        for _ in 0..CID_TRIES {
            sandbox.vsock_cid = Some(i64::from(self.free_cid().await?));
            match self.commit(vec![Change::insert(sandbox)]).await {
                // Somebody took it at the same moment.
                Err(ControlError::Store(StoreError::Duplicate { .. })) => {}
                other => return other,
            }
        }
        Err(ControlError::Unavailable(
            "no free vsock context id was found while many sandboxes were started at once; try again".into(),
        ))
    }

    /// The lowest context id that no live sandbox has.
    async fn free_cid(&self) -> Result<u32> {
        let used = Filter::<Sandbox>::all()
            .and("vsock_cid", Op::Gt, 0i64)
            .unlike("status", "destroyed")
            .order_by("vsock_cid");
        let mut free = FIRST_CID;
        for sandbox in self.parts.store.list(used).await? {
            if sandbox.vsock_cid == Some(i64::from(free)) {
                free += 1;
            }
        }
        let last = self.parts.sandboxes.last_cid;
        if free > last {
            return Err(ControlError::Unavailable(format!(
                "all vsock context ids from {FIRST_CID} to {last} are in use; end a sandbox, or raise `sandboxes.last_cid`"
            )));
        }
        Ok(free)
    }

    async fn start_on(
        &self,
        host: &DriverHost,
        sandbox: &mut Sandbox,
        until: Until,
        watch: &mut Stopwatch,
    ) -> std::result::Result<(), Failed> {
        let limit = Duration::from_secs(self.parts.sandboxes.start_seconds.max(1));
        let spec = SandboxSpec {
            vsock_cid: sandbox.vsock_cid.and_then(|cid| u32::try_from(cid).ok()),
            ..SandboxSpec::new(sandbox.id, own_template(sandbox))
        };
        let started = tokio::time::timeout(limit, host.driver.start(&spec)).await;
        watch.lap(if sandbox.template.snapshot.is_some() {
            "restore"
        } else {
            "start"
        });
        let reference = started
            .unwrap_or(Err(DriverError::TimedOut {
                driver: host.kind,
                action: "start",
                id: sandbox.id,
                limit,
            }))
            .map_err(|error| match error {
                DriverError::TimedOut { .. } => Failed {
                    host: true,
                    message: format!("{error}{SLOW}"),
                },
                _ => Failed {
                    host: matches!(error, DriverError::Unavailable { .. }),
                    message: error.to_string(),
                },
            })?;
        sandbox.driver_ref = Some(reference);
        if until == Until::Started {
            return Ok(());
        }
        // A kernel that was asked for and does not get that far says nothing about the host.
        let silent = |message: String| Failed {
            message,
            host: sandbox.template.kernel.is_none(),
        };
        let ready = probe::ready(&host.driver, sandbox.id, limit).await;
        watch.lap("ready");
        ready.map_err(|error| silent(format!("{error} (waited {limit:?}){SLOW}")))?;
        if sandbox.template.snapshot.is_some() {
            // What every clone of the snapshot would share otherwise.
            let name = sandbox.id.to_string().replace('_', "-");
            Guest::new(Arc::clone(&host.driver), sandbox.id)
                .renew(&name)
                .await
                .map_err(|error| silent(error.to_string()))?;
            watch.lap("renew");
        }
        sandbox.checked_at = Some(self.now());
        Ok(())
    }

    /// Counts a failure that speaks against a host, or ends the count. After too many in a row nothing is started there for
    /// a while.
    pub(super) async fn note_host(&self, host: &DriverHost, error: Option<&str>) -> Result<()> {
        retry_on_conflict!({
            let mut record = self.host_record(host.kind, &host.name).await?;
            match error {
                None if record.failures == 0 => return Ok(()),
                None => {
                    (record.failures, record.last_error, record.quarantined_until) = (0, None, None);
                }
                // What was under way when it began must not make it longer.
                Some(_) if record.quarantined_until.is_some_and(|until| self.now() < until) => return Ok(()),
                Some(error) => {
                    record.failures += 1;
                    record.last_error = Some(error.to_owned());
                    record.quarantined_until =
                        Host::quarantine(record.failures, self.parts.sandboxes.quarantine_failures)
                            .map(|wait| self.now().plus(wait));
                    if record.quarantined_until.is_some() {
                        tracing::warn!(driver = %host.kind, host = host.name, error, "a host is in quarantine");
                    }
                }
            }
            self.commit(vec![host_change(&mut record)]).await
        })
    }
}
