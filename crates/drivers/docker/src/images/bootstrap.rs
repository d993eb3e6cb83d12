//! The base of images: a small Debian, made on this host by `mmdebstrap` and imported.

use super::{BASE, DockerImages, LAYER, engine, host, short, within};
use bollard::query_parameters::CreateImageOptionsBuilder;
use futures::StreamExt;
use ostler_sandbox::images::{BuildLog, ImageBase, ImageError, ImageRecipe};
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::process::{Child, Command};
use tokio_util::io::ReaderStream;

/// How often it is looked whether another server on this host has made the base.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// Time that the program has to take down what it has set up.
const GRACE: Duration = Duration::from_secs(20);

/// Runs a program as long as somebody holds the other end of standard input: when the server is killed, the program is
/// told to end and takes down what it has set up.
const WHILE_HELD: &str = r#"
exec 3<&0
"$@" </dev/null 3<&- &
pid=$!
(read -r _ <&3; kill -TERM "$pid") 2>/dev/null &
watcher=$!
wait "$pid"
code=$?
kill "$watcher" 2>/dev/null
exit "$code"
"#;

impl DockerImages {
    /// Makes the base of a recipe unless it is there, and gives its name.
    pub(super) async fn bootstrap(
        &self,
        suite: &str,
        recipe: &ImageRecipe,
        log: &BuildLog,
    ) -> Result<String, ImageError> {
        let hash = recipe.base_hash();
        let tag = format!("{BASE}:{}", short(&hash));
        if self.has(&tag).await? {
            return Ok(tag);
        }
        // The engine has nothing yet of which a container could be made whose name would be taken, so this is agreed upon by
        // the servers of this host alone. Two hosts with one engine would both make it; the engine then keeps the second.
        let _lock = lock(&hash, self.options.phase_limit, log).await?;
        if self.has(&tag).await? {
            return Ok(tag);
        }
        let scratch = tempfile::Builder::new()
            .prefix("base-")
            .tempdir_in(&self.options.dir)
            .map_err(ImageError::io("a directory for the base"))?;
        let file = scratch.path().join("base.tar");
        log.say(&format!("base: making a Debian {suite}"));
        self.make(suite, &recipe.base, scratch.path(), &file, log).await?;
        log.say("base: giving it to the engine");
        self.import(&hash, &file).await?;
        log.say("base: done");
        Ok(tag)
    }

    async fn make(
        &self,
        suite: &str,
        base: &ImageBase,
        scratch: &Path,
        file: &Path,
        log: &BuildLog,
    ) -> Result<(), ImageError> {
        let mut arguments = base.bootstrap().unwrap_or_default();
        arguments.extend(host::apt_settings().iter().map(|line| format!("--aptopt={line}")));
        arguments.push(suite.to_owned());
        arguments.push(file.display().to_string());
        match host::sources(self.options.mirror.as_deref(), suite) {
            host::Sources::Line(line) => arguments.push(line.trim_end().to_owned()),
            host::Sources::Files(files) => arguments.extend(files.iter().map(|f| f.display().to_string())),
        }
        let mut child = Command::new("/bin/sh")
            .args(["-c", WHILE_HELD, "sh", "mmdebstrap"])
            .args(arguments)
            .env("TMPDIR", scratch)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(ImageError::io("starting /bin/sh"))?;
        let ended = tokio::time::timeout(self.options.phase_limit, follow(&mut child, log)).await;
        let Ok(code) = ended else {
            drop(child.stdin.take());
            let _ = tokio::time::timeout(GRACE, child.wait()).await;
            return Err(ImageError::TimedOut {
                phase: "base".into(),
                limit: self.options.phase_limit,
                tail: log.last(20),
            });
        };
        match code.map_err(ImageError::io("following mmdebstrap"))? {
            0 => Ok(()),
            127 => Err(ImageError::Missing(
                "mmdebstrap, which makes the base of images, is missing on this host: `apt-get install mmdebstrap`, or \
                 start from an image that the engine has"
                    .into(),
            )),
            code => Err(ImageError::Phase {
                phase: "base".into(),
                code: i64::from(code),
                tail: log.last(20),
            }),
        }
    }

    async fn import(&self, hash: &str, file: &Path) -> Result<(), ImageError> {
        let options = CreateImageOptionsBuilder::default()
            .from_src("-")
            .repo(BASE)
            .tag(short(hash))
            .changes(vec!["CMD [\"/bin/bash\"]".to_owned()])
            .build();
        let content = tokio::fs::File::open(file)
            .await
            .map_err(ImageError::io(format!("reading {}", file.display())))?;
        let body = bollard::body_try_stream(ReaderStream::with_capacity(content, 1 << 18));
        let action = "import the base of images";
        let mut answers = self.api.create_image(Some(options), Some(body), None);
        let import = async {
            while let Some(answer) = answers.next().await {
                answer.map_err(engine(action))?;
            }
            Ok(())
        };
        within(LAYER, action, import).await?
    }
}

/// Writes what a program says to the log until it has ended, and gives its exit code.
async fn follow(child: &mut Child, log: &BuildLog) -> std::io::Result<i32> {
    let (mut out, mut err) = (child.stdout.take(), child.stderr.take());
    let (out, err) = tokio::join!(copy(out.as_mut(), log), copy(err.as_mut(), log));
    out.and(err)?;
    // `wait` would close standard input, by which the program is held.
    let held = child.stdin.take();
    let status = child.wait().await?;
    drop(held);
    Ok(status.code().unwrap_or(1))
}

async fn copy(from: Option<&mut (impl AsyncReadExt + Unpin)>, log: &BuildLog) -> std::io::Result<()> {
    let Some(from) = from else { return Ok(()) };
    let mut buffer = vec![0; 16 << 10];
    loop {
        match from.read(&mut buffer).await? {
            0 => return Ok(()),
            n => log.write(&buffer[..n]),
        }
    }
}

/// A file that is locked as long as it is open, and removed in the end. Who waits for one that has been removed finds the
/// base made, or makes it.
pub(super) struct Locked {
    pub(super) path: PathBuf,
    pub(super) _file: File,
}

impl Drop for Locked {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Waits until nobody else on this host makes the base with this hash. The lock ends with the process.
async fn lock(hash: &str, limit: Duration, log: &BuildLog) -> Result<Option<Locked>, ImageError> {
    let dir = ["/run/lock", "/tmp"]
        .into_iter()
        .find(|dir| Path::new(dir).is_dir());
    let path = PathBuf::from(dir.unwrap_or("/tmp")).join(format!("ostler-base-{}", short(hash)));
    let opened = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path);
    let Ok(file) = opened else {
        // One of another user, whose servers have an engine of their own in most cases. At worst it is made twice.
        tracing::debug!(path = %path.display(), "the lock for the base of images cannot be opened");
        return Ok(None);
    };
    let end = tokio::time::Instant::now() + limit;
    let mut said = false;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(Some(Locked { path, _file: file })),
            Err(TryLockError::WouldBlock) if tokio::time::Instant::now() < end => {
                if !said {
                    log.say("base: waiting for another server that makes it");
                    said = true;
                }
                tokio::time::sleep(LOOK_AGAIN).await;
            }
            Err(TryLockError::WouldBlock) => {
                return Err(ImageError::TimedOut {
                    phase: "base".into(),
                    limit,
                    tail: "another server on this host makes it".into(),
                });
            }
            Err(TryLockError::Error(error)) => {
                return Err(ImageError::io(format!("locking {}", path.display()))(error));
            }
        }
    }
}
