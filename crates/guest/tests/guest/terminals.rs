//! Programs with a terminal: what they see, what is typed, its size, and how they end.

use crate::world::{LIMIT, World, eventually, odd_seconds, sh, sleepers};
use ostler_guest_protocol::v1::exec_event::Event;
use ostler_guest_protocol::v1::{
    AttachRequest, ExecEvent, KillRequest, ListExecsRequest, RenewRequest, ResizeRequest, StartRequest,
    Terminal, WriteStdinRequest,
};
use std::time::{Duration, Instant};
use tonic::{Code, Streaming};

fn in_terminal(id: &str, script: &str) -> StartRequest {
    StartRequest {
        terminal: Some(Terminal {
            rows: 31,
            columns: 97,
            term: String::new(),
        }),
        stdin_open: true,
        ..sh(id, script)
    }
}

/// What a program shows, as it comes.
struct Screen {
    events: Streaming<ExecEvent>,
    shown: String,
    last: u64,
}

impl Screen {
    async fn of(world: &mut World, id: &str, from_seq: u64) -> Self {
        let request = AttachRequest {
            exec_id: id.to_owned(),
            from_seq,
        };
        Self {
            events: world.client.attach(request).await.unwrap().into_inner(),
            shown: String::new(),
            last: from_seq.saturating_sub(1),
        }
    }

    async fn shows(&mut self, wanted: &str) {
        let all = async {
            while !self.shown.contains(wanted) {
                let event = self.events.message().await.unwrap().expect("more output");
                self.last = event.seq;
                match event.event.unwrap() {
                    Event::Stdout(data) => self.shown += &String::from_utf8_lossy(&data),
                    other => panic!("{other:?} after {:?}", self.shown),
                }
            }
        };
        let done = tokio::time::timeout(LIMIT, all).await;
        assert!(done.is_ok(), "{wanted:?} is not in {:?}", self.shown);
    }
}

async fn typed(world: &mut World, id: &str, text: &str, close: bool) {
    let request = WriteStdinRequest {
        exec_id: id.to_owned(),
        data: text.to_owned().into(),
        close,
    };
    world.client.write_stdin(request).await.unwrap();
}

#[tokio::test]
async fn a_program_has_a_terminal_of_its_own() {
    let mut world = World::new().await;
    let script = "tty; stty size; echo $TERM; echo oh >&2; test -t 0 && test -t 1 && test -t 2 && echo all; \
                  ps -o pid= -o sid= -o tpgid= -p $$; echo opened > /dev/tty; exit 7";
    world.client.start(in_terminal("1", script)).await.unwrap();
    let outcome = world.end_of("1").await;
    assert_eq!(
        (outcome.exited.code, outcome.exited.signal),
        (7, 0),
        "{outcome:?}"
    );
    assert_eq!(outcome.stderr, "", "all output of a terminal is one stream");
    let lines: Vec<&str> = outcome.stdout.lines().collect();
    assert!(lines[0].starts_with("/dev/pts/"), "{lines:?}");
    assert_eq!(lines[1..5], ["31 97", "xterm-256color", "oh", "all"], "{lines:?}");
    let ids: Vec<&str> = lines[5].split_whitespace().collect();
    assert!(
        ids[0] == ids[1] && ids[1] == ids[2],
        "it leads its session and is in the foreground: {ids:?}"
    );
    assert_eq!(lines[6], "opened");
    let own = StartRequest {
        terminal: Some(Terminal {
            term: "vt100".into(),
            ..Terminal::default()
        }),
        ..sh("2", "stty size; echo $TERM; read line; echo got:$line")
    };
    let own = StartRequest {
        stdin: "typed\n".into(),
        ..own
    };
    world.client.start(own).await.unwrap();
    let outcome = world.end_of("2").await;
    assert!(
        outcome.stdout.contains("24 80\r\nvt100\r\n"),
        "{:?}",
        outcome.stdout
    );
    assert!(outcome.stdout.contains("got:typed"), "{:?}", outcome.stdout);
    // One that has no terminal is told so.
    let outcome = world.run("3", "tty").await;
    assert!(outcome.stdout.contains("not a tty"), "{outcome:?}");
}

#[tokio::test]
async fn the_size_changes_and_the_program_is_told() {
    let mut world = World::new().await;
    let script = "trap 'echo changed; stty size' WINCH; echo ready; while :; do sleep 0.05; done";
    world.client.start(in_terminal("1", script)).await.unwrap();
    let mut screen = Screen::of(&mut world, "1", 1).await;
    screen.shows("ready").await;
    let resize = |rows, columns| ResizeRequest {
        exec_id: "1".into(),
        rows,
        columns,
    };
    world.client.resize(resize(50, 132)).await.unwrap();
    screen.shows("changed\r\n50 132\r\n").await;
    let error = world.client.resize(resize(50, 100_000)).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
    assert!(world.kill("1", Duration::from_secs(5)).await);
    let error = loop {
        match world.client.resize(resize(1, 1)).await {
            Ok(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            Err(error) => break error,
        }
    };
    assert_eq!(error.code(), Code::FailedPrecondition);
    assert!(error.message().contains("ended"), "{error}");
    world.run("2", "true").await;
    let none = ResizeRequest {
        exec_id: "2".into(),
        ..resize(1, 1)
    };
    let error = world.client.resize(none).await.unwrap_err();
    assert!(error.message().contains("has no terminal"), "{error}");
}

#[tokio::test]
async fn control_c_and_signals_reach_what_is_in_the_foreground() {
    let mut world = World::new().await;
    let shell = StartRequest {
        argv: ["bash", "--norc", "-i"].map(str::to_owned).to_vec(),
        env: [("PS1".to_owned(), "> ".to_owned())].into(),
        ..in_terminal("1", "")
    };
    let sleep = odd_seconds();
    world.client.start(shell).await.unwrap();
    let mut screen = Screen::of(&mut world, "1", 1).await;
    for by_signal in [false, true] {
        typed(&mut world, "1", &format!("sleep {sleep}\n"), false).await;
        assert!(eventually(|| sleepers(&sleep) == 1).await);
        if by_signal {
            let request = KillRequest {
                exec_id: "1".into(),
                signal: 2,
                grace_ms: 0,
            };
            assert!(world.client.kill(request).await.unwrap().into_inner().signalled);
        } else {
            typed(&mut world, "1", "\x03", false).await;
        }
        assert!(eventually(|| sleepers(&sleep) == 0).await);
        // The shell itself goes on, and knows how its child ended.
        let mark = format!("{by_signal}-");
        typed(&mut world, "1", &format!("echo {mark}$?\n"), false).await;
        screen.shows(&format!("{mark}130")).await;
    }
    typed(&mut world, "1", "exit 9\n", true).await;
    assert_eq!(world.end_of("1").await.exited.code, 9);
}

#[tokio::test]
async fn the_end_of_what_is_typed_is_the_end_of_file() {
    let mut world = World::new().await;
    for (id, text) in [("1", "a line\n"), ("2", "half a line"), ("3", "")] {
        let script = "stty -echo; echo ready; cat; echo over";
        world.client.start(in_terminal(id, script)).await.unwrap();
        let mut screen = Screen::of(&mut world, id, 1).await;
        screen.shows("ready").await;
        typed(&mut world, id, text, true).await;
        let outcome = world.end_of(id).await;
        assert!(
            outcome.stdout.contains("over") && outcome.stdout.contains(text.trim()),
            "{text:?}: {outcome:?}"
        );
        assert_eq!(outcome.exited.code, 0);
    }
}

#[tokio::test]
async fn a_killed_shell_ends_at_once_with_all_it_started() {
    let mut world = World::new().await;
    let shell = StartRequest {
        argv: ["bash", "--norc", "-i"].map(str::to_owned).to_vec(),
        ..in_terminal("1", "")
    };
    let (front, back, gone) = (odd_seconds(), odd_seconds(), odd_seconds());
    world.client.start(shell).await.unwrap();
    let line = format!("setsid sleep {gone} & sleep {back} & sleep {front}\n");
    typed(&mut world, "1", &line, false).await;
    let all = [&front, &back, &gone];
    assert!(eventually(|| all.iter().all(|s| sleepers(s) == 1)).await);
    let start = Instant::now();
    assert!(world.kill("1", Duration::from_secs(20)).await);
    assert!(
        start.elapsed() < Duration::from_secs(10),
        "it listened to its terminal: {:?}",
        start.elapsed()
    );
    assert_eq!(all.map(|s| sleepers(s)), [0, 0, 0]);
    let outcome = world.end_of("1").await;
    assert!(
        outcome.exited.signal != 0 || outcome.exited.code != 0,
        "{outcome:?}"
    );
}

#[tokio::test]
async fn a_reader_goes_on_where_another_stopped() {
    let mut world = World::new().await;
    world
        .client
        .start(in_terminal("1", "stty -echo; echo ready; cat"))
        .await
        .unwrap();
    let mut screen = Screen::of(&mut world, "1", 1).await;
    screen.shows("ready").await;
    typed(&mut world, "1", "first\n", false).await;
    screen.shows("first").await;
    let next = screen.last + 1;
    drop(screen);
    typed(&mut world, "1", "second\n", false).await;
    let mut screen = Screen::of(&mut world, "1", next).await;
    screen.shows("second").await;
    assert!(!screen.shown.contains("first"), "{:?}", screen.shown);
    typed(&mut world, "1", "", true).await;
    world.end_of("1").await;
    let list = world.client.list_execs(ListExecsRequest {}).await.unwrap();
    let info = &list.into_inner().execs[0];
    assert!(info.terminal && !info.running && info.started_us > 0);
    assert_eq!(info.argv[..2], ["sh", "-c"]);
    assert_eq!(info.exited.as_ref().unwrap().code, 0);
}

#[tokio::test]
async fn much_is_shown_and_much_is_typed() {
    let mut world = World::new().await;
    let script = "stty raw -echo; echo ready; head -c 1000000 | wc -c; seq 200000 | md5sum; seq 200000";
    world.client.start(in_terminal("1", script)).await.unwrap();
    let mut screen = Screen::of(&mut world, "1", 1).await;
    screen.shows("ready").await;
    for _ in 0..10 {
        typed(&mut world, "1", &"x".repeat(100_000), false).await;
    }
    let outcome = world.end_of("1").await;
    let numbers: Vec<String> = (1..=200_000).map(|n| n.to_string()).collect();
    let shown = numbers.join("\n") + "\n";
    assert!(outcome.stdout.contains("1000000\n"));
    assert!(outcome.stdout.ends_with(&shown), "{} bytes", outcome.stdout.len());
    assert_eq!(outcome.exited.code, 0);
}

#[tokio::test]
async fn a_guest_among_others_renews_nothing() {
    let mut world = World::new().await;
    let before = std::time::SystemTime::now();
    let request = RenewRequest {
        unix_us: 1_000_000,
        seed: vec![7; 64].into(),
        hostname: "another".into(),
        ..RenewRequest::default()
    };
    let reply = world.client.renew(request).await.unwrap().into_inner();
    assert!(!reply.clock && !reply.random && !reply.named, "{reply:?}");
    assert_eq!(reply.refused.len(), 3, "{reply:?}");
    assert!(std::time::SystemTime::now() >= before);
}

#[tokio::test]
async fn what_listens_to_a_hang_up_has_time_for_it_and_no_more() {
    let mut world = World::new().await;
    let script =
        "trap 'sleep 0.3; echo put-away > kept; exit 5' HUP; echo ready; while :; do sleep 0.05; done";
    world.client.start(in_terminal("1", script)).await.unwrap();
    Screen::of(&mut world, "1", 1).await.shows("ready").await;
    assert!(world.kill("1", Duration::from_secs(5)).await);
    assert_eq!(world.end_of("1").await.exited.code, 5);
    let kept = std::fs::read_to_string(world.workspace().join("kept")).unwrap();
    assert_eq!(kept, "put-away\n");
    // One that takes no notice gets TERM next, and what takes no notice of that either is ended within the grace period.
    for (id, deaf_to, grace, signal) in [("2", "HUP", 60, 15), ("3", "HUP TERM", 2, 9)] {
        let script = format!("trap '' {deaf_to}; echo ready; exec sleep {}", odd_seconds());
        world.client.start(in_terminal(id, &script)).await.unwrap();
        Screen::of(&mut world, id, 1).await.shows("ready").await;
        let began = Instant::now();
        assert!(world.kill(id, Duration::from_secs(grace)).await);
        assert!(began.elapsed() < Duration::from_secs(grace + 3), "{id}");
        assert_eq!(world.end_of(id).await.exited.signal, signal, "{id}");
    }
}
