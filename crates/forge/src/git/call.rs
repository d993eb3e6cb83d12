//! One call of git: arguments, limits, input, and what came of it.

use super::process::{GRACE, Group, read_head, read_tail};
use super::{Credential, Git};
use crate::error::{ForgeError, Result};
use nix::sys::signal::Signal;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// Bytes of git's messages that an error keeps.
const STDERR_KEPT: usize = 4096;
/// Output that no well-behaved call exceeds unless it asks for more with [`Call::at_most`].
const DEFAULT_OUTPUT: usize = 64 << 20;

/// Configuration that holds in every call, whatever the repository's own says.
const CONFIGURATION: &[&str] = &[
    "core.hooksPath=/dev/null",
    "core.fsmonitor=false",
    "core.untrackedCache=false",
    "core.quotePath=false",
    "protocol.ext.allow=never",
    "credential.helper=",
    // Repositories mounted into a container belong to another user; which ones are touched is Ostler's decision.
    "safe.directory=*",
    // Housekeeping runs when Ostler says so, never as a process left behind by a fetch.
    "gc.auto=0",
    "maintenance.auto=false",
    // A call that was cancelled may still be putting its locks away when the next one comes.
    "core.filesRefLockTimeout=5000",
    "core.packedRefsTimeout=5000",
    "advice.detachedHead=false",
    "init.defaultBranch=main",
    "submodule.recurse=false",
    "commit.gpgSign=false",
    "tag.gpgSign=false",
    "user.name=Ostler",
    "user.email=ostler@localhost",
];

/// What of the server's environment git may see: where programs, certificates, proxies and the ssh agent are.
const PASSED_ON: &[&str] = &[
    "PATH",
    "TMPDIR",
    "SSH_AUTH_SOCK",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "GIT_SSL_CAINFO",
    "http_proxy",
    "https_proxy",
    "HTTPS_PROXY",
    "all_proxy",
    "ALL_PROXY",
    "no_proxy",
    "NO_PROXY",
];

/// Where git reads its input from.
enum Input {
    Nothing,
    Bytes(Vec<u8>),
    File(std::fs::File),
}

/// A call that is being put together.
///
/// Fixed words go in with [`Call::arg`]; everything that came from outside goes in with [`Call::value`], which refuses
/// what git would take for an option.
pub struct Call<'a> {
    git: &'a Git,
    subcommand: &'static str,
    target: Vec<OsString>,
    configuration: Vec<String>,
    arguments: Vec<OsString>,
    refused: Option<ForgeError>,
    input: Input,
    cap: usize,
    timeout: Duration,
    credential: Option<Credential>,
    codes: &'static [i32],
    owners_configuration: bool,
}

/// What a successful call gave.
#[derive(Debug)]
pub struct Output {
    /// Standard output, up to the limit of [`Call::at_most`].
    pub stdout: Vec<u8>,
    /// Whether there was more.
    pub truncated: bool,
    /// Exit code; 0 unless others were allowed with [`Call::or_code`].
    pub code: i32,
}

impl Output {
    /// Standard output as text, without the white space at its end; invalid UTF-8 is replaced.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).trim_end().to_owned()
    }
}

impl<'a> Call<'a> {
    pub(super) fn new(git: &'a Git, subcommand: &'static str) -> Self {
        Self {
            git,
            subcommand,
            target: Vec::new(),
            configuration: Vec::new(),
            arguments: Vec::new(),
            refused: None,
            input: Input::Nothing,
            cap: DEFAULT_OUTPUT,
            timeout: git.local_timeout,
            credential: None,
            codes: &[0],
            owners_configuration: false,
        }
    }

    /// Works on the repository with exactly this git directory; nothing is searched for.
    #[must_use]
    pub fn git_dir(mut self, path: &Path) -> Self {
        self.target.push(joined("--git-dir=", path));
        self
    }

    /// Works on these files, whatever a `.git` among them says.
    #[must_use]
    pub fn work_tree(mut self, path: &Path) -> Self {
        self.target.push(joined("--work-tree=", path));
        // Without this git would look at paths relative to the server's own directory.
        self.target.push("-C".into());
        self.target.push(path.into());
        self
    }

    /// Works on whatever repository is at `path`. Only for a repository that nobody but its user can write.
    #[must_use]
    pub fn inside(mut self, path: &Path) -> Self {
        self.target.push("-C".into());
        self.target.push(path.into());
        self
    }

    /// Adds one `key=value` of configuration for this call.
    #[must_use]
    pub fn configure(mut self, setting: impl Into<String>) -> Self {
        self.configuration.push(setting.into());
        self
    }

    /// Adds a word that this program chose.
    #[must_use]
    pub fn arg(mut self, word: impl AsRef<OsStr>) -> Self {
        self.arguments.push(word.as_ref().to_owned());
        self
    }

    /// Adds a word that came from outside; one that starts with `-` makes [`Call::run`] fail.
    #[must_use]
    pub fn value(mut self, word: impl AsRef<OsStr>) -> Self {
        let word = word.as_ref();
        if word.as_encoded_bytes().first().is_none_or(|b| *b == b'-') {
            self.refused.get_or_insert_with(|| ForgeError::InvalidName {
                what: "argument for git",
                value: word.to_string_lossy().into_owned(),
                reason: "it is empty or starts with `-`".to_owned(),
            });
        }
        self.arguments.push(word.to_owned());
        self
    }

    /// Gives git these bytes to read.
    #[must_use]
    pub fn input(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.input = Input::Bytes(bytes.into());
        self
    }

    /// Gives git this file to read, from its present position.
    #[must_use]
    pub fn input_file(mut self, file: std::fs::File) -> Self {
        self.input = Input::File(file);
        self
    }

    /// Keeps at most so many bytes of output; git is stopped when it writes more.
    #[must_use]
    pub fn at_most(mut self, bytes: usize) -> Self {
        self.cap = bytes;
        self
    }

    /// Takes this exit code, too, as an answer.
    #[must_use]
    pub fn or_code(mut self, codes: &'static [i32]) -> Self {
        self.codes = codes;
        self
    }

    /// Allows the time of a network call, and offers `credential` to the server at `origin` (`https://host[:port]`).
    #[must_use]
    pub fn network(mut self, origin: Option<&str>, credential: Option<&Credential>) -> Self {
        self.timeout = self.git.network_timeout;
        if let (Some(origin), Some(credential)) = (origin, credential) {
            self.configuration.push(Credential::configuration(origin));
            self.credential = Some(credential.clone());
        }
        self
    }

    /// Lets the configuration of the machine's user apply, for work in a checkout of theirs, where for example their
    /// filters must run.
    #[must_use]
    pub fn owners_configuration(mut self) -> Self {
        self.owners_configuration = true;
        self
    }

    /// The command line as errors show it.
    fn shown(&self) -> String {
        let mut shown = format!("git {}", self.subcommand);
        for argument in &self.arguments {
            shown.push(' ');
            shown.push_str(&argument.to_string_lossy());
        }
        shown
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.git.program);
        command.env_clear().process_group(0);
        for name in PASSED_ON {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        if self.owners_configuration {
            for name in ["HOME", "XDG_CONFIG_HOME"] {
                if let Some(value) = std::env::var_os(name) {
                    command.env(name, value);
                }
            }
        } else {
            command
                .env("GIT_CONFIG_GLOBAL", "/dev/null")
                .env("GIT_CONFIG_NOSYSTEM", "1")
                .env("HOME", "/nonexistent");
        }
        command
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("GIT_ASKPASS", "")
            .env("SSH_ASKPASS", "")
            .env("GIT_SSH_COMMAND", "ssh -oBatchMode=yes -oConnectTimeout=20")
            .env("GIT_ALLOW_PROTOCOL", "file:git:http:https:ssh")
            .env("GIT_LITERAL_PATHSPECS", "1")
            .env("GIT_NO_REPLACE_OBJECTS", "1")
            .env("GIT_OPTIONAL_LOCKS", "0")
            // A delta of a few bytes can stand for more than the machine's memory; files larger than this are streamed.
            .env("GIT_ALLOC_LIMIT", "2g")
            .env("LC_ALL", "C");
        for setting in CONFIGURATION {
            command.arg("-c").arg(setting);
        }
        for setting in &self.configuration {
            command.arg("-c").arg(setting);
        }
        if let Some(credential) = &self.credential {
            command.envs(credential.environment());
        }
        command
            .args(&self.target)
            .arg(self.subcommand)
            .args(&self.arguments);
        command
    }

    /// Runs git and waits for its end.
    ///
    /// Dropping the future, like the time-out, ends the whole process group.
    ///
    /// # Errors
    /// A refused argument, a git that cannot be started, fails or takes too long.
    pub async fn run(mut self) -> Result<Output> {
        if let Some(refused) = self.refused.take() {
            return Err(refused);
        }
        let shown = self.shown();
        let mut command = self.command();
        let input = std::mem::replace(&mut self.input, Input::Nothing);
        let (stdin, bytes) = match input {
            Input::Nothing => (Stdio::null(), None),
            Input::Bytes(bytes) => (Stdio::piped(), Some(bytes)),
            Input::File(file) => (Stdio::from(file), None),
        };
        let mut child = command
            .stdin(stdin)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|source| ForgeError::GitMissing {
                program: self.git.program.to_string_lossy().into_owned(),
                source,
            })?;
        let mut group = Group::new(child.id());
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let cap = self.cap;

        let work = async {
            let feed = async {
                if let (Some(mut stdin), Some(bytes)) = (stdin, bytes) {
                    // Git may end before it has read everything; its exit code tells more than a broken pipe.
                    let _ = stdin.write_all(&bytes).await;
                }
            };
            let output = async {
                let Some(stdout) = stdout else {
                    return Ok((Vec::new(), false));
                };
                let read = read_head(stdout, cap).await?;
                if read.1 {
                    group.signal(Signal::SIGTERM);
                }
                Ok::<_, std::io::Error>(read)
            };
            let messages = async {
                match stderr {
                    Some(stderr) => read_tail(stderr, STDERR_KEPT).await,
                    None => Ok(Vec::new()),
                }
            };
            let ((), output, messages) = tokio::join!(feed, output, messages);
            let status = child.wait().await?;
            Ok::<_, std::io::Error>((output?, messages?, status))
        };
        let finished = tokio::time::timeout(self.timeout, work).await;
        let Ok(finished) = finished else {
            group.signal(Signal::SIGTERM);
            // Whether it ends in this time or not, dropping the group ends what is left of it.
            let _ = tokio::time::timeout(GRACE, child.wait()).await;
            return Err(ForgeError::GitTimedOut {
                command: shown,
                after: self.timeout,
            });
        };
        let ((stdout, truncated), messages, status) = finished.map_err(|source| ForgeError::Io {
            action: "talk to git in",
            path: PathBuf::from(&shown),
            source,
        })?;
        group.disarm();
        if truncated {
            return Ok(Output {
                stdout,
                truncated,
                code: 0,
            });
        }
        match status.code() {
            Some(code) if self.codes.contains(&code) => Ok(Output {
                stdout,
                truncated,
                code,
            }),
            _ => {
                let stderr = self.messages(&messages);
                // The texts of ENOSPC and EDQUOT; git is run in the C locale.
                if stderr.contains("No space left on device") || stderr.contains("Disk quota exceeded") {
                    return Err(ForgeError::DiskFull { command: shown });
                }
                Err(ForgeError::GitFailed {
                    command: shown,
                    status: in_words(status),
                    stderr,
                })
            }
        }
    }

    /// Runs git and gives its output as text.
    ///
    /// # Errors
    /// As [`Call::run`].
    pub async fn text(self) -> Result<String> {
        Ok(self.run().await?.text())
    }

    fn messages(&self, bytes: &[u8]) -> String {
        let text = String::from_utf8_lossy(bytes).trim().to_owned();
        match &self.credential {
            Some(credential) => credential.redact(&text),
            None => text,
        }
    }
}

fn joined(option: &str, path: &Path) -> OsString {
    let mut word = OsString::from(option);
    word.push(path);
    word
}

fn in_words(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "no exit code".to_owned(),
    }
}
