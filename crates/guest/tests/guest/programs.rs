//! Starting, output, standard input, and what is refused.

use crate::world::{World, sh};
use ostler_guest_protocol::v1::{
    AttachRequest, ConfigureRequest, HealthRequest, KillRequest, ListExecsRequest, MetricsRequest,
    ReleaseRequest, StartRequest, WriteStdinRequest,
};
use tonic::Code;

#[tokio::test]
async fn a_program_has_its_environment_directory_and_end() {
    let mut world = World::new().await;
    let configure = ConfigureRequest {
        env: [
            ("A".to_owned(), "configured".to_owned()),
            ("B".to_owned(), "configured".to_owned()),
        ]
        .into(),
        hostname: String::new(),
    };
    let place = world.client.configure(configure).await.unwrap().into_inner();
    assert!(place.gateway_url.starts_with("http://127.0.0.1:"), "{place:?}");
    assert_eq!(
        place.workspace,
        world.workspace().canonicalize().unwrap().display().to_string()
    );
    let request = StartRequest {
        env: [("B".to_owned(), "own".to_owned())].into(),
        cwd: "deep/er".into(),
        ..sh("1", "echo $A $B; pwd; echo oh >&2; exit 3")
    };
    world.client.start(request).await.unwrap();
    let outcome = world.end_of("1").await;
    let dir = world.workspace().canonicalize().unwrap().join("deep/er");
    assert_eq!(outcome.stdout, format!("configured own\n{}\n", dir.display()));
    assert_eq!(
        (
            outcome.stderr.as_str(),
            outcome.exited.code,
            outcome.exited.signal
        ),
        ("oh\n", 3, 0)
    );
    assert!(outcome.exited.max_rss_kib > 0);
    let outcome = world.run("2", "kill -USR1 $$").await;
    assert_eq!((outcome.exited.code, outcome.exited.signal), (0, 10));
}

#[tokio::test]
async fn the_same_id_starts_once() {
    let mut world = World::new().await;
    let pid = world.start("1", "echo x >> starts; sleep 0.3").await;
    let mut other = world.other().await;
    let (one, two) = tokio::join!(
        world.client.start(sh("1", "echo y >> starts")),
        other.start(sh("1", "no"))
    );
    for again in [one.unwrap().into_inner(), two.unwrap().into_inner()] {
        assert!(again.already_started && again.pid == pid);
    }
    world.end_of("1").await;
    let (one, two) = tokio::join!(
        world.client.start(sh("2", "echo z >> starts")),
        other.start(sh("2", "echo z >> starts"))
    );
    assert_eq!(
        [one, two]
            .iter()
            .filter(|r| r.as_ref().unwrap().get_ref().already_started)
            .count(),
        1
    );
    world.end_of("2").await;
    assert_eq!(
        std::fs::read_to_string(world.workspace().join("starts")).unwrap(),
        "x\nz\n"
    );
}

#[tokio::test]
async fn what_cannot_be_started_says_why() {
    let mut world = World::new().await;
    std::fs::write(world.workspace().join("text"), "not a program").unwrap();
    for (id, program, code) in [("1", "no-such-program", 127), ("2", "./text", 126)] {
        let request = StartRequest {
            exec_id: id.into(),
            argv: vec![program.into()],
            ..StartRequest::default()
        };
        world.client.start(request).await.unwrap();
        let exited = world.end_of(id).await.exited;
        assert_eq!(exited.code, code);
        assert!(exited.start_error.contains(program), "{exited:?}");
    }
    let nul = sh("3", "a\0b");
    let nothing = StartRequest {
        exec_id: "3".into(),
        ..StartRequest::default()
    };
    let nameless = sh("", "true");
    let directory = StartRequest {
        cwd: "text/x".into(),
        ..sh("3", "true")
    };
    let variable = StartRequest {
        env: [("A=B".to_owned(), String::new())].into(),
        ..sh("3", "true")
    };
    let large = sh("3", &"x".repeat(3 << 20));
    for bad in [nul, nothing, nameless, directory, variable, large] {
        let refused = world.client.start(bad).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
        assert!(refused.message().len() > 10, "{refused:?}");
    }
    let unknown = AttachRequest {
        exec_id: "none".into(),
        from_seq: 1,
    };
    assert_eq!(
        world.client.attach(unknown).await.unwrap_err().code(),
        Code::NotFound
    );
    let unknown = KillRequest {
        exec_id: "none".into(),
        ..KillRequest::default()
    };
    assert_eq!(
        world.client.kill(unknown).await.unwrap_err().code(),
        Code::NotFound
    );
    // It serves as before.
    assert_eq!(world.run("4", "echo yes").await.stdout, "yes\n");
    let health = world.client.health(HealthRequest {}).await.unwrap().into_inner();
    assert_eq!(health.execs, 3);
}

#[tokio::test]
async fn standard_input_is_given_at_once_or_later_and_closed() {
    let mut world = World::new().await;
    let large = "line\n".repeat(100_000);
    let request = StartRequest {
        stdin: large.clone().into(),
        ..sh("1", "wc -c")
    };
    world.client.start(request).await.unwrap();
    assert_eq!(world.end_of("1").await.stdout.trim(), large.len().to_string());

    let request = StartRequest {
        stdin_open: true,
        stdin: "a".into(),
        ..sh("2", "cat")
    };
    world.client.start(request).await.unwrap();
    let write = |data: &'static str, close| WriteStdinRequest {
        exec_id: "2".into(),
        data: data.into(),
        close,
    };
    world.client.write_stdin(write("b", false)).await.unwrap();
    world.client.write_stdin(write("c", true)).await.unwrap();
    let closed = world.client.write_stdin(write("d", false)).await.unwrap_err();
    assert_eq!(closed.code(), Code::FailedPrecondition);
    assert_eq!(world.end_of("2").await.stdout, "abc");

    // Nothing to read is not for ever.
    assert_eq!(world.run("3", "cat; echo end").await.stdout, "end\n");
    // One that does not want it ends as it likes.
    let request = StartRequest {
        stdin: large.into(),
        ..sh("4", "exec <&-; sleep 0.1; echo done")
    };
    world.client.start(request).await.unwrap();
    assert_eq!(world.end_of("4").await.stdout, "done\n");
}

#[tokio::test]
async fn a_flood_is_cut_and_the_guest_stays_small_and_answers() {
    let mut world = World::new().await;
    let request = StartRequest {
        keep_bytes: 8 << 20,
        ..sh(
            "1",
            "yes 0123456789012345678901234567890123456789 | head -c 300000000; echo end",
        )
    };
    world.client.start(request).await.unwrap();
    let outcome = world.end_of("1").await;
    assert!(outcome.stdout.ends_with("end\n") && outcome.exited.code == 0);
    // A reader that keeps up may have seen more than is kept; one that comes later sees what is kept.
    let later = world.end_of("1").await;
    assert!(later.dropped > 0 && later.stdout.len() < 9 << 20 && later.stdout.len() > 4 << 20);
    let usage = world
        .client
        .metrics(MetricsRequest {})
        .await
        .unwrap()
        .into_inner();
    assert!(usage.memory_bytes < 64 << 20, "{usage:?}");
    assert!(usage.processes >= 1);
    assert!(usage.disk_bytes > 0 && usage.disk_free_bytes > 0, "{usage:?}");
    // Nothing of it is left on disk when it is released.
    let held = |guest: u32| {
        let files = std::fs::read_dir(format!("/proc/{guest}/fd")).unwrap();
        files
            .filter(|file| {
                std::fs::read_link(file.as_ref().unwrap().path())
                    .is_ok_and(|to| to.to_string_lossy().contains(".output-"))
            })
            .count()
    };
    assert!(held(world.guest.id()) > 0);
    let release = ReleaseRequest { exec_id: "1".into() };
    world.client.release(release.clone()).await.unwrap();
    world.client.release(release).await.unwrap();
    assert_eq!(held(world.guest.id()), 0);
}

#[tokio::test]
async fn many_programs_run_at_once_and_are_listed_until_released() {
    let mut world = World::new().await;
    for n in 0..200 {
        world
            .start(&n.to_string(), &format!("echo {n}; sleep 0.2; exit {}", n % 7))
            .await;
    }
    let list = world
        .client
        .list_execs(ListExecsRequest {})
        .await
        .unwrap()
        .into_inner();
    assert_eq!(list.execs.len(), 200);
    for n in 0..200 {
        let outcome = world.end_of(&n.to_string()).await;
        assert_eq!((outcome.stdout, outcome.exited.code), (format!("{n}\n"), n % 7));
    }
    let list = world
        .client
        .list_execs(ListExecsRequest {})
        .await
        .unwrap()
        .into_inner();
    assert!(list.execs.iter().all(|exec| !exec.running && exec.last_seq == 2));
    world.start("long", "sleep 30").await;
    let early = ReleaseRequest {
        exec_id: "long".into(),
    };
    assert_eq!(
        world.client.release(early).await.unwrap_err().code(),
        Code::FailedPrecondition
    );
}
