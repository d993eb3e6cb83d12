//! Claims: a warm sandbox in one statement, or a cold start.

use super::start::Until;
use crate::probe;
use crate::{Control, ControlError, Result};
use ostler_domain::{DepartmentId, Pool, Sandbox, SandboxStatus, SandboxTemplate, TenantId};
use ostler_store::{ClaimSandbox, Filter, Op, StoreExt, Told};
use std::time::{Duration, Instant};

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
    /// The machine that a new one is started on before others.
    pub on: Option<String>,
    /// The kernel that it is started with, where that is not left to the pool.
    pub boot: Option<Boot>,
}

/// A kernel that a sandbox is started with for its holder. None that is warm will do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Boot {
    /// Its name, as the driver knows it.
    pub kernel: String,
    /// Words for its command line, behind those of the pool.
    pub args: Vec<String>,
    /// Whether the kernel itself is what is tested: then the holder gets a sandbox whose guest does not answer yet, and
    /// may never do so.
    pub tested: bool,
}

impl Boot {
    fn change(&self, template: &mut SandboxTemplate) {
        template.kernel = Some(self.kernel.clone());
        let words = template.kernel_args.iter().chain(&self.args);
        let words: Vec<&str> = words.map(String::as_str).collect();
        template.kernel_args = Some(words.join(" ")).filter(|words| !words.is_empty());
        // That goes on with another kernel.
        template.snapshot = None;
    }
}

/// A part of what was done to get a sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Phase {
    /// `claim`, `check`, `place`, `start` or `ready`.
    pub name: &'static str,
    /// How long it took.
    pub took: Duration,
}

/// A sandbox that was claimed.
#[derive(Debug, Clone)]
pub struct Claimed {
    /// The sandbox, running.
    pub sandbox: Sandbox,
    /// Why it was not warm; `None` when it was.
    pub cold_reason: Option<String>,
    /// What was done, in order.
    pub phases: Vec<Phase>,
}

/// Measures phases.
pub(super) struct Stopwatch {
    phases: Vec<Phase>,
    since: Instant,
}

impl Stopwatch {
    pub(super) fn start() -> Self {
        Self {
            phases: Vec::new(),
            since: Instant::now(),
        }
    }

    /// A phase ends; one of the same name goes on.
    pub(super) fn lap(&mut self, name: &'static str) {
        let took = self.since.elapsed();
        self.since = Instant::now();
        match self.phases.iter_mut().find(|phase| phase.name == name) {
            Some(phase) => phase.took += took,
            None => self.phases.push(Phase { name, took }),
        }
    }
}

impl Control {
    /// Claims a warm sandbox of a pool, or starts one.
    pub(crate) async fn acquire(&self, pool: &Pool, tenant: TenantId, holder: Holder) -> Result<Claimed> {
        let mut watch = Stopwatch::start();
        if holder.boot.is_none()
            && let Some(sandbox) = self.claim_warm(pool, tenant, &holder, None, &mut watch).await?
        {
            return Ok(Claimed {
                sandbox,
                cold_reason: None,
                phases: watch.phases,
            });
        }
        self.start_cold(pool, tenant, holder, watch).await
    }

    /// The oldest warm sandbox of a pool that is as the pool is now and answers. What tells of it is written with the claim:
    /// it is told of one that did not answer, too, and then of its end.
    pub(super) async fn claim_warm(
        &self,
        pool: &Pool,
        tenant: TenantId,
        holder: &Holder,
        told: Option<&Told>,
        watch: &mut Stopwatch,
    ) -> Result<Option<Sandbox>> {
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
        while let Some(sandbox) = self
            .parts
            .store
            .claim_sandbox(claim.clone(), told.cloned())
            .await?
        {
            watch.lap("claim");
            let fits = sandbox.template == pool.template;
            // One that died while it was warm is not handed out.
            let answers = match self.driver_of(&sandbox) {
                Ok(driver) => fits && probe::healthy(&driver, sandbox.id).await,
                Err(_) => false,
            };
            watch.lap("check");
            if answers {
                return Ok(Some(sandbox));
            }
            let reason = if fits {
                "it did not answer when it was claimed"
            } else {
                "it was of an old template"
            };
            // A host that is away cannot remove it now; that must not keep the next one from being claimed.
            self.destroyed(&sandbox, reason).await;
        }
        watch.lap("claim");
        Ok(None)
    }

    pub(super) async fn start_cold(
        &self,
        pool: &Pool,
        tenant: TenantId,
        holder: Holder,
        mut watch: Stopwatch,
    ) -> Result<Claimed> {
        let mut sandbox = self.new_sandbox(pool);
        let mut until = Until::Ready;
        let cold_reason = match &holder.boot {
            None => self.why_cold(pool).await?,
            Some(boot) => {
                boot.change(&mut sandbox.template);
                if boot.tested {
                    until = Until::Started;
                }
                format!("it is started with the kernel {}", boot.kernel)
            }
        };
        sandbox.tenant_id = Some(tenant);
        sandbox.department_id = holder.department_id;
        sandbox.config = holder.config;
        sandbox.tool_allowlist = holder.tool_allowlist;
        sandbox.for_run = holder.for_run;
        sandbox.claimed_at = Some(self.now());
        sandbox.used_at = sandbox.claimed_at;
        let sandbox = self
            .start_placed(
                sandbox,
                SandboxStatus::Running,
                until,
                holder.on.as_deref(),
                &mut watch,
            )
            .await?;
        Ok(Claimed {
            sandbox,
            cold_reason: Some(cold_reason),
            phases: watch.phases,
        })
    }

    /// Why no sandbox of a pool was warm.
    async fn why_cold(&self, pool: &Pool) -> Result<String> {
        let name = &pool.name;
        if pool.target == 0 {
            return Ok(format!(
                "the pool {name} keeps no warm sandboxes: its target is 0"
            ));
        }
        if let (Some(at), Some(error)) = (pool.retry_at, &pool.last_error)
            && self.now() < at
        {
            return Ok(format!(
                "no sandbox of the pool {name} is warm: the last start failed: {error}"
            ));
        }
        let counts = self.counts_of(name).await?;
        Ok(format!(
            "no sandbox of the pool {name} is warm: its {} are in use, and {} are being started to have {} again",
            counts.held, counts.starting, pool.target
        ))
    }

    /// Claims a warm sandbox of the first of these pools that has one, which is `told` with the claim, or else starts one in
    /// the first that has room.
    pub(crate) async fn acquire_agent(
        &self,
        pools: &[Pool],
        tenant: TenantId,
        holder: Holder,
        told: &Told,
    ) -> Result<Claimed> {
        let mut watch = Stopwatch::start();
        for pool in pools {
            if let Some(sandbox) = self
                .claim_warm(pool, tenant, &holder, Some(told), &mut watch)
                .await?
            {
                return Ok(Claimed {
                    sandbox,
                    cold_reason: None,
                    phases: watch.phases,
                });
            }
        }
        let room = self.room_for(pools, tenant).await?;
        self.give_way(&room.give_way).await?;
        // Where something gave way there is room; otherwise all that have room share what is started.
        let holder = Holder {
            on: (!room.give_way.is_empty()).then_some(room.host),
            ..holder
        };
        let claimed = self.start_cold(&room.pool, tenant, holder, watch).await?;
        self.within_limit(&room.pool, claimed).await
    }

    /// Gives a new sandbox up again if others were made at the same moment and the pool has become larger than allowed:
    /// the youngest goes, on whichever server, so that the rest stay.
    async fn within_limit(&self, pool: &Pool, claimed: Claimed) -> Result<Claimed> {
        if self.counts_of(&pool.name).await?.live() <= pool.max {
            return Ok(claimed);
        }
        let id = claimed.sandbox.id;
        let live = Filter::<Sandbox>::by("pool", pool.name.clone())
            .and("status", Op::Ne, SandboxStatus::Destroyed)
            .order_by("created_at");
        let live = self.parts.store.list(live).await?;
        if live
            .iter()
            .position(|s| s.id == id)
            .is_some_and(|rank| rank >= pool.max as usize)
        {
            self.destroy(id, "the pool was full").await?;
            return Err(ControlError::Unavailable(full(pool)));
        }
        Ok(claimed)
    }
}

/// What is said of a pool that is full.
pub(crate) fn full(pool: &Pool) -> String {
    format!(
        "all {} sandboxes of the pool {} are in use; end one, or make the pool larger with `ostler pool set`",
        pool.max, pool.name
    )
}
