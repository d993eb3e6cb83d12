//! The console of a machine while a test runs on it: written down, and read for what it says of the kernel.

use ostler_domain::SandboxId;
use ostler_sandbox::Driver;
use ostler_sandbox::console::{Kind, Reader, Report, plain};
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Most bytes that are kept, besides the end.
const MOST: u64 = 64 << 20;
/// The end that is kept of a longer one, bytes.
const END: usize = 1 << 20;
/// The end that messages show: bytes, and lines.
const SHOWN: usize = 4 << 10;
const SHOWN_LINES: usize = 20;
/// Pieces that are read at a time.
const PIECES: usize = 64;
/// Between two looks.
const STEP: Duration = Duration::from_millis(300);
/// How long nothing must be said for what was said to count as all of it, and the longest wait for that.
const QUIET: Duration = Duration::from_millis(300);
const LONGEST: Duration = Duration::from_secs(5);
/// How long a kernel that says that it cannot go on may take to end its machine.
const DYING: Duration = Duration::from_secs(3);

/// The console of one machine.
pub(super) struct Console {
    driver: Arc<dyn Driver>,
    id: SandboxId,
    reader: Reader,
    /// Bytes that were said before the next piece.
    at: u64,
    /// Without a name, so that nothing is left of it whatever happens to this process.
    file: io::Result<File>,
    length: u64,
    /// The last of what was said.
    end: Vec<u8>,
    /// Bytes that the driver did not keep until they were read.
    missed: u64,
}

impl Console {
    /// From its beginning; what is kept of it is in `dir`.
    pub(super) fn new(driver: &Arc<dyn Driver>, id: SandboxId, dir: &Path) -> Self {
        Self {
            driver: Arc::clone(driver),
            id,
            reader: Reader::default(),
            at: 0,
            file: tempfile::tempfile_in(dir),
            length: 0,
            end: Vec::new(),
            missed: 0,
        }
    }

    /// Reads what was said since. Returns whether it was anything.
    pub(super) async fn catch_up(&mut self) -> bool {
        let before = self.at;
        for _ in 0..PIECES {
            match self.driver.console(self.id, self.at).await {
                Ok(piece) if !piece.bytes.is_empty() => {
                    self.missed += piece.start.saturating_sub(self.at);
                    self.at = piece.start + piece.bytes.len() as u64;
                    self.take(&piece.bytes);
                }
                _ => break,
            }
        }
        self.at > before
    }

    fn take(&mut self, bytes: &[u8]) {
        self.reader.push(bytes);
        self.end.extend(bytes);
        if self.end.len() > 2 * END {
            self.end.drain(..self.end.len() - END);
        }
        if self.length < MOST
            && let Ok(file) = &mut self.file
        {
            match file.write_all(bytes) {
                Ok(()) => self.length += bytes.len() as u64,
                Err(error) => self.file = Err(error),
            }
        }
    }

    /// Reads on until the kernel says that it cannot go on and its machine stays nevertheless. `booted` is whether its guest
    /// has answered; before that, there is more that it cannot recover from.
    pub(super) async fn follow(&mut self, booted: &AtomicBool) {
        let mut died = None;
        loop {
            self.catch_up().await;
            let report = self.report();
            let dead = report.count(Kind::Panic) > 0
                || !booted.load(Ordering::Relaxed) && report.boot_failure().is_some();
            if dead && died.get_or_insert_with(Instant::now).elapsed() > DYING {
                return;
            }
            sleep(STEP).await;
        }
    }

    /// Reads until nothing more comes.
    pub(super) async fn settle(&mut self) {
        let begun = Instant::now();
        let mut last = begun;
        while begun.elapsed() < LONGEST && last.elapsed() < QUIET {
            if self.catch_up().await {
                last = Instant::now();
            }
            sleep(QUIET / 4).await;
        }
    }

    /// What it said of its kernel until now.
    pub(super) fn report(&self) -> Report {
        self.reader.report()
    }

    /// The last lines, for messages.
    pub(super) fn last_words(&self) -> String {
        let text = plain(&self.end[self.end.len().saturating_sub(SHOWN)..]);
        let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
        lines[lines.len().saturating_sub(SHOWN_LINES)..].join("\n")
    }

    /// All that is kept, and what is to be said of it: what is not kept.
    pub(super) fn content(self) -> (io::Result<Vec<u8>>, Vec<String>) {
        let mut problems = Vec::new();
        if self.missed > 0 {
            problems.push(format!(
                "{} bytes of the console came faster than they could be kept",
                self.missed
            ));
        }
        let (total, length, end) = (self.at - self.missed, self.length, self.end);
        let read = self.file.and_then(|mut file| {
            let mut bytes = Vec::new();
            file.rewind()?;
            file.read_to_end(&mut bytes)?;
            Ok(bytes)
        });
        let cut = total - length;
        let content = read.map(|mut bytes| {
            let end = &end[end
                .len()
                .saturating_sub(usize::try_from(cut).unwrap_or(usize::MAX))..];
            let left_out = cut - end.len() as u64;
            if left_out > 0 {
                let told = format!("{left_out} bytes in the middle of the console are not kept");
                bytes.extend(format!("\n--- {told} ---\n").as_bytes());
                problems.push(told);
            }
            bytes.extend(end);
            bytes
        });
        (content, problems)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ostler_driver_sim::{SimControl, SimDriver};

    fn console() -> (tempfile::TempDir, Console) {
        let dir = tempfile::tempdir().unwrap();
        let driver: Arc<dyn Driver> = Arc::new(SimDriver::new(SimControl::new()));
        let console = Console::new(&driver, SandboxId::new(), dir.path());
        (dir, console)
    }

    fn said(console: &mut Console, bytes: &[u8]) {
        console.at += bytes.len() as u64;
        console.take(bytes);
    }

    #[tokio::test]
    async fn a_driver_without_consoles_says_nothing() {
        let (_dir, mut console) = console();
        assert!(!console.catch_up().await);
        console.settle().await;
        let (content, problems) = console.content();
        assert_eq!((content.unwrap(), problems), (Vec::new(), Vec::new()));
    }

    #[tokio::test]
    async fn all_of_it_is_kept_and_its_end_is_shown() {
        let (_dir, mut console) = console();
        let mut all = Vec::new();
        for line in 0..100_000 {
            let line = format!("[    1.000000] line {line:06} is said\r\n");
            said(&mut console, line.as_bytes());
            all.extend_from_slice(line.as_bytes());
        }
        let last = console.last_words();
        assert!(
            last.ends_with("line 099998 is said\nline 099999 is said"),
            "{last}"
        );
        assert_eq!(last.lines().count(), SHOWN_LINES);
        let (content, problems) = console.content();
        assert!(content.unwrap() == all && problems.is_empty());
    }

    #[tokio::test]
    async fn of_a_very_long_one_the_middle_is_left_out_and_that_is_told() {
        let (_dir, mut console) = console();
        let chunk = vec![b'x'; 1 << 20];
        for _ in 0..70 {
            said(&mut console, &chunk);
        }
        said(&mut console, b"the end");
        console.missed = 5;
        console.at += 5;
        let (content, problems) = console.content();
        let content = content.unwrap();
        assert!(content.ends_with(b"xthe end"));
        assert!((MOST as usize..MOST as usize + 3 * END).contains(&content.len()));
        assert_eq!(problems.len(), 2, "{problems:?}");
        assert!(
            problems[0].starts_with("5 bytes of the console came faster"),
            "{problems:?}"
        );
        assert!(
            problems[1].contains("in the middle of the console"),
            "{problems:?}"
        );
    }
}
