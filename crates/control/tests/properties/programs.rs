//! What the simulated programs of tests do, and the ledger in which they note by themselves that they did it.

use ostler_control::LogStream;
use ostler_domain::{DriverKind, SandboxId};
use ostler_driver_sim::{Program, SimControl};
use ostler_sandbox::ExitInfo;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// What was seen that must not be.
#[derive(Default)]
pub(crate) struct Complaints(Mutex<Vec<String>>);

impl Complaints {
    pub(crate) fn add(&self, complaint: String) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.push(complaint);
    }

    pub(crate) fn assert_none(&self) {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        assert!(all.is_empty(), "{}", all.join("\n"));
    }
}

/// What a program does after its output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum What {
    /// Exits with 0.
    Pass,
    /// Exits with 3.
    Fail,
    /// Exits with 3 the first time, then with 0.
    Flaky,
    /// Does not end.
    Hang,
    /// Does not end even when it is told to.
    Stubborn,
    /// Ends its sandbox.
    Crash,
}

impl What {
    pub(crate) const fn ends_by_itself(self) -> bool {
        matches!(self, Self::Pass | Self::Fail | Self::Flaky)
    }

    /// The name of the program.
    pub(crate) const fn program(self) -> &'static str {
        match self {
            Self::Stubborn => "stubborn-test",
            _ => "test",
        }
    }

    const ALL: [Self; 6] = [
        Self::Pass,
        Self::Fail,
        Self::Flaky,
        Self::Hang,
        Self::Stubborn,
        Self::Crash,
    ];

    fn named(text: &str) -> Self {
        let found = Self::ALL.into_iter().find(|what| format!("{what:?}") == text);
        found.unwrap_or_else(|| panic!("no program does {text}"))
    }
}

/// How a program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Over {
    Exited(i32),
    Killed,
}

/// One execution of a program, as it saw it.
#[derive(Debug, Clone)]
pub(crate) struct Execution {
    /// The test that it is of.
    pub(crate) name: String,
    /// Where it found itself.
    pub(crate) sandbox: SandboxId,
    pub(crate) kind: DriverKind,
    pub(crate) begun: Instant,
    /// Whether all of its output was written.
    pub(crate) wrote: bool,
    pub(crate) over: Option<(Instant, Over)>,
}

/// All executions of a world.
pub(crate) struct Ledger {
    all: Mutex<Vec<Execution>>,
    /// Programs end only while it is open.
    open: watch::Sender<bool>,
    pub(crate) complaints: Arc<Complaints>,
}

impl Default for Ledger {
    fn default() -> Self {
        Self {
            all: Mutex::default(),
            open: watch::Sender::new(true),
            complaints: Arc::default(),
        }
    }
}

impl Ledger {
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Execution>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn all(&self) -> Vec<Execution> {
        self.lock().clone()
    }

    pub(crate) fn running(&self) -> Vec<Execution> {
        let all = self.lock();
        all.iter().filter(|one| one.over.is_none()).cloned().collect()
    }

    /// Lets programs end by themselves, or not.
    pub(crate) fn open(&self, open: bool) {
        self.open.send_replace(open);
    }

    fn begin(self: &Arc<Self>, name: &str, sandbox: SandboxId, kind: DriverKind) -> Entry {
        let mut all = self.lock();
        if let Some(other) = all
            .iter()
            .find(|one| one.sandbox == sandbox && one.over.is_none())
        {
            let both = format!(
                "{name} begins in {sandbox}, where {} is being executed",
                other.name
            );
            self.complaints.add(both);
        }
        all.push(Execution {
            name: name.to_owned(),
            sandbox,
            kind,
            begun: Instant::now(),
            wrote: false,
            over: None,
        });
        Entry {
            ledger: Arc::clone(self),
            at: all.len() - 1,
        }
    }

    /// The program that does all this, in the sandboxes of a world.
    pub(crate) fn program(self: &Arc<Self>, kind: DriverKind, world: &SimControl) -> Program {
        let (ledger, world) = (Arc::clone(self), world.clone());
        Program::new(move |mut invocation| {
            let (ledger, world) = (Arc::clone(&ledger), world.clone());
            async move {
                let [_, name, what, ms, bytes] = &invocation.argv[..] else {
                    panic!("it is called like this: {:?}", invocation.argv);
                };
                let (name, what) = (name.clone(), What::named(what));
                let (ms, bytes): (u64, usize) = (ms.parse().unwrap(), bytes.parse().unwrap());
                let sandbox: SandboxId = invocation.env["OSTLER_SANDBOX"].parse().unwrap();
                let entry = ledger.begin(&name, sandbox, kind);
                for (stream, piece) in output(&name, bytes) {
                    match stream {
                        LogStream::Stderr => invocation.stderr(piece).await,
                        _ => invocation.stdout(piece).await,
                    }
                }
                ledger.lock()[entry.at].wrote = true;
                tokio::time::sleep(Duration::from_millis(ms)).await;
                let mut open = ledger.open.subscribe();
                drop(open.wait_for(|open| *open).await);
                let code = match what {
                    What::Pass => 0,
                    What::Flaky if entry.completed_before() => 0,
                    What::Fail | What::Flaky => 3,
                    What::Hang | What::Stubborn => std::future::pending().await,
                    What::Crash => {
                        world.crash(sandbox, ExitInfo::default());
                        std::future::pending().await
                    }
                };
                entry.over(Over::Exited(code));
                code
            }
        })
    }
}

/// The place of an execution in the ledger; dropped before its end when it is killed.
struct Entry {
    ledger: Arc<Ledger>,
    at: usize,
}

impl Entry {
    fn over(&self, over: Over) {
        let entry = &mut self.ledger.lock()[self.at];
        entry.over.get_or_insert((Instant::now(), over));
    }

    fn completed_before(&self) -> bool {
        let all = self.ledger.lock();
        let name = &all[self.at].name;
        let completed = |one: &Execution| matches!(one.over, Some((_, Over::Exited(_))));
        all.iter().any(|one| one.name == *name && completed(one))
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.over(Over::Killed);
    }
}

/// What a test writes: pieces of any bytes on both streams, made from its name.
pub(crate) fn output(name: &str, bytes: usize) -> Vec<(LogStream, Vec<u8>)> {
    let seed = name.bytes().fold(7, |sum: u64, byte| {
        sum.wrapping_mul(0x0100_0000_01b3) ^ u64::from(byte)
    });
    let mut state = seed;
    let mut next = move || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize
    };
    let mut pieces = Vec::new();
    let mut left = bytes;
    while left > 0 {
        let length = (next() % left + 1).max(left / 8).min(40_000);
        let stream = match next() % 3 {
            0 => LogStream::Stderr,
            _ => LogStream::Stdout,
        };
        pieces.push((stream, (0..length).map(|_| next() as u8).collect()));
        left -= length;
    }
    pieces
}
