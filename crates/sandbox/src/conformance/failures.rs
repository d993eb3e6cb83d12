//! Crashes, failed starts and refusals.

use super::{LIMIT, Started, Subject, nothing_left, spec};
use crate::{Driver, DriverError, DriverEvent, DriverStatus};
use ostler_domain::{DriverKind, Mount, NetworkPolicy, SandboxId, SandboxTemplate};
use std::time::Duration;
use tokio::sync::broadcast;

async fn announced(events: &mut broadcast::Receiver<DriverEvent>, id: SandboxId) -> DriverEvent {
    let wait = async {
        loop {
            match events.recv().await {
                Ok(event) if event.id == id => return event,
                Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(e) => panic!("the driver stopped telling: {e}"),
            }
        }
    };
    let Ok(event) = tokio::time::timeout(LIMIT, wait).await else {
        panic!("the crash was not announced");
    };
    event
}

/// The end of the first process is announced at once and seen in the status; the remains can be removed.
pub async fn a_crash_is_announced(subject: &dyn Subject) {
    let sandbox = Started::new(subject).await;
    let mut events = sandbox.driver.events();
    subject.kill_first_process(sandbox.id).await;
    let event = announced(&mut events, sandbox.id).await;
    assert!(!event.exit.out_of_memory);
    assert_ne!(event.exit.code, Some(0), "{event:?}");
    let status = sandbox.driver.status(sandbox.id).await;
    assert!(matches!(status, Ok(DriverStatus::Exited(_))), "{status:?}");
    let connected = sandbox.driver.connect(sandbox.id).await.map(|_| ());
    assert!(connected.is_err(), "connected to a dead guest");
    assert!(
        sandbox
            .driver
            .list()
            .await
            .is_ok_and(|all| all.contains(&sandbox.id)),
        "its remains are not listed"
    );
    sandbox.remove(subject).await;
}

/// A driver also tells of sandboxes that an earlier one started, and not of those that it removes itself.
pub async fn a_crash_after_a_restart_is_announced(subject: &dyn Subject) {
    let crashing = Started::new(subject).await;
    let removed = Started::on(crashing.driver.clone(), subject.template()).await;
    let driver = subject.open().await;
    let mut events = driver.events();
    let (crash_id, removed_id) = (crashing.id, removed.id);
    drop((crashing.driver, removed.driver));
    if let Err(e) = driver.remove(removed_id, Duration::from_secs(1)).await {
        panic!("remove: {e}");
    }
    subject.kill_first_process(crash_id).await;
    loop {
        let event = match tokio::time::timeout(LIMIT, events.recv()).await {
            Ok(Ok(event)) => event,
            other => panic!("the crash was not announced: {other:?}"),
        };
        assert_ne!(event.id, removed_id, "a removal was announced as a crash");
        if event.id == crash_id {
            break;
        }
    }
    for id in [crash_id, removed_id] {
        if let Err(e) = driver.remove(id, Duration::ZERO).await {
            panic!("remove: {e}");
        }
        nothing_left(subject, driver.as_ref(), id).await;
    }
}

/// A start that fails says why and leaves nothing.
pub async fn a_failed_start_leaves_nothing(subject: &dyn Subject) {
    let (driver, template) = subject.failing().await;
    let id = SandboxId::new();
    match driver.start(&spec(driver.as_ref(), id, template)).await {
        Ok(_) => panic!("the start was to fail"),
        Err(e) => assert!(e.to_string().len() > 40, "no reason: {e}"),
    }
    nothing_left(subject, driver.as_ref(), id).await;
}

/// A caller that stops waiting leaves something that is listed and can be removed, or nothing.
pub async fn a_start_given_up_midway_can_be_removed(subject: &dyn Subject) {
    let driver = subject.open().await;
    for micros in [0, 200, 1000, 5000, 20_000] {
        let id = SandboxId::new();
        let spec = spec(driver.as_ref(), id, subject.template());
        let given_up = tokio::time::timeout(Duration::from_micros(micros), driver.start(&spec)).await;
        drop(given_up);
        if let Err(e) = driver.remove(id, Duration::ZERO).await {
            panic!("remove: {e}");
        }
        nothing_left(subject, driver.as_ref(), id).await;
    }
}

/// Every field that asks for more than the driver claims is refused with a reason, by `check` and by `start`.
pub async fn what_cannot_be_enforced_is_refused(subject: &dyn Subject) {
    let driver = subject.open().await;
    let good = subject.template();
    if let Err(e) = driver.check(&good) {
        panic!("{e}");
    }
    let can = driver.capabilities().clone();
    let mut bad: Vec<SandboxTemplate> = Vec::new();
    let mut with = |change: &dyn Fn(&mut SandboxTemplate)| {
        let mut template = good.clone();
        change(&mut template);
        bad.push(template);
    };
    with(&|t| {
        t.driver = if t.driver == DriverKind::Lima {
            DriverKind::Qemu
        } else {
            DriverKind::Lima
        }
    });
    with(&|t| t.cpus = 0);
    with(&|t| t.memory_mb = 1);
    with(&|t| {
        t.env.insert("A=B".into(), "c".into());
    });
    with(&|t| {
        t.mounts = vec![Mount {
            source: "relative".into(),
            target: "/mnt".into(),
            writable: false,
        }];
    });
    if can.images {
        with(&|t| t.image = None);
    } else {
        with(&|t| t.image = Some("some".into()));
    }
    if !can.disk_limit {
        with(&|t| t.disk_mb = Some(100));
    }
    if !can.mounts {
        with(&|t| {
            t.mounts = vec![Mount {
                source: "/usr".into(),
                target: "/mnt".into(),
                writable: false,
            }];
        });
    }
    for policy in NetworkPolicy::ALL {
        if !can.networks.contains(policy) {
            with(&|t| t.network = *policy);
        }
    }
    for template in bad {
        refused(subject, driver.as_ref(), template).await;
    }
}

async fn refused(subject: &dyn Subject, driver: &dyn Driver, template: SandboxTemplate) {
    let checked = driver.check(&template);
    assert!(
        matches!(checked, Err(DriverError::Unsupported { .. })),
        "{template:?}: {checked:?}"
    );
    let id = SandboxId::new();
    let started = driver.start(&spec(driver, id, template)).await;
    assert!(
        matches!(started, Err(DriverError::Unsupported { .. })),
        "{started:?}"
    );
    nothing_left(subject, driver, id).await;
}
