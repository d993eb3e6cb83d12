//! What the scheduler is told, and what it answers when it is asked why something waits.

use crate::sandboxes::{full, room_of};
use crate::{Control, ControlError, Result};
use ostler_domain::schedule::{
    Decision, GiveWay, Obstacle, PoolRoom, QueueClass, QueueHead, QueueWorld, TenantShare, WaitReason,
    obstacles, plan_dispatch,
};
use ostler_domain::{Pool, Requirements, SandboxStatus, Tenant, TenantId};
use ostler_store::{Filter, Op, RunClass, StoreExt, as_owner};
use std::collections::BTreeMap;

/// More than may wait: how many do is not counted, and whoever claims fewer than were planned looks again.
const UNKNOWN: u32 = u32::MAX;

/// The scheduler's view, with the pools as they are recorded.
pub(crate) struct Scene {
    pub(crate) world: QueueWorld,
    pub(crate) pools: Vec<Pool>,
    /// Everything that was ever waited for.
    pub(crate) classes: Vec<RunClass>,
}

/// Where there is room for one more sandbox.
pub(crate) struct Room {
    /// The pool.
    pub(crate) pool: Pool,
    /// The machine.
    pub(crate) host: String,
    /// Warm sandboxes that give way.
    pub(crate) give_way: Vec<GiveWay>,
}

impl Control {
    /// The pools and the machines of this server, with nobody waiting.
    pub(crate) async fn scene(&self, slots: u32) -> Result<Scene> {
        let store = &self.parts.store;
        let pools = store.list::<Pool>(Filter::all());
        // Whether there is room depends on all who use it.
        let (pools, counts) = as_owner(async { tokio::try_join!(pools, store.sandbox_counts()) }).await?;
        let hosts = self.rooms(&pools, &counts).await?;
        let mut live: BTreeMap<&str, u32> = BTreeMap::new();
        for part in &counts {
            *live.entry(&part.pool).or_default() += part.count;
        }
        let rooms = pools.iter().filter_map(|pool| {
            Some(PoolRoom {
                offer: self.offer(pool)?,
                max: pool.max,
                live: live.get(pool.name.as_str()).copied().unwrap_or_default(),
            })
        });
        let world = QueueWorld {
            now: self.now(),
            slots,
            classes: Vec::new(),
            heads: Vec::new(),
            pools: rooms.collect(),
            hosts,
            tenants: BTreeMap::new(),
        };
        Ok(Scene {
            world,
            pools,
            classes: Vec::new(),
        })
    }

    /// The same with the front of the queue.
    pub(crate) async fn queue_scene(&self, slots: u32) -> Result<Scene> {
        as_owner(async {
            let store = &self.parts.store;
            let (mut scene, classes) =
                tokio::try_join!(self.scene(slots), async { Ok(store.classes().await?) })?;
            if classes.is_empty() {
                return Ok(scene);
            }
            let ids: Vec<i64> = classes.iter().map(|class| class.id).collect();
            let world = &mut scene.world;
            let (heads, running) = tokio::try_join!(store.heads(&ids, world.now), store.running_by_tenant())?;
            let waiting = |id: i64| heads.iter().any(|head| head.class == id);
            world.classes = classes
                .iter()
                .filter(|class| waiting(class.id))
                .map(|class| QueueClass {
                    id: class.id,
                    tenant: class.tenant_id,
                    requirements: class.requirements.clone(),
                })
                .collect();
            scene.classes = classes;
            world.heads = heads
                .into_iter()
                .map(|head| QueueHead {
                    class: head.class,
                    priority: head.priority,
                    seq: head.seq,
                    run: None,
                    created_at: head.created_at,
                    more: UNKNOWN,
                })
                .collect();
            for (tenant, count) in running {
                let share = world.tenants.entry(tenant).or_default();
                share.running = u32::try_from(count).unwrap_or(u32::MAX);
            }
            for (tenant, weight) in self.weights().await? {
                let share: &mut TenantShare = world.tenants.entry(tenant).or_default();
                share.weight = weight;
            }
            Ok(scene)
        })
        .await
    }

    async fn weights(&self) -> Result<Vec<(TenantId, u32)>> {
        let mut weights = Vec::new();
        for (name, weight) in &self.scheduler.weights {
            let tenant: Option<Tenant> = self.parts.store.first(Filter::by("name", name.clone())).await?;
            weights.extend(tenant.map(|tenant| (tenant.id, *weight)));
        }
        Ok(weights)
    }

    /// Where one more sandbox of the first of these pools that has room for it can be started.
    pub(crate) async fn room_for(&self, pools: &[Pool], tenant: TenantId) -> Result<Room> {
        let mut scene = self.scene(1).await?;
        let mut reasons = Vec::new();
        for pool in pools {
            scene.world.classes = vec![QueueClass {
                id: 0,
                tenant,
                requirements: Requirements {
                    pool: Some(pool.name.clone()),
                    ..Requirements::default()
                },
            }];
            scene.world.heads = vec![QueueHead {
                class: 0,
                priority: 0,
                seq: 0,
                run: None,
                created_at: scene.world.now,
                more: 0,
            }];
            let plan = plan_dispatch(&scene.world, &self.scheduler.rules());
            if let Some(Decision { host, give_way, .. }) = plan.decisions.into_iter().next() {
                return Ok(Room {
                    pool: pool.clone(),
                    host,
                    give_way,
                });
            }
            if let Some(WaitReason::Busy { pools, .. } | WaitReason::Impossible { pools }) =
                plan.waiting.first().map(|waiting| &*waiting.reason)
            {
                let found = pools.iter().filter(|found| found.pool == pool.name);
                reasons.extend(found.map(|found| match &found.obstacle {
                    Obstacle::Full { .. } => full(pool),
                    other => format!("{}: {other}", pool.name),
                }));
            }
        }
        Err(ControlError::Unavailable(reasons.join("; ")))
    }

    /// Ends warm sandboxes, so that others can be started where they are.
    pub(crate) async fn give_way(&self, ways: &[GiveWay]) -> Result<()> {
        for way in ways {
            let warm = self.own_sandboxes().and("pool", Op::Eq, way.pool.clone()).and(
                "status",
                Op::Eq,
                SandboxStatus::Warm,
            );
            let there: Vec<String> = self
                .parts
                .drivers
                .all()
                .iter()
                .filter(|host| room_of(host) == way.host)
                .map(|host| host.name.clone())
                .collect();
            let warm = self.parts.store.list(warm).await?.into_iter();
            let there = warm.filter(|sandbox| there.contains(&sandbox.host));
            for sandbox in there.take(way.count as usize) {
                self.destroyed(&sandbox, "it gave way to a sandbox that was needed")
                    .await;
            }
        }
        Ok(())
    }

    /// Why runs of a tenant with these requirements wait that could be started, on this server, apart from that all slots may
    /// be in use; `None` if nothing else stands in their way. Of one priority, or of the highest that waits.
    pub(crate) async fn why_waiting(
        &self,
        tenant: TenantId,
        requirements: &Requirements,
        priority: Option<i32>,
    ) -> Result<Option<WaitReason>> {
        let scene = self.queue_scene(u32::MAX).await?;
        let rules = self.scheduler.rules();
        let mut classes = scene.world.classes.iter();
        let class = classes.find(|class| class.tenant == tenant && class.requirements == *requirements);
        let Some(class) = class.map(|class| class.id) else {
            return Ok(obstacles(&scene.world, &rules, requirements));
        };
        let plan = plan_dispatch(&scene.world, &rules);
        let of = |number: i64, level: i32| number == class && priority.is_none_or(|wanted| wanted == level);
        if plan.decisions.iter().any(|taken| of(taken.class, taken.priority)) {
            return Ok(None);
        }
        let mut waiting = plan.waiting.into_iter();
        let found = waiting.find(|waiting| of(waiting.class, waiting.priority));
        Ok(found.map(|waiting| (*waiting.reason).clone()))
    }
}
