//! Sandboxes: warm pools, claims, cold starts, ends, and what is found at start-up.
//!
//! The record comes before the thing: a sandbox is written down as `provisioning` before its driver starts it, and as
//! `destroying` before its driver removes it, so that whatever instant a server is killed at, its next start finds a
//! record for everything that its drivers have, or removes what has none.

use crate::conflict::retry_on_conflict;
use crate::guest::Guest;
use crate::{Caller, Control, ControlError, Result};
use ostler_domain::{
    DepartmentId, Permission, Pool, Sandbox, SandboxId, SandboxStatus, SandboxTemplate, TenantId,
};
use ostler_sandbox::{Driver, SandboxSpec};
use ostler_store::{Change, ClaimSandbox, Filter, Op, StoreExt};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;

/// Longest wait for a sandbox to answer after its start.
const READY: Duration = Duration::from_secs(30);
/// Time that the programs of a sandbox have to end by themselves.
const GRACE: Duration = Duration::from_secs(2);

/// Who a sandbox is claimed for.
#[derive(Debug, Clone, Default)]
pub struct Holder {
    /// Department.
    pub department_id: Option<DepartmentId>,
    /// Configuration.
    pub config: serde_json::Value,
    /// Commands that programs in it may use.
    pub tool_allowlist: Option<Vec<String>>,
    /// Whether it ends with its run.
    pub for_run: bool,
}

/// A sandbox that was claimed.
#[derive(Debug, Clone)]
pub struct Claimed {
    /// The sandbox, running.
    pub sandbox: Sandbox,
    /// Why it was not warm; `None` when it was.
    pub cold_reason: Option<String>,
}

impl Control {
    /// The pools, by name.
    pub async fn pools(&self, caller: &Caller) -> Result<Vec<(Pool, Vec<Sandbox>)>> {
        caller.require(Permission::FleetRead)?;
        let mut all = Vec::new();
        for pool in self.parts.store.list::<Pool>(Filter::all()).await? {
            let sandboxes = self.live_sandboxes(&pool.name).await?;
            all.push((pool, sandboxes));
        }
        Ok(all)
    }

    /// Makes a pool or changes it. Warm sandboxes of an old template are replaced by the next round over the pools.
    pub async fn set_pool(
        &self,
        caller: &Caller,
        name: &str,
        template: Option<SandboxTemplate>,
        target: Option<u32>,
        max: Option<u32>,
    ) -> Result<Pool> {
        caller.require(Permission::FleetWrite)?;
        if ostler_domain::slug(name, 60) != name {
            return Err(ControlError::Invalid(
                "a pool's name is lower-case letters, digits and single hyphens".into(),
            ));
        }
        retry_on_conflict!({
            let known: Option<Pool> = self
                .parts
                .store
                .first(Filter::by("name", name.to_owned()))
                .await?;
            let mut pool = match (&known, template.clone()) {
                (Some(pool), None) => pool.clone(),
                (Some(pool), Some(template)) => Pool {
                    template,
                    ..pool.clone()
                },
                (None, Some(template)) => Pool {
                    name: name.to_owned(),
                    template,
                    target: 2,
                    max: 16,
                    start_concurrency: 2,
                    refill_per_minute: 60,
                    refill_burst: 20,
                    failures: 0,
                    last_error: None,
                    retry_at: None,
                    version: 0,
                },
                (None, None) => {
                    return Err(ControlError::Invalid(format!(
                        "there is no pool {name}; a new one needs a template with a driver"
                    )));
                }
            };
            pool.target = target.unwrap_or(pool.target);
            pool.max = max.unwrap_or(pool.max);
            if pool.target > pool.max {
                return Err(ControlError::Invalid(format!(
                    "the target of {} warm sandboxes is over the maximum of {}",
                    pool.target, pool.max
                )));
            }
            // A server without the driver leaves the pool to those that have it.
            if let Some(driver) = self.parts.drivers.get(&pool.template.driver) {
                driver
                    .check(&pool.template)
                    .map_err(|error| ControlError::Unprocessable(error.to_string()))?;
            }
            (pool.failures, pool.last_error, pool.retry_at) = (0, None, None);
            let change = if known.is_some() {
                Change::update(&pool)
            } else {
                Change::insert(&pool)
            };
            self.commit(vec![change]).await?;
            pool.version += i64::from(known.is_some());
            Ok(pool)
        })
    }

    /// All sandboxes that are not gone: the operator's view.
    pub async fn sandboxes(&self, caller: &Caller) -> Result<Vec<Sandbox>> {
        caller.require(Permission::FleetRead)?;
        let live = Filter::all()
            .and("status", Op::Ne, SandboxStatus::Destroyed)
            .order_by("created_at");
        Ok(self.parts.store.list(live).await?)
    }

    /// One sandbox: the operator's view.
    pub async fn sandbox(&self, caller: &Caller, id: SandboxId) -> Result<Sandbox> {
        caller.require(Permission::FleetRead)?;
        let sandbox: Option<Sandbox> = self.parts.store.get(id).await?;
        sandbox.ok_or_else(|| ControlError::NotFound {
            what: "sandbox",
            id: id.to_string(),
        })
    }

    pub(crate) fn driver(&self, pool: &Pool) -> Result<&Arc<dyn Driver>> {
        self.driver_of(pool.template.driver)
    }

    pub(crate) fn guest(&self, sandbox: &Sandbox) -> Result<Guest> {
        let driver = self.driver_of(sandbox.driver)?;
        Ok(Guest::new(Arc::clone(driver), sandbox.id))
    }

    /// Claims a warm sandbox of a pool, or starts one.
    pub(crate) async fn acquire(&self, pool: &Pool, tenant: TenantId, holder: Holder) -> Result<Claimed> {
        let driver = self.driver(pool)?;
        let claim = ClaimSandbox {
            pool: pool.name.clone(),
            server_id: self.parts.server_id,
            tenant_id: tenant,
            department_id: holder.department_id,
            config: holder.config.clone(),
            tool_allowlist: holder.tool_allowlist.clone(),
            for_run: holder.for_run,
            now: self.now(),
        };
        while let Some(sandbox) = self.parts.store.claim_sandbox(claim.clone()).await? {
            // One that died while it was warm, or is of an old template, is not handed out.
            if sandbox.template == pool.template && self.guest(&sandbox)?.healthy().await {
                return Ok(Claimed {
                    sandbox,
                    cold_reason: None,
                });
            }
            self.destroy(sandbox.id, "it did not answer when it was claimed")
                .await?;
        }
        let mut sandbox = self.new_sandbox(pool);
        sandbox.tenant_id = Some(tenant);
        sandbox.department_id = holder.department_id;
        sandbox.config = holder.config;
        sandbox.tool_allowlist = holder.tool_allowlist;
        sandbox.for_run = holder.for_run;
        sandbox.claimed_at = Some(self.now());
        let sandbox = self.start(driver, sandbox).await?;
        let sandbox = self.to_running(sandbox).await?;
        Ok(Claimed {
            sandbox,
            cold_reason: Some(format!("no sandbox of the pool {} was warm", pool.name)),
        })
    }

    /// Ends a sandbox and removes everything of it. Idempotent. If the driver fails, the record stays `destroying`, and
    /// the next round over the pools tries again.
    pub(crate) async fn destroy(&self, id: SandboxId, reason: &str) -> Result<()> {
        let live = retry_on_conflict!({
            let Some(mut sandbox) = self.parts.store.get::<Sandbox, _>(id).await? else {
                return Ok(None);
            };
            match sandbox.status {
                SandboxStatus::Destroyed => return Ok(None),
                SandboxStatus::Destroying => {}
                _ => {
                    sandbox.transition(SandboxStatus::Destroying)?;
                    sandbox.reason = Some(reason.to_owned());
                    self.commit(vec![Change::update(&sandbox)]).await?;
                    sandbox.version += 1;
                }
            }
            Ok::<_, ControlError>(Some(sandbox))
        })?;
        let Some(sandbox) = live else { return Ok(()) };
        self.driver_of(sandbox.driver)?
            .remove(id, GRACE)
            .await
            .map_err(|error| ControlError::Unavailable(error.to_string()))?;
        retry_on_conflict!({
            // Another round may have been at it, too.
            match self.parts.store.get::<Sandbox, _>(id).await? {
                Some(mut gone) if gone.status != SandboxStatus::Destroyed => {
                    gone.transition(SandboxStatus::Destroyed)?;
                    self.commit(vec![Change::update(&gone)]).await
                }
                _ => Ok(()),
            }
        })
    }

    /// One round over the pools of this server: fills them to their targets, replaces what is of an old template, and
    /// ends what should have ended. Returns how many sandboxes were started or ended.
    pub async fn fill_pools(&self) -> Result<usize> {
        let mut changed = 0;
        let ending = Filter::<Sandbox>::by("server_id", self.parts.server_id).and(
            "status",
            Op::Eq,
            SandboxStatus::Destroying,
        );
        for sandbox in self.parts.store.list(ending).await? {
            changed += usize::from(self.destroyed(&sandbox, "").await);
        }
        for pool in self.parts.store.list::<Pool>(Filter::all()).await? {
            let Ok(driver) = self.driver(&pool) else { continue };
            let live = self.live_sandboxes(&pool.name).await?;
            let mine = live.iter().filter(|s| s.server_id == self.parts.server_id);
            let (warm, stale): (Vec<_>, Vec<_>) = mine
                .filter(|s| s.status == SandboxStatus::Warm)
                .partition(|s| s.template == pool.template);
            let surplus = warm.iter().skip(pool.target as usize);
            for sandbox in stale.iter().chain(surplus) {
                let reason = "the pool does not need it any more";
                changed += usize::from(self.destroyed(sandbox, reason).await);
            }
            if pool.retry_at.is_some_and(|at| self.now() < at) {
                continue;
            }
            let room = (pool.max as usize).saturating_sub(live.len());
            let wanted = (pool.target as usize).saturating_sub(warm.len()).min(room);
            for _ in 0..wanted {
                match self.start(driver, self.new_sandbox(&pool)).await {
                    Ok(mut sandbox) => {
                        sandbox.transition(SandboxStatus::Warm)?;
                        self.commit(vec![Change::update(&sandbox)]).await?;
                        changed += 1;
                        self.note_start(&pool.name, None).await?;
                    }
                    Err(error) => {
                        // Tried again later: a pool that cannot start anything must not churn.
                        self.note_start(&pool.name, Some(error.to_string())).await?;
                        break;
                    }
                }
            }
        }
        Ok(changed)
    }

    /// Brings records and drivers together after a start: removes what has no record, and ends what nobody holds any
    /// more. `keep` are the sandboxes of runs that are adopted. What a driver cannot do at present is left to the rounds
    /// over the pools and to the next start, so that one that is broken does not keep the server from starting.
    pub async fn reconcile_sandboxes(&self, keep: &BTreeSet<SandboxId>) -> Result<usize> {
        let mut ended = self.remove_unrecorded().await?;
        for sandbox in self.parts.store.list(self.own_sandboxes()).await? {
            let held = sandbox.status == SandboxStatus::Running && !sandbox.for_run;
            let useful = held || sandbox.status == SandboxStatus::Warm || keep.contains(&sandbox.id);
            let guest = match self.guest(&sandbox) {
                Ok(guest) => guest,
                Err(error) => {
                    tracing::warn!(%error, sandbox.id = %sandbox.id, "a sandbox is left as it is");
                    continue;
                }
            };
            if useful && guest.healthy().await {
                continue;
            }
            ended += usize::from(self.destroyed(&sandbox, "the server was started again").await);
        }
        Ok(ended)
    }

    /// Removes what the drivers of this server have and no record of it names.
    pub(crate) async fn remove_unrecorded(&self) -> Result<usize> {
        let mut ended = 0;
        for driver in self.parts.drivers.values() {
            let found = match driver.list().await {
                Ok(found) => found,
                Err(error) => {
                    tracing::warn!(%error, "sandboxes without a record cannot be looked for; the next start does it");
                    continue;
                }
            };
            // After the things: the record of each comes before it.
            let records = self.parts.store.list(self.own_sandboxes()).await?;
            let known: BTreeSet<SandboxId> = records.iter().map(|s| s.id).collect();
            for id in found.into_iter().filter(|id| !known.contains(id)) {
                match driver.remove(id, GRACE).await {
                    Ok(()) => ended += 1,
                    Err(error) => {
                        tracing::warn!(%error, sandbox.id = %id, "a sandbox without a record is not removed; the next start does it");
                    }
                }
            }
        }
        Ok(ended)
    }

    /// Takes a sandbox off the books whose server is gone, and with it the way to remove it.
    pub(crate) async fn forget(&self, id: SandboxId, reason: &str) -> Result<()> {
        retry_on_conflict!({
            match self.parts.store.get::<Sandbox, _>(id).await? {
                Some(mut gone) if gone.status != SandboxStatus::Destroyed => {
                    if gone.status != SandboxStatus::Destroying {
                        gone.transition(SandboxStatus::Destroying)?;
                    }
                    gone.transition(SandboxStatus::Destroyed)?;
                    gone.reason = Some(reason.to_owned());
                    self.commit(vec![Change::update(&gone)]).await
                }
                _ => Ok(()),
            }
        })
    }

    fn own_sandboxes(&self) -> Filter<Sandbox> {
        Filter::by("server_id", self.parts.server_id).and("status", Op::Ne, SandboxStatus::Destroyed)
    }

    /// [`Self::destroy`], where a failure must not keep others from ending: it is tried again by the rounds.
    async fn destroyed(&self, sandbox: &Sandbox, reason: &str) -> bool {
        let done = self.destroy(sandbox.id, reason).await;
        if let Err(error) = &done {
            tracing::warn!(%error, sandbox.id = %sandbox.id, "a sandbox is not removed yet; it is tried again");
        }
        done.is_ok()
    }

    /// Ends all sandboxes of this server: nothing of it is left after a graceful stop.
    pub async fn end_sandboxes(&self) -> Result<()> {
        // Each is given time to end by itself, which all can have at once.
        let mut ends = JoinSet::new();
        for sandbox in self.parts.store.list(self.own_sandboxes()).await? {
            let control = self.clone();
            ends.spawn(async move { control.destroyed(&sandbox, "the server was stopped").await });
        }
        ends.join_all().await;
        Ok(())
    }

    fn new_sandbox(&self, pool: &Pool) -> Sandbox {
        Sandbox {
            id: SandboxId::new(),
            tenant_id: None,
            department_id: None,
            pool: pool.name.clone(),
            driver: pool.template.driver,
            driver_ref: None,
            server_id: self.parts.server_id,
            host: "local".into(),
            paused: None,
            status: SandboxStatus::Provisioning,
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

    /// Writes the record down, starts the sandbox and waits for its guest. A failure leaves nothing behind.
    async fn start(&self, driver: &Arc<dyn Driver>, mut sandbox: Sandbox) -> Result<Sandbox> {
        driver
            .check(&sandbox.template)
            .map_err(|error| ControlError::Unprocessable(error.to_string()))?;
        self.commit(vec![Change::insert(&sandbox)]).await?;
        let spec = SandboxSpec::new(sandbox.id, sandbox.template.clone());
        let started = async {
            let reference = driver.start(&spec).await.map_err(|error| error.to_string())?;
            self.guest(&sandbox)
                .map_err(|e| e.to_string())?
                .ready(READY)
                .await
                .map_err(|e| e.to_string())?;
            Ok::<_, String>(reference)
        };
        match started.await {
            Ok(reference) => {
                sandbox.driver_ref = Some(reference);
                sandbox.checked_at = Some(self.now());
                Ok(sandbox)
            }
            Err(message) => {
                self.destroy(sandbox.id, &message).await?;
                Err(ControlError::Unavailable(format!(
                    "a sandbox of the pool {} did not start: {message}",
                    sandbox.pool
                )))
            }
        }
    }

    async fn to_running(&self, mut sandbox: Sandbox) -> Result<Sandbox> {
        sandbox.transition(SandboxStatus::Running)?;
        self.commit(vec![Change::update(&sandbox)]).await?;
        sandbox.version += 1;
        Ok(sandbox)
    }

    async fn note_start(&self, pool: &str, error: Option<String>) -> Result<()> {
        retry_on_conflict!({
            let Some(mut pool) = self
                .parts
                .store
                .first::<Pool>(Filter::by("name", pool.to_owned()))
                .await?
            else {
                return Ok(());
            };
            match &error {
                None if pool.failures == 0 => return Ok(()),
                None => (pool.failures, pool.last_error, pool.retry_at) = (0, None, None),
                Some(error) => {
                    pool.failures += 1;
                    pool.last_error = Some(error.clone());
                    pool.retry_at = Some(self.now().plus(Pool::retry_delay(pool.failures)));
                }
            }
            self.commit(vec![Change::update(&pool)]).await
        })
    }
}
