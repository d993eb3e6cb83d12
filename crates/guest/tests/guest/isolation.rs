//! Programs that share nothing. As another user than root this takes user namespaces.

use crate::world::{Outcome, World, eventually, odd_seconds, sh, sleepers};
use ostler_guest_protocol::v1::{
    CollectRequest, ConfigureRequest, Isolation, KillRequest, Network, ReleaseRequest, StartRequest, Terminal,
};
use std::path::Path;
use std::time::{Duration, Instant};

fn isolated(id: &str, script: &str) -> StartRequest {
    StartRequest {
        isolation: Some(Isolation::default()),
        ..sh(id, script)
    }
}

async fn run(world: &mut World, id: &str, script: &str) -> Outcome {
    world.client.start(isolated(id, script)).await.unwrap();
    world.end_of(id).await
}

/// A world in which programs can be isolated. A machine that cannot do it must say why, and refuse.
async fn world() -> Option<World> {
    let mut world = World::new().await;
    let told = world
        .client
        .configure(ConfigureRequest::default())
        .await
        .unwrap()
        .into_inner();
    if told.can_isolate {
        assert_eq!(told.cannot_isolate, "");
        return Some(world);
    }
    assert!(!nix::unistd::geteuid().is_root(), "{}", told.cannot_isolate);
    assert!(told.cannot_isolate.len() > 10, "{told:?}");
    let refused = world.client.start(isolated("1", "true")).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::FailedPrecondition);
    assert!(refused.message().contains(&told.cannot_isolate), "{refused:?}");
    assert_eq!(world.run("2", "echo on").await.stdout, "on\n");
    eprintln!("skipped: {}", told.cannot_isolate);
    None
}

#[tokio::test]
async fn what_is_written_is_seen_by_nobody_else() {
    let Some(mut world) = world().await else { return };
    let workspace = world.workspace();
    std::fs::write(workspace.join("there"), "as it was").unwrap();
    let script = "cat there; echo new > there; echo new > made; mkdir -p deep/er; rm -f gone; \
                  echo x > /tmp/x; echo x > /dev/shm/x; echo x > \"$HOME/.ostler-isolated\"; cat made; pwd";
    let outcome = run(&mut world, "1", script).await;
    let dir = workspace.canonicalize().unwrap();
    assert_eq!(
        (
            outcome.stdout.as_str(),
            outcome.stderr.as_str(),
            outcome.exited.code
        ),
        (format!("as it wasnew\n{}\n", dir.display()).as_str(), "", 0)
    );
    assert_eq!(
        std::fs::read_to_string(workspace.join("there")).unwrap(),
        "as it was"
    );
    assert!(!workspace.join("made").exists() && !workspace.join("deep").exists());
    let home = std::env::var("HOME").unwrap_or_else(|_| "/root".into());
    for left in [
        format!("{home}/.ostler-isolated"),
        "/tmp/x".into(),
        "/dev/shm/x".into(),
    ] {
        assert!(!Path::new(&left).exists(), "{left}");
    }
    let again = run(
        &mut world,
        "2",
        "cat there; ls; ls -A /tmp | grep -v -e ^.tmp -e \"${HOME##*/}\"; ls -A /dev/shm",
    )
    .await;
    assert_eq!(again.stdout, "as it wasthere\n");
    // A directory to start in is made for the program only.
    let request = StartRequest {
        cwd: "not/there".into(),
        ..isolated("3", "pwd; touch here")
    };
    world.client.start(request).await.unwrap();
    let outcome = world.end_of("3").await;
    assert_eq!(outcome.stdout, format!("{}/not/there\n", dir.display()));
    assert!(!workspace.join("not").exists());
}

#[tokio::test]
async fn everything_else_can_only_be_read() {
    let Some(mut world) = world().await else { return };
    let outside = world.dir.path().join("outside");
    std::fs::write(&outside, "x").unwrap();
    let script = "for path in /usr/x /etc/x /var/x /x /dev/x /sys/x /run/x /proc/sys/kernel/hostname /proc/sysrq-trigger; do
                      if (echo x > $path) 2>/dev/null; then echo wrote $path; fi
                  done
                  for way in 'mount -o remount,rw /' 'umount /proc' \"umount '$PWD'\" 'mount -t tmpfs x /mnt' 'mknod sda b 8 0'; do
                      if sh -c \"$way\" 2>/dev/null; then echo did $way; fi
                  done
                  test $(id -u) != 0 || ls /dev | grep -E '^(sd|vd|nvme|loop|mem|port|kmsg)'
                  grep -E '^Cap(Eff|Prm|Bnd)' /proc/self/status";
    let outcome = run(&mut world, "1", script).await;
    let (capabilities, rest): (Vec<&str>, Vec<&str>) =
        outcome.stdout.lines().partition(|line| line.starts_with("Cap"));
    assert_eq!(rest, Vec::<&str>::new(), "{outcome:?}");
    assert_eq!(capabilities.len(), 3, "{outcome:?}");
    for line in capabilities {
        let bits = u64::from_str_radix(line.rsplit('\t').next().unwrap(), 16).unwrap();
        // SYS_MODULE, SYS_RAWIO, SYS_ADMIN, SYS_BOOT, MKNOD, MAC_ADMIN, SYSLOG, PERFMON, BPF
        for forbidden in [16, 17, 21, 22, 27, 33, 34, 38, 39] {
            assert_eq!(bits >> forbidden & 1, 0, "{line}");
        }
    }
    // The sockets through which programs are started are not there.
    let seen = run(
        &mut world,
        "2",
        "ls -A \"${OSTLER_CONTROL%/*}\" 2>/dev/null | wc -l",
    )
    .await;
    assert_eq!(seen.stdout, "0\n");
}

#[tokio::test]
async fn no_process_or_network_of_others_is_seen() {
    let Some(mut world) = world().await else { return };
    let seconds = odd_seconds();
    world.start("other", &format!("sleep {seconds}")).await;
    assert!(eventually(|| sleepers(&seconds) == 1).await);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let look = format!(
        "grep -c . /proc/net/dev; cat /proc/[0-9]*/cmdline | tr '\\0' ' ' | grep -c 'sleep {seconds}'; echo $$; \
         kill -9 -1; true"
    );
    let outcome = run(&mut world, "1", &look).await;
    let lines: Vec<&str> = outcome.stdout.lines().collect();
    // Two lines of headings and the loopback; the grep itself is no sleeper, but its command line is one.
    assert_eq!(lines[0], "3", "{outcome:?}");
    assert_eq!(sleepers(&seconds), 1, "it killed others");
    assert_eq!(lines[2], "2", "{outcome:?}");
    let connect = format!("(exec 3<>/dev/tcp/127.0.0.1/{port}) 2>/dev/null && echo reached; true");
    for (id, network, wanted) in [
        ("own", Network::Own, ""),
        ("theirs", Network::Sandbox, "reached\n"),
    ] {
        let mut request = isolated(id, "");
        request.argv = ["bash", "-c", &connect].map(str::to_owned).to_vec();
        request.isolation.as_mut().unwrap().network = network.into();
        world.client.start(request).await.unwrap();
        assert_eq!(world.end_of(id).await.stdout, wanted, "{id}");
    }
    // Its own loopback works.
    let mut request = isolated("loopback", "");
    let serve = "import socket; a = socket.create_server(('127.0.0.1', 0)); b = socket.create_connection(a.getsockname()); print('up')";
    request.argv = ["python3", "-c", serve].map(str::to_owned).to_vec();
    world.client.start(request).await.unwrap();
    assert_eq!(world.end_of("loopback").await.stdout, "up\n");
}

#[tokio::test]
async fn the_end_of_the_program_is_the_end_of_all_that_it_started() {
    let Some(mut world) = world().await else { return };
    let seconds = odd_seconds();
    let left =
        format!("(setsid env -i sleep {seconds} &); trap '' TERM; sleep {seconds} & sleep 0.1; echo over");
    let outcome = run(&mut world, "1", &left).await;
    assert_eq!((outcome.stdout.as_str(), outcome.exited.code), ("over\n", 0));
    assert!(eventually(|| sleepers(&seconds) == 0).await);
    // A program cannot end its supervisor, and ends by a signal as any other.
    // 43 is what the guest has passed on as signal 10.
    let give_orders = "kill -KILL 1; for order in TERM QUIT 43; do kill -$order $PPID; done; sleep 0.1; echo on; \
                       kill -USR1 $$";
    let outcome = run(&mut world, "2", give_orders).await;
    assert_eq!(
        (outcome.stdout.as_str(), outcome.exited.signal),
        ("on\n", 10),
        "{outcome:?}"
    );
}

#[tokio::test]
async fn a_kill_reaches_everything_at_once() {
    let Some(mut world) = world().await else { return };
    let seconds = odd_seconds();
    let script = format!(
        "trap '' TERM; (setsid env -i sleep {seconds} </dev/null >/dev/null 2>&1 &); \
         (setsid sh -c 'trap \"\" TERM; while :; do sleep {seconds} & wait; done' &); echo partial; \
         while :; do sleep {seconds}; done"
    );
    world.client.start(isolated("1", &script)).await.unwrap();
    assert!(eventually(|| sleepers(&seconds) == 3).await);
    let begun = Instant::now();
    assert!(world.kill("1", Duration::from_millis(200)).await);
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    assert_eq!(sleepers(&seconds), 0);
    let outcome = world.end_of("1").await;
    assert_eq!((outcome.stdout.as_str(), outcome.exited.signal), ("partial\n", 9));
    assert!(outcome.exited.usage.unwrap().wall_us > 100_000);
    assert!(
        !world.kill("1", Duration::ZERO).await,
        "there is nothing left to kill"
    );

    // One that ends when it is asked.
    let polite = "trap 'echo bye; exit 7' TERM; echo ready; while :; do sleep 0.05; done";
    world.client.start(isolated("2", polite)).await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(world.kill("2", Duration::from_secs(20)).await);
    let outcome = world.end_of("2").await;
    assert_eq!(
        (outcome.stdout.as_str(), outcome.exited.code),
        ("ready\nbye\n", 7)
    );

    // A single signal goes to the program.
    world
        .client
        .start(isolated("3", &format!("sleep {seconds} | sleep {seconds}")))
        .await
        .unwrap();
    assert!(eventually(|| sleepers(&seconds) == 2).await);
    let interrupt = KillRequest {
        exec_id: "3".into(),
        signal: 2,
        grace_ms: 0,
    };
    assert!(world.client.kill(interrupt).await.unwrap().into_inner().signalled);
    assert_eq!(world.end_of("3").await.exited.signal, 2);
}

/// Namespaces and mounts that name this world, of all processes of this machine.
fn traces(world: &World) -> usize {
    let name = world.dir.path().display().to_string();
    let entries = std::fs::read_dir("/proc").unwrap();
    entries
        .filter_map(|entry| std::fs::read_to_string(entry.ok()?.path().join("mountinfo")).ok())
        .filter(|mounts| mounts.contains(&name))
        .count()
}

#[tokio::test]
async fn nothing_is_left_whoever_dies() {
    let Some(mut world) = world().await else { return };
    let seconds = odd_seconds();
    for n in 0..20 {
        run(&mut world, &n.to_string(), "true").await;
    }
    // What makes them has a mount over the run directory; nobody else has any.
    assert!(eventually(|| traces(&world) == 1).await, "{}", traces(&world));
    world
        .client
        .start(isolated("a", &format!("sleep {seconds}")))
        .await
        .unwrap();
    assert!(eventually(|| sleepers(&seconds) == 1).await);
    let guest = nix::unistd::Pid::from_raw(world.guest.id() as i32);
    nix::sys::signal::kill(guest, nix::sys::signal::Signal::SIGKILL).unwrap();
    assert!(eventually(|| sleepers(&seconds) == 0 && traces(&world) == 0).await);
}

#[tokio::test]
async fn what_was_written_is_kept_until_it_is_released() {
    let Some(mut world) = world().await else { return };
    std::fs::create_dir_all(world.workspace().join("out")).unwrap();
    std::fs::write(world.workspace().join("out/old.xml"), "old").unwrap();
    let mut request = isolated(
        "1",
        "echo new > out/new.xml; echo t > /tmp/t.xml; ln -s /etc/passwd out/link.xml; exit 3",
    );
    request.isolation.as_mut().unwrap().keep_until_release = true;
    world.client.start(request).await.unwrap();
    assert_eq!(world.end_of("1").await.exited.code, 3);
    let collect = |root: &str, globs: &[&str]| CollectRequest {
        exec_id: "1".into(),
        root: root.to_owned(),
        globs: globs.iter().map(|&glob| glob.to_owned()).collect(),
        ..CollectRequest::default()
    };
    let (files, summary) = crate::collect::collect(&mut world, collect("", &["out/*.xml"]))
        .await
        .unwrap();
    let names: Vec<&str> = files.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["out/new.xml", "out/old.xml"]);
    assert_eq!(files[0].1, b"new\n");
    assert_eq!(
        (summary.problems.len(), summary.problems[0].path.as_str()),
        (1, "out/link.xml")
    );
    let (files, _) = crate::collect::collect(&mut world, collect("/tmp", &["*.xml"]))
        .await
        .unwrap();
    assert_eq!(files, [("t.xml".to_owned(), b"t\n".to_vec())]);
    for outside in ["/etc", "/", "/tmp/../etc"] {
        let refused = crate::collect::collect(&mut world, collect(outside, &["*"]))
            .await
            .unwrap_err();
        assert_eq!(refused.code(), tonic::Code::InvalidArgument, "{refused:?}");
    }
    let release = ReleaseRequest { exec_id: "1".into() };
    world.client.release(release).await.unwrap();
    let gone = crate::collect::collect(&mut world, collect("", &["*"]))
        .await
        .unwrap_err();
    assert_eq!(gone.code(), tonic::Code::NotFound);
    run(&mut world, "2", "true").await;
    let mut request = collect("", &["*"]);
    request.exec_id = "2".into();
    let not_kept = crate::collect::collect(&mut world, request).await.unwrap_err();
    assert_eq!(not_kept.code(), tonic::Code::FailedPrecondition);
}

#[tokio::test]
async fn what_may_be_written_is_limited() {
    let Some(mut world) = world().await else { return };
    let mut request = isolated(
        "1",
        "head -c 3000000 /dev/zero > big || echo full; ls -s --block-size=1 big | cut -d' ' -f1",
    );
    request.isolation.as_mut().unwrap().scratch_bytes = 1 << 20;
    world.client.start(request).await.unwrap();
    let outcome = world.end_of("1").await;
    assert!(outcome.stdout.starts_with("full\n"), "{outcome:?}");
    let written: u64 = outcome.stdout.lines().last().unwrap().parse().unwrap();
    assert!(written <= 1 << 20, "{outcome:?}");
}

#[tokio::test]
async fn a_terminal_works_in_isolation() {
    let Some(mut world) = world().await else { return };
    let request = StartRequest {
        terminal: Some(Terminal::default()),
        ..isolated("1", "test -t 0 && stty size; script -qc 'echo inner' /dev/null")
    };
    world.client.start(request).await.unwrap();
    let outcome = world.end_of("1").await;
    assert!(outcome.stdout.contains("24 80"), "{outcome:?}");
    assert!(outcome.stdout.contains("inner"), "{outcome:?}");
}

#[tokio::test]
async fn a_program_that_is_not_there_is_told_as_outside() {
    let Some(mut world) = world().await else { return };
    let mut request = isolated("1", "");
    request.argv = vec!["not-there-at-all".into()];
    world.client.start(request).await.unwrap();
    let outcome = world.end_of("1").await;
    assert_eq!(outcome.exited.code, 127);
    assert!(
        outcome.exited.start_error.contains("not-there-at-all"),
        "{outcome:?}"
    );
    let request = StartRequest {
        stdin: "given".into(),
        env: [("A".to_owned(), "b c".to_owned())].into(),
        ..isolated("2", "cat; echo \" $A\"; echo e >&2")
    };
    world.client.start(request).await.unwrap();
    let outcome = world.end_of("2").await;
    assert_eq!(
        (outcome.stdout.as_str(), outcome.stderr.as_str()),
        ("given b c\n", "e\n")
    );
}

/// What isolation costs. Shown with `--no-capture`; the limit is far above what is usual, as machines are busy.
#[tokio::test]
async fn it_is_fast() {
    let Some(mut world) = world().await else { return };
    let mut medians = Vec::new();
    for isolation in [None, Some(Isolation::default())] {
        let mut times = Vec::new();
        for n in 0..60 {
            let id = format!("{}-{n}", isolation.is_some());
            let request = StartRequest {
                exec_id: id.clone(),
                argv: vec!["true".into()],
                isolation,
                ..StartRequest::default()
            };
            let begun = Instant::now();
            world.client.start(request).await.unwrap();
            world.end_of(&id).await;
            times.push(begun.elapsed());
        }
        times.sort();
        println!(
            "isolated: {}, median {:?}, 90 % {:?}",
            isolation.is_some(),
            times[30],
            times[54]
        );
        medians.push(times[30]);
    }
    assert!(medians[1] < medians[0] + Duration::from_millis(50), "{medians:?}");
}
