//! The bookkeeping of a driver whose sandboxes are processes of this host, each with a directory below one state directory.
//!
//! What is in the directories survives the server and is the driver's own affair. Here is what this process holds besides:
//! that no two operations work on one sandbox at a time, that what was begun comes to its end, and the tasks that wait for
//! the ends of sandboxes.

use crate::{DriverError, DriverEvent, ExitInfo};
use ostler_domain::{DriverKind, SandboxId};
use std::collections::{BTreeSet, HashMap};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{OwnedMutexGuard, broadcast};
use tokio::task::AbortHandle;

/// How long the note of how a sandbox ended is waited for, and how often it is looked at.
const NOTE_LIMIT: Duration = Duration::from_millis(500);
const NOTE_STEP: Duration = Duration::from_millis(5);
/// Events kept for a slow receiver.
const EVENTS: usize = 256;

/// The right to work on one sandbox, until it is dropped.
pub type Turn = OwnedMutexGuard<()>;

/// What a driver holds of its sandboxes in this process; `T` is what it has of each besides. All of it may be called at
/// once by many. Dropping it ends the tasks.
#[derive(Debug)]
pub struct Local<T = ()> {
    driver: DriverKind,
    instance: String,
    state_dir: PathBuf,
    events: broadcast::Sender<DriverEvent>,
    entries: Mutex<HashMap<SandboxId, Arc<Entry<T>>>>,
}

#[derive(Debug, Default)]
struct Entry<T> {
    turn: Arc<tokio::sync::Mutex<()>>,
    tasks: Mutex<Vec<AbortHandle>>,
    more: Arc<T>,
}

impl<T> Entry<T> {
    fn stop(&self) {
        for task in lock(&self.tasks).drain(..) {
            task.abort();
        }
    }
}

/// Locks, whatever became of the thread that had it: only for values that are valid after each statement.
pub fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes the state directory of an instance if it is missing, mode 0700, and returns its real path. Fails with
/// [`DriverError::Unavailable`] also for an instance name that cannot be part of a file name everywhere.
pub fn state_dir(driver: DriverKind, instance: &str, dir: &Path) -> Result<PathBuf, DriverError> {
    let unavailable = |message| DriverError::Unavailable { driver, message };
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_';
    if !(1..=40).contains(&instance.len()) || !instance.bytes().all(allowed) {
        return Err(unavailable(format!(
            "the instance name `{instance}` must be 1 to 40 of a-z, 0-9, - and _"
        )));
    }
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .and_then(|()| std::fs::canonicalize(dir))
        .map_err(|e| unavailable(format!("its directory {}: {e}", dir.display())))
}

impl<T> Local<T> {
    /// Holds nothing yet. Makes the state directory, see [`state_dir`].
    pub fn open(driver: DriverKind, instance: &str, dir: &Path) -> Result<Self, DriverError> {
        Ok(Self {
            driver,
            instance: instance.to_owned(),
            state_dir: state_dir(driver, instance, dir)?,
            events: broadcast::channel(EVENTS).0,
            entries: Mutex::default(),
        })
    }

    /// The real path of the state directory.
    pub fn state_dir(&self) -> &Path {
        &self.state_dir
    }

    /// Tells of the sandboxes that end unasked, see [`crate::Driver::events`].
    pub fn events(&self) -> broadcast::Receiver<DriverEvent> {
        self.events.subscribe()
    }

    /// The error of an operation that failed; `action` is a verb.
    pub fn failed(
        &self,
        action: &'static str,
        id: SandboxId,
        message: impl std::fmt::Display,
    ) -> DriverError {
        DriverError::Failed {
            driver: self.driver,
            action,
            id,
            message: message.to_string(),
        }
    }

    /// The sandboxes that have a directory or are among `others`, in order. Those that another instance has noted as its
    /// own are left out; `instance` tells of which one a sandbox is, and `None` for one whose start was cut off before its
    /// note.
    pub fn list(
        &self,
        others: impl IntoIterator<Item = String>,
        instance: impl Fn(SandboxId) -> Option<String>,
    ) -> Vec<SandboxId> {
        let ids: BTreeSet<SandboxId> = std::fs::read_dir(&self.state_dir)
            .into_iter()
            .flatten()
            .filter_map(|e| e.ok()?.file_name().into_string().ok())
            .chain(others)
            .filter_map(|name| name.parse().ok())
            .filter(|id| instance(*id).is_none_or(|of| of == self.instance))
            .collect();
        ids.into_iter().collect()
    }

    /// Does `work` in a task of its own: a caller that gives up must not leave half of it done.
    pub async fn to_end<R: Send + 'static>(
        &self,
        action: &'static str,
        id: SandboxId,
        work: impl Future<Output = Result<R, DriverError>> + Send + 'static,
    ) -> Result<R, DriverError> {
        tokio::spawn(work)
            .await
            .unwrap_or_else(|e| Err(self.failed(action, id, e)))
    }

    /// Ends the tasks of a sandbox.
    pub fn stop_tasks(&self, id: SandboxId) {
        if let Some(entry) = lock(&self.entries).get(&id) {
            entry.stop();
        }
    }

    /// The end of a removal, given what could not be done: a sandbox of which nothing is left is forgotten.
    pub fn removed(&self, id: SandboxId, failures: &[String]) -> Result<(), DriverError> {
        if failures.is_empty() {
            self.forget(id);
            return Ok(());
        }
        Err(self.failed("remove", id, failures.join("; ")))
    }

    /// The end of a start that failed, given what of it could not be cleaned up.
    pub fn undone(&self, id: SandboxId, failures: &[String]) {
        for failure in failures {
            tracing::warn!(sandbox = %id, failure, "cleaning up after a failed start");
        }
        self.forget(id);
    }

    fn forget(&self, id: SandboxId) {
        if let Some(entry) = lock(&self.entries).remove(&id) {
            entry.stop();
        }
    }
}

impl<T: Default> Local<T> {
    fn entry(&self, id: SandboxId) -> Arc<Entry<T>> {
        lock(&self.entries).entry(id).or_default().clone()
    }

    /// What the driver holds of a sandbox besides.
    pub fn of(&self, id: SandboxId) -> Arc<T> {
        self.entry(id).more.clone()
    }

    /// Waits for the turn to work on a sandbox.
    pub async fn turn(&self, id: SandboxId) -> Turn {
        let turn = self.entry(id).turn.clone();
        turn.lock_owned().await
    }

    /// Keeps a task for as long as the sandbox is watched.
    pub fn keep(&self, id: SandboxId, task: AbortHandle) {
        lock(&self.entry(id).tasks).push(task);
    }

    /// Ends the tasks of a sandbox, and starts one that waits for its end and tells of it.
    ///
    /// How it ended is noted a moment after `ended` by whoever reaps it, so `noted` is asked for half a second at most
    /// before `exit` reads the note. None of them may hold a strong reference to the driver, which the task would keep alive;
    /// `exit` returns `None` when the driver is gone.
    pub fn watch(
        &self,
        id: SandboxId,
        ended: impl Future<Output = io::Result<()>> + Send + 'static,
        noted: impl Fn() -> bool + Send + 'static,
        exit: impl FnOnce() -> Option<ExitInfo> + Send + 'static,
    ) {
        let events = self.events.clone();
        let task = tokio::spawn(async move {
            if let Err(error) = ended.await {
                tracing::warn!(sandbox = %id, %error, "cannot wait for its end; health checks will notice it");
                return;
            }
            let end = Instant::now() + NOTE_LIMIT;
            while !noted() && Instant::now() < end {
                tokio::time::sleep(NOTE_STEP).await;
            }
            if let Some(exit) = exit() {
                tracing::info!(sandbox = %id, ?exit, "ended unasked");
                // Nobody listening is fine: health checks ask.
                let _nobody = events.send(DriverEvent { id, exit });
            }
        });
        let entry = self.entry(id);
        entry.stop();
        lock(&entry.tasks).push(task.abort_handle());
    }
}

impl<T> Drop for Local<T> {
    fn drop(&mut self) {
        for entry in lock(&self.entries).values() {
            entry.stop();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};

    fn local(dir: &Path) -> Local {
        Local::open(DriverKind::Process, "one", dir).unwrap()
    }

    #[test]
    fn instance_names_are_parts_of_file_names() {
        let dir = tempfile::tempdir().unwrap();
        let of = |name: &str| state_dir(DriverKind::Process, name, &dir.path().join("a/b"));
        for bad in ["", "a/b", "A", "..", &"x".repeat(41)] {
            assert!(matches!(of(bad), Err(DriverError::Unavailable { .. })), "{bad}");
        }
        assert!(!dir.path().join("a").exists());
        assert!(of("dev-1_x").unwrap().is_dir());
    }

    #[test]
    fn the_list_has_directories_and_others_but_not_those_of_other_instances() {
        let dir = tempfile::tempdir().unwrap();
        let local = local(dir.path());
        let [own, foreign, cut_off, other] = [(); 4].map(|()| SandboxId::new());
        for name in [own, foreign, cut_off].map(|id| id.to_string()) {
            std::fs::create_dir(dir.path().join(name)).unwrap();
        }
        std::fs::create_dir(dir.path().join("snapshots")).unwrap();
        let found = local.list([other.to_string(), own.to_string()], |id| {
            [(own, "one"), (foreign, "two")]
                .into_iter()
                .find_map(|(of, name)| (of == id).then(|| name.to_owned()))
        });
        assert_eq!(BTreeSet::from_iter(found), BTreeSet::from([own, cut_off, other]));
    }

    #[tokio::test]
    async fn one_turn_at_a_time_for_each_sandbox() {
        let dir = tempfile::tempdir().unwrap();
        let local = local(dir.path());
        let id = SandboxId::new();
        let first = local.turn(id).await;
        let short = Duration::from_millis(20);
        assert!(tokio::time::timeout(short, local.turn(id)).await.is_err());
        let _another = local.turn(SandboxId::new()).await;
        drop(first);
        let _second = local.turn(id).await;
    }

    #[tokio::test]
    async fn an_end_is_told_once_its_note_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let local = local(dir.path());
        let mut events = local.events();
        let id = SandboxId::new();
        let noted = Arc::new(AtomicBool::new(false));
        let (seen, there) = (noted.clone(), noted.clone());
        let exit = move || {
            Some(ExitInfo {
                code: there.load(Ordering::SeqCst).then_some(3),
                ..ExitInfo::default()
            })
        };
        local.watch(
            id,
            std::future::ready(Ok(())),
            move || seen.load(Ordering::SeqCst),
            exit,
        );
        tokio::time::sleep(NOTE_STEP * 4).await;
        noted.store(true, Ordering::SeqCst);
        let event = events.recv().await.unwrap();
        assert_eq!((event.id, event.exit.code), (id, Some(3)));
    }

    #[tokio::test]
    async fn tasks_end_with_the_sandbox_and_with_the_driver() {
        let dir = tempfile::tempdir().unwrap();
        let local = local(dir.path());
        for failures in [vec![], vec!["its files: busy".to_owned()]] {
            let (id, held) = (SandboxId::new(), Arc::new(()));
            let (weak, inside) = (Arc::downgrade(&held), held);
            let ended = async move {
                std::future::pending::<()>().await;
                drop(inside);
                Ok(())
            };
            local.watch(id, ended, || true, || None);
            local.removed(id, &failures).unwrap_or_else(|e| {
                assert!(e.to_string().contains("its files: busy"), "{e}");
                local.stop_tasks(id);
            });
            let gone = async {
                while weak.strong_count() > 0 {
                    tokio::time::sleep(NOTE_STEP).await;
                }
            };
            tokio::time::timeout(Duration::from_secs(5), gone).await.unwrap();
        }
        let task = tokio::spawn(std::future::pending::<()>());
        local.keep(SandboxId::new(), task.abort_handle());
        drop(local);
        assert!(task.await.unwrap_err().is_cancelled());
    }

    #[tokio::test]
    async fn work_that_its_caller_gave_up_comes_to_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let local = local(dir.path());
        let (send, receive) = tokio::sync::oneshot::channel();
        let work = async move {
            tokio::time::sleep(Duration::from_millis(30)).await;
            send.send(()).unwrap();
            Ok(())
        };
        let given_up = local.to_end("start", SandboxId::new(), work);
        assert!(
            tokio::time::timeout(Duration::from_millis(5), given_up)
                .await
                .is_err()
        );
        receive.await.unwrap();
    }
}
