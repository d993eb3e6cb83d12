//! Work in virtual machines and containers: terminals, files, pauses, and servers that come and go.

use crate::support::{Cli, id};
use crate::{machines, server};
use ostler_test_kit::{DockerEngine, LeakGuard, MachineParts, TestServer, require};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Sends everything to the server, which has another port after each start.
fn relay(server: &TestServer) -> (String, Arc<Mutex<String>>) {
    let address = |url: &str| url.strip_prefix("http://").unwrap().to_owned();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let target = Arc::new(Mutex::new(server.url().to_owned()));
    let present = Arc::clone(&target);
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let to = address(&present.lock().unwrap());
            // Nobody is there: the client's connection is closed.
            let Ok(server) = TcpStream::connect(to) else {
                continue;
            };
            let pairs = [
                (client.try_clone().unwrap(), server.try_clone().unwrap()),
                (server, client),
            ];
            for (mut from, mut into) in pairs {
                std::thread::spawn(move || {
                    let _ = std::io::copy(&mut from, &mut into);
                    let _ = into.shutdown(Shutdown::Both);
                });
            }
        }
    });
    (url, target)
}

async fn works(mut cli: Cli, pool: &str, files: &Path) -> Cli {
    let agent = id(&cli.ok(&["agent", "provision", "--pool", pool]), "sbx_");
    let script = ["agent", "exec", &agent, "--", "sh", "-c"];
    let exec = |cli: &Cli, text: &str| cli.ok(&[&script[..], &[text]].concat());

    // Files and directories, both ways.
    let tree = files.join("tree");
    std::fs::create_dir_all(tree.join("deep")).unwrap();
    std::fs::write(tree.join("large"), vec![7; 5_000_000]).unwrap();
    std::fs::write(tree.join("deep/words"), "words\n").unwrap();
    cli.ok(&[
        "agent",
        "cp",
        tree.to_str().unwrap(),
        &format!("{agent}:/tmp/copy"),
    ]);
    assert_eq!(
        exec(&cli, "cat /tmp/copy/deep/words; wc -c < /tmp/copy/large"),
        "words\n5000000\n"
    );
    let back = files.join("back");
    cli.ok(&[
        "agent",
        "cp",
        &format!("{agent}:/tmp/copy"),
        back.to_str().unwrap(),
    ]);
    assert_eq!(std::fs::read(back.join("large")).unwrap(), vec![7; 5_000_000]);

    // A pause: nothing answers, and then it goes on.
    cli.ok(&["agent", "pause", &agent]);
    assert!(cli.json(&["sandbox", "show", &agent])["paused"].is_string());
    let frozen = cli.run(&[&script[..], &["true"]].concat());
    assert!(frozen.code != 0 && frozen.err.contains("resume"), "{frozen:?}");
    cli.ok(&["agent", "resume", &agent]);
    assert_eq!(exec(&cli, "echo on"), "on\n");

    // What a list of commands forbids is allowed again.
    cli.ok(&["agent", "configure", &agent, "--allow", "all"]);
    assert!(cli.json(&["sandbox", "show", &agent])["tool_allowlist"].is_null());

    // A terminal, and what goes on in it while the server is killed and started again.
    let shell = ["agent", "shell", &agent, "--", "sh", "-c"];
    let size = cli.run(&[&shell[..], &["tty; stty size"]].concat());
    assert!(size.code == 0 && size.out.contains("/dev/pts/"), "{size:?}");
    let counting = "i=0; while [ $i -lt 60 ]; do echo line-$i.; i=$((i+1)); sleep 0.1; done; exit 5";
    let (url, target) = relay(&cli.0);
    let token = cli.0.token.clone().unwrap();
    let through = ["--server", &url, "--token", &token];
    let mut live = cli.start(&[&through[..], &shell[..], &[counting]].concat());
    live.until_prints("line-5.");
    cli.0.kill_9();
    tokio::time::sleep(Duration::from_secs(1)).await;
    cli.0.start_again().await;
    cli.0.url().clone_into(&mut target.lock().unwrap());
    let done = live.wait();
    let wanted: Vec<String> = (0..60).map(|n| format!("line-{n}.")).collect();
    let found: Vec<&str> = done.out.lines().map(str::trim).collect();
    println!(
        "a terminal over a restart: {} of 60 lines, {}, {}",
        found.len(),
        done.code,
        done.err
    );
    assert_eq!(
        (found, done.code),
        (wanted.iter().map(String::as_str).collect(), 5),
        "{}",
        done.err
    );

    // The one that was held is the same, and it answers.
    assert_eq!(exec(&cli, "cat /tmp/copy/deep/words"), "words\n");
    cli.ok(&["agent", "destroy", &agent]);
    cli
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_a_virtual_machine() {
    require!(Qemu);
    let dir = tempfile::tempdir().unwrap();
    let files = tempfile::tempdir().unwrap();
    let mut guard = LeakGuard::new(dir.path());
    let parts = MachineParts::find().unwrap();
    let drive = parts.root_drive.display().to_string();
    let cli = Cli(server(dir.path())
        .env("OSTLER_DRIVERS__DOCKER", "false")
        .start()
        .await);
    cli.ok(&machines("machines", &drive, &["--target", "1", "--max", "2"]));
    let Cli(mut server) = works(cli, "machines", files.path()).await;
    assert!(server.stop().await.success());
    guard.check();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_a_container() {
    require!(BaseImage, Qemu);
    let engine = DockerEngine::start();
    let dir = tempfile::tempdir().unwrap();
    let files = tempfile::tempdir().unwrap();
    let mut guard = LeakGuard::new(dir.path()).with_engine(&engine);
    let cli = Cli(server(dir.path()).engine(&engine).start().await);
    let image = engine.base_image();
    cli.ok(&[
        "pool", "set", "boxes", "--driver", "docker", "--image", &image, "--target", "1", "--max", "2",
    ]);
    let Cli(mut server) = works(cli, "boxes", files.path()).await;
    assert!(server.stop().await.success());
    guard.check();
}
