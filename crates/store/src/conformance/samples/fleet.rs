//! Pools, hosts and sandboxes.

use super::{AWKWARD, at, either};
use crate::ClaimSandbox;
use ostler_domain as d;
use ostler_domain::{ServerId, TenantId};
use serde_json::json;

pub(in crate::conformance) fn template(full: bool) -> d::SandboxTemplate {
    let mut template = d::SandboxTemplate::new(d::DriverKind::Docker);
    if full {
        template.image = Some("debian:13".into());
        template.disk_mb = Some(u64::from(u32::MAX));
        template.network = d::NetworkPolicy::Open;
        template.env = [("A".to_owned(), AWKWARD.to_owned())].into();
        template.mounts = vec![d::Mount {
            source: "/a".into(),
            target: "/b".into(),
            writable: true,
        }];
        template.labels = [("gpu".to_owned(), "yes".to_owned())].into();
    }
    template
}

pub(in crate::conformance) fn pool(name: &str, full: bool) -> d::Pool {
    d::Pool {
        name: name.into(),
        template: template(full),
        target: 2,
        max: 10,
        start_concurrency: 3,
        refill_per_minute: 60,
        refill_burst: 5,
        failures: u32::from(full),
        last_error: full.then(|| AWKWARD.into()),
        retry_at: full.then_some(at(18)),
        version: 1,
    }
}

pub(in crate::conformance) fn host(name: &str, full: bool) -> d::Host {
    let server = ServerId::from_u128(7);
    d::Host {
        id: d::Host::id_of(server, d::DriverKind::Docker, name),
        server_id: server,
        driver: d::DriverKind::Docker,
        name: name.into(),
        failures: 3,
        last_error: full.then(|| AWKWARD.into()),
        quarantined_until: full.then_some(at(30)),
        draining: full,
        version: 1,
    }
}

pub(in crate::conformance) fn usage(when: d::Timestamp, holder: Option<TenantId>) -> d::UsageSample {
    let amount = holder.map(|_| 1 << 40);
    d::UsageSample {
        sandbox_id: d::SandboxId::new(),
        at: when,
        tenant_id: holder,
        cpu_us: amount,
        memory_bytes: amount,
        read_bytes: amount,
        written_bytes: amount,
        received_bytes: amount,
        sent_bytes: amount,
        processes: amount,
    }
}

pub(in crate::conformance) fn sandbox(holder: Option<TenantId>, cid: Option<i64>) -> d::Sandbox {
    let full = holder.is_some();
    d::Sandbox {
        id: d::SandboxId::new(),
        tenant_id: holder,
        department_id: full.then(d::DepartmentId::new),
        pool: "default".into(),
        driver: d::DriverKind::Docker,
        driver_ref: full.then(|| "container".into()),
        server_id: ServerId::new(),
        host: "local".into(),
        paused: full.then_some(d::PausedBy::Holder),
        status: either(full, d::SandboxStatus::Running, d::SandboxStatus::Warm),
        template: template(full),
        config: either(
            full,
            json!({"a": [1, null, {"b": AWKWARD}], "n": -1.5}),
            serde_json::Value::Null,
        ),
        tool_allowlist: full.then(|| vec!["git".to_owned()]),
        vsock_cid: cid,
        for_run: full,
        failures: 2,
        reason: full.then(|| "unwell".into()),
        created_at: at(19),
        claimed_at: full.then_some(at(20)),
        checked_at: full.then_some(at(21)),
        used_at: full.then_some(at(22)),
        version: 1,
    }
}

pub(in crate::conformance) fn claim_sandbox(
    pool: &str,
    server_id: ServerId,
    tenant_id: TenantId,
) -> ClaimSandbox {
    ClaimSandbox {
        pool: pool.into(),
        server_id,
        tenant_id,
        department_id: None,
        config: json!({"held": true}),
        tool_allowlist: Some(vec!["git".into()]),
        for_run: true,
        now: at(5000),
    }
}
