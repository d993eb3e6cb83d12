//! How git is run: nothing leaks, nothing stays, nothing from outside decides.
#![allow(
    clippy::unwrap_used,
    clippy::many_single_char_names,
    reason = "a test may panic, and its issues are a, b and c"
)]

mod common;

use common::{Bench, commit, sh};
use ostler_domain::TenantId;
use ostler_forge::git::{Credential, Git};
use ostler_forge::{ForgeError, Source};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

const SECRET: &str = "s3cret-of-this-test";

/// Serves one repository over HTTP to whoever has the password, and notes every command line that shows it.
struct Server {
    address: std::net::SocketAddr,
    leaks: Arc<Mutex<Vec<String>>>,
}

impl Server {
    async fn start(repository: PathBuf) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let leaks = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&leaks);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, repository.clone(), Arc::clone(&noted)));
            }
        });
        Self { address, leaks }
    }
}

fn command_lines_with_secret() -> Vec<String> {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    processes
        .filter_map(|p| std::fs::read(p.path().join("cmdline")).ok())
        .map(|line| String::from_utf8_lossy(&line).replace('\0', " "))
        .filter(|line| line.contains(SECRET))
        .collect()
}

async fn serve(stream: TcpStream, repository: PathBuf, leaks: Arc<Mutex<Vec<String>>>) {
    let mut stream = BufReader::new(stream);
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if stream.read_line(&mut head).await.unwrap_or(0) == 0 {
                return;
            }
        }
        leaks.lock().unwrap().extend(command_lines_with_secret());
        let lower = head.to_lowercase();
        let length = lower
            .lines()
            .find_map(|l| l.strip_prefix("content-length: ")?.trim().parse().ok())
            .unwrap_or(0);
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await.unwrap();
        // base64 of `bot:<SECRET>`
        let answer = if head.contains("Basic Ym90OnMzY3JldC1vZi10aGlzLXRlc3Q=") {
            let advertise = head.starts_with("GET");
            let mut args = vec!["upload-pack", "--stateless-rpc"];
            args.extend(advertise.then_some("--advertise-refs"));
            let mut child = tokio::process::Command::new("git")
                .args(["-c", "safe.directory=*"])
                .args(args)
                .arg(&repository)
                .stdin(std::process::Stdio::piped())
                .stdout(std::process::Stdio::piped())
                .spawn()
                .unwrap();
            child.stdin.take().unwrap().write_all(&body).await.unwrap();
            let output = child.wait_with_output().await.unwrap().stdout;
            let (kind, prefix) = if advertise {
                ("advertisement", "001e# service=git-upload-pack\n0000")
            } else {
                ("result", "")
            };
            let mut answer = format!(
                "HTTP/1.1 200 OK\r\nContent-Type: application/x-git-upload-pack-{kind}\r\nContent-Length: {}\r\n\r\n{prefix}",
                output.len() + prefix.len()
            )
            .into_bytes();
            answer.extend(output);
            answer
        } else {
            b"HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"x\"\r\nContent-Length: 0\r\n\r\n"
                .to_vec()
        };
        stream.get_mut().write_all(&answer).await.unwrap();
    }
}

fn files_with_secret(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files_with_secret(&path));
        } else if let Ok(bytes) = std::fs::read(&path)
            && bytes.windows(SECRET.len()).any(|w| w == SECRET.as_bytes())
        {
            found.push(path);
        }
    }
    found
}

#[tokio::test]
async fn a_credential_reaches_the_server_and_nothing_else() {
    let bench = Bench::new();
    // The search itself works: it sees a secret where one is.
    let mut shown = std::process::Command::new("sh")
        .args(["-c", "read x", SECRET])
        .stdin(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    // While a program is being loaded its command line is empty for a moment.
    let end = std::time::Instant::now() + Duration::from_secs(10);
    while command_lines_with_secret().is_empty() {
        assert!(std::time::Instant::now() < end, "the search finds nothing");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    shown.kill().unwrap();
    shown.wait().unwrap();

    let server = Server::start(bench.origin.clone()).await;
    let url = format!("http://{}/acme/demo.git", server.address);
    let source = Source::parse(&url).unwrap();
    let repository = bench.repositories.repository(TenantId::DEFAULT, &source);

    let error = repository.clone_source(None, None).await.unwrap_err();
    assert!(matches!(error, ForgeError::AccessRefused { .. }), "{error}");
    let wrong = Credential::new("bot", format!("{SECRET}-wrong"));
    let error = repository.clone_source(None, Some(&wrong)).await.unwrap_err();
    assert!(
        matches!(error, ForgeError::AccessRefused { .. }) && !error.to_string().contains(SECRET),
        "{error}"
    );

    let credential = Credential::new("bot", SECRET);
    assert!(!format!("{credential:?}").contains(SECRET));
    repository.clone_source(None, Some(&credential)).await.unwrap();
    commit(&bench.origin, "a", "a", "second");
    repository.sync("main", Some(&credential)).await.unwrap();
    assert_eq!(
        repository.head_of("main").await.unwrap().unwrap(),
        sh(&bench.origin, &["rev-parse", "HEAD"])
    );
    assert_eq!(*server.leaks.lock().unwrap(), Vec::<String>::new());
    assert_eq!(files_with_secret(bench.dir.path()), Vec::<PathBuf>::new());
    let config = std::fs::read_to_string(repository.path().join("config")).unwrap();
    assert!(config.contains(&url) && !config.contains("bot"), "{config}");
}

#[tokio::test]
async fn what_looks_like_an_option_never_reaches_git() {
    let error = Git::new()
        .call("log")
        .value("--output=/tmp/x")
        .run()
        .await
        .unwrap_err();
    assert!(matches!(error, ForgeError::InvalidName { .. }), "{error}");
    let bench = Bench::new();
    let repository = bench.cloned().await;
    for bad in ["--all", "-x", "main:README", "a..b", "@{-1}", ""] {
        assert!(repository.diff(bad, "main", 100).await.is_err(), "{bad:?}");
        assert!(repository.log("main", bad).await.is_err(), "{bad:?}");
    }
}

/// A program that stands in for git: it starts a child, notes its process id and hangs.
fn hanging(dir: &Path) -> (Git, PathBuf) {
    use std::os::unix::fs::PermissionsExt;
    let (program, note) = (dir.join("git"), dir.join("child"));
    let script = format!(
        "#!/bin/sh\ntrap '' TERM\nsleep 300 &\necho $! > {0}.new\nmv {0}.new {0}\nwait\nwait\n",
        note.display()
    );
    std::fs::write(&program, script).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let limit = Duration::from_millis(700);
    (Git::new().program(program).timeouts(limit, limit), note)
}

async fn gone(note: &Path) {
    let id = std::fs::read_to_string(note).unwrap();
    let process = PathBuf::from("/proc").join(id.trim());
    // A dead child that nobody has waited for yet is a zombie, and has no command line any more.
    let alive = || std::fs::read(process.join("cmdline")).is_ok_and(|line| !line.is_empty());
    let start = Instant::now();
    while alive() {
        assert!(
            start.elapsed() < Duration::from_secs(5),
            "the child of git outlived the call"
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_git_that_hangs_is_killed_with_its_children() {
    let dir = tempfile::tempdir().unwrap();
    let (git, note) = hanging(dir.path());
    let error = git.call("fetch").run().await.unwrap_err();
    assert!(matches!(error, ForgeError::GitTimedOut { .. }), "{error}");
    gone(&note).await;
}

#[tokio::test]
async fn a_cancelled_call_leaves_no_process() {
    let dir = tempfile::tempdir().unwrap();
    let (git, note) = hanging(dir.path());
    let call = git.timeouts(Duration::from_secs(60), Duration::from_secs(60));
    let task = tokio::spawn(async move { call.call("fetch").run().await });
    while !note.exists() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    task.abort();
    assert!(task.await.unwrap_err().is_cancelled());
    gone(&note).await;
}

#[tokio::test]
async fn a_git_that_is_missing_or_fails_is_named() {
    let error = Git::new()
        .program("/no/such/git")
        .call("version")
        .run()
        .await
        .unwrap_err();
    assert!(error.to_string().contains("/no/such/git"), "{error}");
    let error = Git::new()
        .call("rev-parse")
        .arg("--git-dir")
        .inside(Path::new("/"))
        .run()
        .await
        .unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("git rev-parse --git-dir") && text.contains("exit code 128"),
        "{text}"
    );
}

#[tokio::test]
async fn configuration_and_hooks_of_others_do_not_apply() {
    let bench = Bench::new();
    let mark = bench.dir.path().join("mark");
    let repository = bench.cloned().await;
    let hooks = repository.path().join("hooks");
    std::fs::create_dir_all(&hooks).unwrap();
    for hook in ["post-checkout", "reference-transaction", "post-merge"] {
        use std::os::unix::fs::PermissionsExt;
        let file = hooks.join(hook);
        std::fs::write(&file, format!("#!/bin/sh\ntouch {}\n", mark.display())).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    repository
        .worktree_add(ostler_domain::SubtaskId::new(), "iv-1", "main")
        .await
        .unwrap();
    commit(&bench.origin, "a", "a", "second");
    repository.sync("main", None).await.unwrap();
    assert!(!mark.exists());
}

#[tokio::test]
async fn a_merge_that_is_cancelled_at_any_point_is_whole_or_absent() {
    let bench = Bench::new();
    let repository = bench.cloned().await;
    let subtask = ostler_domain::SubtaskId::new();
    repository.worktree_add(subtask, "iv-1", "main").await.unwrap();
    let out = bench
        .in_sandbox(&repository, "iv-1", |w| drop(commit(w, "a", "a", "work")))
        .await;
    let head = repository
        .bundle_import(subtask, "iv-1", "main", &out)
        .await
        .unwrap();
    let before = repository.head_of("main").await.unwrap();
    for delay in 0..40 {
        let merging = repository.clone();
        let head = head.clone();
        let task = tokio::spawn(async move { merging.merge("iv-1", "main", "m", Some(&head)).await });
        tokio::time::sleep(Duration::from_millis(delay)).await;
        task.abort();
        let _ = task.await;
        let now = repository.head_of("main").await.unwrap();
        if now != before {
            assert_eq!(repository.file_at("main", "a").await.unwrap().unwrap(), b"a");
            break;
        }
    }
    let outcome = repository.merge("iv-1", "main", "m", Some(&head)).await.unwrap();
    assert!(
        matches!(outcome, ostler_forge::MergeOutcome::Merged { .. }),
        "{outcome:?}"
    );
    sh(repository.path(), &["fsck", "--strict"]);
}
