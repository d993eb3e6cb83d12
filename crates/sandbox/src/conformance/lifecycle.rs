//! Starting, running programs, restarting the server, removing.

use super::guest::request;
use super::leftovers::{odd_seconds, processes_with};
use super::{Guest, Outcome, Started, Subject, eventually, nothing_left, spec};
use crate::DriverStatus;
use ostler_domain::SandboxId;
use ostler_guest_protocol::v1::StartRequest;
use std::time::Duration;

/// Output, exit codes and standard input go through; a missing program is 127.
pub async fn programs_run_and_tell_how_they_ended(subject: &dyn Subject) {
    let mut sandbox = Started::new(subject).await;
    let status = sandbox.driver.status(sandbox.id).await;
    assert!(matches!(status, Ok(DriverStatus::Running)), "{status:?}");
    let guest = &mut sandbox.guest;

    let echo = guest.run(&["echo", "two", "words"]).await;
    assert_eq!((echo.stdout.as_str(), echo.exited.code), ("two words\n", 0));
    assert_eq!(guest.run(&["false"]).await.exited.code, 1);
    assert_eq!(guest.run(&["no-such-program"]).await.exited.code, 127);

    let given = guest
        .run_with(StartRequest {
            stdin: b"given".as_slice().into(),
            ..request(&["cat"])
        })
        .await;
    assert_eq!((given.stdout.as_str(), given.exited.code), ("given", 0));

    let exec_id = guest
        .start(StartRequest {
            stdin_open: true,
            ..request(&["cat"])
        })
        .await;
    guest.write_and_close(&exec_id, b"later").await;
    let mut later = Outcome::default();
    guest.read(&exec_id, 1, &mut later, |_| false).await;
    assert_eq!((later.stdout.as_str(), later.exited.code), ("later", 0));
    sandbox.remove(subject).await;
}

/// The template's variables and those of the request are there, the latter winning; the directory is the one asked for.
pub async fn environment_and_directory_are_as_asked(subject: &dyn Subject) {
    let mut template = subject.template();
    template.env.insert("FROM_TEMPLATE".into(), "a = b".into());
    template.env.insert("FROM_BOTH".into(), "template".into());
    let mut sandbox = Started::with(subject, template).await;
    let env = sandbox
        .guest
        .run_with(StartRequest {
            env: [("FROM_BOTH".to_owned(), "request".to_owned())].into(),
            ..request(&["env"])
        })
        .await
        .stdout;
    for line in ["FROM_TEMPLATE=a = b", "FROM_BOTH=request"] {
        assert!(env.lines().any(|l| l == line), "no {line} in {env}");
    }
    let pwd = sandbox
        .guest
        .run_with(StartRequest {
            cwd: "/tmp/made/for/this".into(),
            ..request(&["pwd"])
        })
        .await;
    if sandbox.driver.capabilities().isolation > ostler_domain::Isolation::Process {
        assert_eq!(pwd.stdout, "/tmp/made/for/this\n", "{pwd:?}");
        assert_eq!(sandbox.guest.run(&["pwd"]).await.stdout, "/workspace\n");
    }
    sandbox.remove(subject).await;
}

/// No variable of the server's environment is seen by programs.
pub async fn the_environment_of_the_server_stays_outside(subject: &dyn Subject) {
    // Variables that any environment has, maybe with the same value.
    const COMMON: &[&str] = &[
        "PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "PWD", "SHLVL", "TERM", "_",
    ];
    let mut sandbox = Started::new(subject).await;
    let env = sandbox.guest.run(&["env"]).await;
    assert!(env.exited.code == 0 && env.stdout.contains("PATH="), "{env:?}");
    let env = env.stdout;
    let foreign: Vec<_> = std::env::vars()
        .filter(|(name, _)| !COMMON.contains(&name.as_str()))
        .filter(|(name, value)| env.lines().any(|l| l == format!("{name}={value}")))
        .collect();
    assert!(
        std::env::var_os("CARGO_MANIFEST_DIR").is_some(),
        "the test itself has no environment to leak"
    );
    assert!(foreign.is_empty(), "seen inside: {foreign:?}");
    sandbox.remove(subject).await;
}

/// Another driver over the same state finds the sandbox, reads a running program's output on, and removes it.
pub async fn a_restarted_server_goes_on_without_a_gap(subject: &dyn Subject) {
    const COUNT: u32 = 100;
    let mut sandbox = Started::new(subject).await;
    let argv = subject.counter(COUNT);
    let exec_id = sandbox
        .guest
        .start(request(&argv.iter().map(String::as_str).collect::<Vec<_>>()))
        .await;
    let mut outcome = Outcome::default();
    let (next, ended) = sandbox
        .guest
        .read(&exec_id, 1, &mut outcome, |o| o.stdout.lines().count() >= 5)
        .await;
    assert!(!ended, "the program ended before the restart");
    let id = sandbox.id;
    drop(sandbox);

    let driver = subject.open().await;
    assert!(
        driver.list().await.is_ok_and(|all| all.contains(&id)),
        "not listed"
    );
    assert!(matches!(driver.status(id).await, Ok(DriverStatus::Running)));
    let mut guest = Guest::ready(driver.as_ref(), id).await;
    guest.read(&exec_id, next, &mut outcome, |_| false).await;
    let expected: Vec<String> = (1..=COUNT).map(|n| n.to_string()).collect();
    assert_eq!(outcome.stdout.lines().collect::<Vec<_>>(), expected);
    assert_eq!(outcome.exited.code, 0);
    Started { driver, id, guest }.remove(subject).await;
}

/// Removing again, and removing what never was, does nothing and succeeds.
pub async fn removing_is_idempotent(subject: &dyn Subject) {
    let sandbox = Started::new(subject).await;
    let (driver, id) = (sandbox.driver.clone(), sandbox.id);
    sandbox.remove(subject).await;
    for id in [id, SandboxId::new()] {
        let again = driver.remove(id, Duration::from_secs(1)).await;
        assert!(again.is_ok(), "{again:?}");
        let connected = driver.connect(id).await.map(|_| ());
        assert!(connected.is_err(), "connected to a sandbox that is gone");
        nothing_left(subject, driver.as_ref(), id).await;
    }
}

/// Children that left their session, lost their parent and cleared their environment end with the sandbox.
pub async fn nothing_is_left_of_what_ran_in_it(subject: &dyn Subject) {
    let mut sandbox = Started::new(subject).await;
    if !subject.real() {
        sandbox.guest.start(request(&["sleep", "1000"])).await;
        sandbox.remove(subject).await;
        return;
    }
    let seconds = odd_seconds();
    let script = format!("(setsid env -i sleep {seconds} </dev/null >/dev/null 2>&1 &) & wait; echo away");
    assert_eq!(sandbox.guest.shell(&script).await, "away\n");
    // Not to be asked to end either, and holding its standard output.
    let deaf = format!("trap '' TERM INT HUP; sleep {seconds}");
    sandbox.guest.start(request(&["sh", "-c", &deaf])).await;
    if sandbox.driver.capabilities().machines {
        // The host does not see the processes of a machine; that its first process is gone is checked below.
        let listed = format!("cat /proc/[0-9]*/cmdline | tr '\\0' ' ' | grep -o 'sleep {seconds}' | wc -l");
        let seen = sandbox.guest.shell(&listed).await;
        assert!(
            seen.trim().parse::<u32>().is_ok_and(|n| n >= 1),
            "the children do not run: {seen}"
        );
    } else {
        let both = eventually(async || processes_with(&seconds).len() >= 2).await;
        assert!(both, "the children do not run");
    }
    sandbox.remove(subject).await;
    assert_eq!(processes_with(&seconds), Vec::<String>::new());
}

/// The second start fails and does the first sandbox no harm.
pub async fn the_same_id_is_not_started_twice(subject: &dyn Subject) {
    let mut sandbox = Started::new(subject).await;
    let driver = sandbox.driver.as_ref();
    let again = driver.start(&spec(driver, sandbox.id, subject.template())).await;
    assert!(again.is_err(), "started twice");
    assert_eq!(sandbox.guest.run(&["true"]).await.exited.code, 0);
    sandbox.remove(subject).await;
}

/// Many at once work and go.
pub async fn many_start_and_end_at_the_same_time(subject: &dyn Subject) {
    let driver = subject.open().await;
    let all = (0..subject.many()).map(async |n| {
        let mut sandbox = Started::on(driver.clone(), subject.template()).await;
        let text = n.to_string();
        assert_eq!(sandbox.guest.run(&["echo", &text]).await.stdout, text + "\n");
        sandbox.remove(subject).await;
    });
    futures::future::join_all(all).await;
}
