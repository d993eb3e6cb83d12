//! Streams over broken connections and restarts.

use crate::support::Cli;
use ostler_test_kit::{TestServer, require};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Passes connections on to a server that can be changed, and breaks them when asked.
pub(crate) struct Proxy {
    pub(crate) url: String,
    to: watch::Sender<String>,
}

impl Proxy {
    pub(crate) async fn to(url: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let own = format!("http://{}", listener.local_addr().unwrap());
        let (to, target) = watch::channel(url.to_owned());
        tokio::spawn(async move {
            while let Ok((mut from, _)) = listener.accept().await {
                let mut target = target.clone();
                tokio::spawn(async move {
                    let url = target.borrow_and_update().clone();
                    let address = url.strip_prefix("http://").unwrap_or_default();
                    let Ok(mut to) = TcpStream::connect(address).await else {
                        return;
                    };
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut from, &mut to) => {}
                        _ = target.changed() => {}
                    }
                });
            }
        });
        Self { url: own, to }
    }

    /// Breaks all connections; new ones go to this server.
    pub(crate) fn now_to(&self, url: &str) {
        self.to.send_replace(url.to_owned());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_is_followed_over_broken_connections_and_a_restart() {
    require!(Bubblewrap);
    let dir = tempfile::tempdir().unwrap();
    let server = TestServer::new(env!("CARGO_BIN_EXE_ostler"), dir.path());
    let mut server = Cli(server.env("OSTLER_DRIVERS__DOCKER", "false").start().await);
    let proxy = Proxy::to(server.0.url()).await;
    let token = server.0.token.clone().unwrap();
    let script = "for i in 1 2 3 4 5 6 7 8 9 10 11 12; do echo $i; sleep 0.5; done; exit 9";
    let follow = [
        "--server", &proxy.url, "--token", &token, "run", "submit", "-f", "--", "sh", "-c", script,
    ];
    let follow = server.start(&follow);
    let running = server.until(&["run", "list"], |runs| runs[0]["status"] == "running");
    let run = running[0]["id"].as_str().unwrap();
    std::thread::sleep(Duration::from_secs(1));
    proxy.now_to(server.0.url());
    std::thread::sleep(Duration::from_secs(1));
    server.0.kill_9();
    std::thread::sleep(Duration::from_secs(1));
    server.0.start_again().await;
    proxy.now_to(server.0.url());
    let done = follow.wait();
    let wanted = "1\n2\n3\n4\n5\n6\n7\n8\n9\n10\n11\n12\n";
    assert_eq!((done.code, done.out.as_str()), (9, wanted), "{done:?}");
    assert!(
        done.err.contains("is lost") && done.err.contains("answers again"),
        "{done:?}"
    );
    assert_eq!(server.ok(&["run", "logs", run]), wanted);
    server.0.stop().await;
}
