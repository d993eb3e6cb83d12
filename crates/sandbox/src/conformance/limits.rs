//! Limits and pausing, where they are claimed.

use super::guest::request;
use super::{Started, Subject};
use crate::DriverError;
use std::time::{Duration, Instant};

/// A program that takes more memory than there is gets killed; the guest goes on.
pub async fn memory_is_limited(subject: &dyn Subject) {
    let mut template = subject.template();
    template.memory_mb = subject.small_memory_mb();
    let driver = subject.open().await;
    if !driver.capabilities().memory_limit || !subject.real() {
        return;
    }
    let mut sandbox = Started::on(driver, template).await;
    // Keeps all of an endless line.
    let outcome = sandbox.guest.run(&["tail", "/dev/zero"]).await;
    assert_eq!(outcome.exited.signal, 9, "{outcome:?}");
    assert_eq!(sandbox.guest.run(&["true"]).await.exited.code, 0);
    sandbox.remove(subject).await;
}

/// Three busy programs in a sandbox of one CPU get about one CPU together.
pub async fn cpu_time_is_limited(subject: &dyn Subject) {
    let mut template = subject.template();
    template.cpus = 1;
    let driver = subject.open().await;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    if !driver.capabilities().cpu_limit || !subject.real() || cores < 2 {
        return;
    }
    let mut sandbox = Started::on(driver, template).await;
    let busy = "while :; do :; done";
    let start = Instant::now();
    let mut execs = Vec::new();
    for _ in 0..3 {
        let exec = request(&["timeout", "2", "sh", "-c", busy]);
        execs.push(sandbox.guest.start(exec).await);
    }
    let mut used = Duration::ZERO;
    for exec_id in execs {
        let mut outcome = super::Outcome::default();
        sandbox.guest.read(&exec_id, 1, &mut outcome, |_| false).await;
        used += Duration::from_micros(outcome.exited.user_us + outcome.exited.system_us);
    }
    assert!(
        used > Duration::from_millis(200),
        "busy programs used only {used:?} of CPU time"
    );
    let most = start.elapsed().mul_f64(1.25);
    assert!(
        used < most,
        "{used:?} of CPU time, at most {most:?} were to be had"
    );
    sandbox.remove(subject).await;
}

/// A paused guest does not answer and goes on afterwards; a paused sandbox can be removed.
pub async fn pausing_stops_everything(subject: &dyn Subject) {
    let mut sandbox = Started::new(subject).await;
    let (driver, id) = (sandbox.driver.clone(), sandbox.id);
    if !driver.capabilities().pause {
        for result in [driver.pause(id).await, driver.resume(id).await] {
            assert!(
                matches!(result, Err(DriverError::Unsupported { .. })),
                "{result:?}"
            );
        }
        sandbox.remove(subject).await;
        return;
    }
    let must = |result: Result<(), DriverError>| {
        if let Err(e) = result {
            panic!("{e}");
        }
    };
    must(driver.pause(id).await);
    let answer = sandbox.guest.health(Duration::from_millis(300)).await;
    assert!(answer.is_err(), "a paused guest answered: {answer:?}");
    must(driver.resume(id).await);
    let answer = sandbox.guest.health(Duration::from_secs(10)).await;
    assert!(answer.is_ok(), "{answer:?}");
    must(driver.pause(id).await);
    sandbox.remove(subject).await;
}
