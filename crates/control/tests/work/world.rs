//! A server without an executor, a project, and the hands that do the executor's part.

use ostler_agents::{KindSettings, Kinds, Prompts};
use ostler_control::{
    Caller, Control, ControlError, Drivers, LogStore, NewTask, Parts, SandboxSettings, ToolCall, WorkSettings,
};
use ostler_domain::{
    BlockedReason, Clock, ManualClock, MergeRequest, MergeRequestStatus, Project, Run, RunId, RunKind,
    RunOutcome, RunStatus, ServerId, Subtask, SubtaskId, SubtaskStatus, Task, TaskStatus, Timestamp,
};
use ostler_forge::git::Git;
use ostler_forge::{ForgeOptions, Repositories, Repository};
use ostler_store::{Change, ClaimRuns, FinishRun, RequeueRun, RunFilter, RunQueue, Store, StoreExt};
use ostler_store_sqlite::{SqliteOptions, SqliteStore};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

/// One check, so that work is checked.
pub(crate) const ONE_CHECK: &str = "[[check]]\nname = \"tests\"\ncommand = \"./test\"\n";

/// What is planned: title, and positions of what it depends on.
pub(crate) type Part<'a> = (&'a str, &'a [usize]);

pub(crate) fn me() -> Caller {
    Caller::administrator()
}

/// Runs plain git, as a person would, and gives its output.
pub(crate) fn git(dir: &Path, args: &[&str]) -> String {
    let output = git_output(dir, args);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "git {args:?}: {said}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn git_output(dir: &Path, args: &[&str]) -> std::process::Output {
    Command::new("git")
        .args(["-c", "user.name=Ann", "-c", "user.email=ann@example.org"])
        .args(["-c", "init.defaultBranch=main"])
        .args(args)
        .current_dir(dir)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .output()
        .unwrap()
}

/// Writes a file and commits everything.
pub(crate) fn commit(dir: &Path, file: &str, text: &str) {
    std::fs::write(dir.join(file), text).unwrap();
    git(dir, &["add", "-A"]);
    git(dir, &["commit", "-q", "-m", &format!("write {file}")]);
}

pub(crate) struct World {
    pub dir: tempfile::TempDir,
    /// Where the project was cloned from.
    pub origin: PathBuf,
    pub clock: Arc<ManualClock>,
    pub store: Arc<SqliteStore>,
    pub control: Control,
    pub project: Project,
    /// Whether the server is a new one at every step.
    pub restarts: bool,
    /// Whether what lands must have been checked as it lands.
    pub strict: bool,
    settings: WorkSettings,
    server_id: ServerId,
    held: Vec<Run>,
    ended: BTreeMap<RunId, RunStatus>,
    seen: i64,
    subtask_states: BTreeMap<String, SubtaskStatus>,
    task_states: BTreeMap<String, TaskStatus>,
    /// What the checks that are being executed have before them.
    before_checks: BTreeMap<RunId, String>,
    checked: BTreeSet<String>,
    landed: BTreeSet<String>,
}

impl World {
    /// A project with this `ostler.toml`.
    pub(crate) async fn new(file: Option<&str>) -> Self {
        Self::with(file, |_| {}).await
    }

    pub(crate) async fn with(file: Option<&str>, change: impl FnOnce(&mut WorkSettings)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        let origin = root.join("origin");
        std::fs::create_dir(&origin).unwrap();
        git(&origin, &["init", "-q"]);
        commit(&origin, "README", "one\ntwo\nthree\n");
        if let Some(file) = file {
            commit(&origin, "ostler.toml", file);
        }
        let mut settings = WorkSettings {
            agent_kind: "command".into(),
            backoff_jitter: 0.0,
            ..WorkSettings::default()
        };
        change(&mut settings);
        let store = SqliteStore::open(root.join("db"), SqliteOptions::default()).unwrap();
        store.migrate_up(None).await.unwrap();
        let (store, clock, server_id) = (Arc::new(store), Arc::new(ManualClock::default()), ServerId::new());
        let control = start(&root, &store, &clock, &settings, server_id);
        control.ensure_default_tenant().await.unwrap();
        let project = control
            .add_project(&me(), origin.to_str().unwrap(), None)
            .await
            .unwrap();
        Self {
            dir,
            origin,
            clock,
            store,
            control,
            project,
            restarts: false,
            strict: file == Some(ONE_CHECK),
            settings,
            server_id,
            held: Vec::new(),
            ended: BTreeMap::new(),
            seen: 0,
            subtask_states: BTreeMap::new(),
            task_states: BTreeMap::new(),
            before_checks: BTreeMap::new(),
            checked: BTreeSet::new(),
            landed: BTreeSet::new(),
        }
    }

    /// A new server over what the old one left.
    pub(crate) fn restart(&mut self) {
        self.control = self.another_server();
    }

    pub(crate) fn another_server(&self) -> Control {
        let root = self.dir.path().canonicalize().unwrap();
        start(&root, &self.store, &self.clock, &self.settings, self.server_id)
    }

    pub(crate) fn repository(&self) -> Repository {
        let root = self.dir.path().canonicalize().unwrap();
        repositories(&root).of(&self.project).unwrap()
    }

    pub(crate) async fn task(&mut self, auto: bool) -> Task {
        let new = NewTask {
            title: "Do it".into(),
            description: "All of it.".into(),
            auto,
            ..NewTask::default()
        };
        let task = self
            .control
            .create_task(&me(), self.project.id, new)
            .await
            .unwrap();
        self.settle().await;
        task
    }

    pub(crate) async fn reload(&self, task: &Task) -> Task {
        self.control.task(&me(), task.id).await.unwrap()
    }

    pub(crate) async fn subtask(&self, id: SubtaskId) -> Subtask {
        self.control.subtask(&me(), id).await.unwrap()
    }

    pub(crate) async fn subtasks(&self, task: &Task) -> Vec<Subtask> {
        self.control.subtasks(&me(), task.id).await.unwrap()
    }

    pub(crate) async fn all_subtasks(&self) -> Vec<Subtask> {
        let all = ostler_store::Filter::all().order_by("number");
        self.store.list(all).await.unwrap()
    }

    pub(crate) async fn all_tasks(&self) -> Vec<Task> {
        let all = ostler_store::Filter::all().order_by("created_at");
        self.store.list(all).await.unwrap()
    }

    pub(crate) async fn requests(&self) -> Vec<MergeRequest> {
        self.control.merge_requests(&me(), self.project.id).await.unwrap()
    }

    pub(crate) async fn runs(&self) -> Vec<Run> {
        let filter = RunFilter {
            limit: 1000,
            ..RunFilter::default()
        };
        self.store.runs(filter).await.unwrap()
    }

    /// Everything that can go on does, and the rules hold after it.
    pub(crate) async fn settle(&mut self) {
        if self.restarts {
            self.restart();
        }
        self.control.settle_all().await.unwrap();
        self.rules().await;
        self.nothing_stands_still().await;
    }

    async fn claim(&mut self) -> Option<Run> {
        let classes = self.store.classes().await.unwrap();
        let claim = ClaimRuns {
            server_id: self.server_id,
            classes: classes.into_iter().map(|class| class.id).collect(),
            limit: 1,
            now: self.clock.now(),
            picks: Vec::new(),
            sandbox: None,
        };
        let run = self.store.claim(claim).await.unwrap().pop()?;
        if run.submitted.kind == RunKind::Check {
            let branch = &run.submitted.spec.workspace.as_ref().unwrap().branch;
            let head = self.repository().head_of(branch).await.unwrap().unwrap();
            self.before_checks.insert(run.submitted.id, head);
        }
        Some(run)
    }

    /// The next run of the queue; time passes until it is due. `None` when there is none.
    pub(crate) async fn try_next(&mut self) -> Option<Run> {
        if !self.held.is_empty() {
            return Some(self.held.remove(0));
        }
        if let Some(run) = self.claim().await {
            return Some(run);
        }
        let classes: Vec<i64> = self.store.classes().await.unwrap().iter().map(|c| c.id).collect();
        let due = self.store.next_due(&classes, self.clock.now()).await.unwrap()?;
        self.clock.advance(due.since(self.clock.now()));
        self.claim().await
    }

    pub(crate) async fn next(&mut self, kind: RunKind) -> Run {
        let run = self.try_next().await.expect("a run waits");
        assert_eq!(run.submitted.kind, kind, "{run:?}");
        run
    }

    /// The next run of a subtask; runs of others that come first are kept for later.
    pub(crate) async fn next_of(&mut self, subtask: &Subtask) -> Run {
        let mut others = Vec::new();
        let found = loop {
            let run = self.try_next().await.expect("a run of it waits");
            if run.submitted.subtask_id == Some(subtask.id) {
                break run;
            }
            others.push(run);
        };
        self.held = others;
        found
    }

    pub(crate) async fn try_bd(&self, run: &Run, words: &[&str]) -> Result<String, String> {
        let call = ToolCall {
            argv: words.iter().map(|&word| word.to_owned()).collect(),
            ..ToolCall::default()
        };
        let reply = self.control.bd(run, &call).await.unwrap();
        if reply.code == 0 {
            Ok(reply.stdout.trim().to_owned())
        } else {
            Err(reply.stderr)
        }
    }

    pub(crate) async fn bd(&self, run: &Run, words: &[&str]) -> String {
        self.try_bd(run, words).await.unwrap()
    }

    /// The end of a run, and what follows from it.
    pub(crate) async fn finish(&mut self, run: &Run, status: RunStatus, error: Option<&str>) {
        self.end(run, status, error).await;
        if let Some(subtask) = run.submitted.subtask_id {
            self.control.settle_subtask(subtask).await.unwrap();
        } else if let Some(task) = run.submitted.task_id {
            self.control.settle_task(task).await.unwrap();
        }
        self.settle().await;
    }

    /// The end of a run, before anybody has seen it.
    pub(crate) async fn end(&mut self, run: &Run, status: RunStatus, error: Option<&str>) {
        if status == RunStatus::Succeeded {
            self.checked.extend(self.before_checks.remove(&run.submitted.id));
        }
        let end = FinishRun {
            id: run.submitted.id,
            attempt: run.attempt,
            status,
            outcome: RunOutcome {
                exit_code: Some(i32::from(status != RunStatus::Succeeded)),
                error: error.map(str::to_owned),
                ..RunOutcome::default()
            },
            at: self.clock.now(),
            then: Vec::new(),
        };
        assert_eq!(self.store.finish(vec![end]).await.unwrap(), [true]);
    }

    /// The sandbox of a run went away.
    pub(crate) async fn vanish(&mut self, run: &Run) -> RunStatus {
        let requeue = RequeueRun {
            id: run.submitted.id,
            attempt: run.attempt,
            reason: "its sandbox is gone".into(),
            not_before: None,
            at: self.clock.now(),
            counts: true,
        };
        let state = self.store.requeue(vec![requeue]).await.unwrap();
        self.settle().await;
        state[0].unwrap()
    }

    /// The issue that a run's agent is to close; `None` if its task is gone.
    pub(crate) async fn issue_of(&self, run: &Run) -> Option<String> {
        if let Some(id) = run.submitted.subtask_id {
            let subtask: Option<Subtask> = self.store.get(id).await.unwrap();
            return subtask.map(|subtask| subtask.issue_id);
        }
        let id = run.submitted.task_id.unwrap();
        let task: Option<Task> = self.store.get(id).await.unwrap();
        task.map(|task| task.epic.unwrap())
    }

    pub(crate) async fn epic(&self, run: &Run) -> String {
        self.issue_of(run).await.unwrap()
    }

    /// Writes a plan as a planner does, without ending the run. Gives the issues.
    pub(crate) async fn write_plan(&mut self, run: &Run, parts: &[Part<'_>]) -> Vec<String> {
        let epic = self.epic(run).await;
        let mut issues: Vec<String> = Vec::new();
        for (title, _) in parts {
            let body = format!("## Spec\nWrite {title}.\n\n## Plan\nWith care.\n");
            let words = [
                "create", "--silent", "-t", "task", "--parent", &epic, "-d", &body, "--", title,
            ];
            issues.push(self.bd(run, &words).await);
        }
        for (index, (_, needs)) in parts.iter().enumerate() {
            for need in *needs {
                self.bd(run, &["dep", "add", &issues[index], &issues[*need]])
                    .await;
            }
        }
        self.bd(run, &["close", &epic]).await;
        issues
    }

    /// A planner that does its work. Gives the subtasks in the order of `parts`.
    pub(crate) async fn plan(&mut self, parts: &[Part<'_>]) -> Vec<Subtask> {
        let run = self.next(RunKind::Planner).await;
        let issues = self.write_plan(&run, parts).await;
        self.finish(&run, RunStatus::Succeeded, None).await;
        let task = run.submitted.task_id.unwrap();
        let all = self.control.subtasks(&me(), task).await.unwrap();
        let of = |issue: &String| all.iter().find(|s| s.issue_id == *issue).unwrap().clone();
        issues.iter().map(of).collect()
    }

    /// A workspace with the run's branch, as a sandbox has it.
    pub(crate) async fn workspace(&mut self, run: &Run) -> PathBuf {
        let branch = &run.submitted.spec.workspace.as_ref().unwrap().branch;
        let bundle = self.repository().bundle_create(branch, "main").await.unwrap();
        let place = self
            .dir
            .path()
            .join(format!("box-{}-{}", run.submitted.id, run.attempt));
        let (file, to) = (bundle.path().to_str().unwrap(), place.to_str().unwrap());
        git(self.dir.path(), &["clone", "-q", "-b", branch, file, to]);
        place
    }

    /// Takes what is committed in a workspace.
    pub(crate) async fn deliver(&mut self, run: &Run, place: &Path) {
        let branch = &run.submitted.spec.workspace.as_ref().unwrap().branch;
        let old = format!("^refs/remotes/origin/{branch}");
        if git(place, &["rev-list", "-n", "1", branch, &old]).is_empty() {
            return;
        }
        let head = format!("refs/heads/{branch}");
        git(place, &["bundle", "create", "-q", ".git/out.bundle", &head, &old]);
        let subtask = run.submitted.subtask_id.unwrap();
        self.repository()
            .bundle_import(subtask, branch, "main", &place.join(".git/out.bundle"))
            .await
            .unwrap();
    }

    /// What a good worker does in its run before it ends: writes a file, commits, closes its issue.
    pub(crate) async fn labour(&mut self, run: &Run, file: &str, text: &str) -> Subtask {
        let place = self.workspace(run).await;
        commit(&place, file, text);
        self.deliver(run, &place).await;
        let subtask = self.subtask(run.submitted.subtask_id.unwrap()).await;
        self.bd(run, &["close", &subtask.issue_id]).await;
        subtask
    }

    /// A worker that does its work: the next one in the queue, in a file named as the subtask's title.
    pub(crate) async fn work(&mut self) -> Subtask {
        let run = self.next(RunKind::Worker).await;
        let title = self.subtask(run.submitted.subtask_id.unwrap()).await.title;
        self.work_on(&run, &title, &format!("{title}\n")).await
    }

    pub(crate) async fn work_on(&mut self, run: &Run, file: &str, text: &str) -> Subtask {
        let subtask = self.labour(run, file, text).await;
        self.finish(run, RunStatus::Succeeded, None).await;
        self.subtask(subtask.id).await
    }

    /// The next attempt at a subtask: one more commit.
    pub(crate) async fn work_more(&mut self, subtask: &Subtask) -> Subtask {
        let run = self.next_of(subtask).await;
        let file = format!("{}-{}", subtask.title, run.submitted.id);
        self.work_on(&run, &file, "more\n").await
    }

    /// Checks that pass.
    pub(crate) async fn pass(&mut self, run: &Run) -> Subtask {
        self.finish(run, RunStatus::Succeeded, None).await;
        self.subtask(run.submitted.subtask_id.unwrap()).await
    }

    pub(crate) async fn check_ok(&mut self) -> Subtask {
        let run = self.next(RunKind::Check).await;
        self.pass(&run).await
    }

    pub(crate) async fn check_fail(&mut self, output: &str) -> Subtask {
        let run = self.next(RunKind::Check).await;
        self.finish(&run, RunStatus::Failed, Some(output)).await;
        self.subtask(run.submitted.subtask_id.unwrap()).await
    }

    pub(crate) async fn merge(&mut self, subtask: &Subtask) -> Subtask {
        let merged = self.control.merge_subtask(&me(), subtask.id).await.unwrap();
        self.settle().await;
        merged
    }

    /// A file on the project's main branch.
    pub(crate) async fn main_file(&self, file: &str) -> Option<String> {
        let bytes = self.repository().file_at("main", file).await.unwrap();
        bytes.map(|bytes| String::from_utf8(bytes).unwrap())
    }

    pub(crate) fn has_worktree(&self, subtask: &Subtask) -> bool {
        self.repository().worktree_path(subtask.id).exists()
    }

    /// From now on the task goes on by itself.
    pub(crate) async fn make_automatic(&self, task: &Task) {
        let mut task = self.reload(task).await;
        task.auto = true;
        self.store.commit(vec![Change::update(&task)]).await.unwrap();
    }

    pub(crate) fn clock_now(&self) -> Timestamp {
        self.clock.now()
    }

    pub(crate) fn later(&self, seconds: u64) {
        self.clock.advance(Duration::from_secs(seconds));
    }

    /// What must hold at every instant.
    pub(crate) async fn rules(&mut self) {
        self.transitions().await;
        let tasks: Vec<Task> = self.store.list(ostler_store::Filter::all()).await.unwrap();
        let subtasks: Vec<Subtask> = self.store.list(ostler_store::Filter::all()).await.unwrap();
        let requests: Vec<MergeRequest> = self.store.list(ostler_store::Filter::all()).await.unwrap();
        let runs = self.runs().await;
        for run in &runs {
            if let Some(before) = self.ended.get(&run.submitted.id) {
                assert_eq!(*before, run.status, "a run has one end: {run:?}");
            } else if run.status.is_terminal() {
                self.ended.insert(run.submitted.id, run.status);
            }
        }
        let live: Vec<&Run> = runs.iter().filter(|run| !run.status.is_terminal()).collect();
        for run in &live {
            let submitted = &run.submitted;
            let twins = live.iter().filter(|other| {
                let other = &other.submitted;
                (other.subtask_id, other.task_id) == (submitted.subtask_id, submitted.task_id)
            });
            assert_eq!(twins.count(), 1, "one live run for each: {run:?}");
            let current = match submitted.subtask_id {
                Some(id) => subtasks.iter().find(|s| s.id == id).map(|s| s.run_id),
                None => tasks
                    .iter()
                    .find(|t| Some(t.id) == submitted.task_id)
                    .map(|t| t.run_id),
            };
            if !run.cancel_requested {
                assert_eq!(
                    current,
                    Some(Some(submitted.id)),
                    "a live run that nobody waits for"
                );
            }
        }
        for task in &tasks {
            let parts = subtasks.iter().filter(|s| s.task_id == task.id);
            let states: Vec<SubtaskStatus> = parts.map(|s| s.status).collect();
            let merged = !states.is_empty() && states.iter().all(|s| *s == SubtaskStatus::Merged);
            assert_eq!(task.status == TaskStatus::Done, merged, "{task:?} {states:?}");
            assert!(task.attempts <= self.settings.planner_attempts);
            if matches!(task.status, TaskStatus::Planning | TaskStatus::PlanningFailed) {
                assert!(states.is_empty());
            }
        }
        for subtask in &subtasks {
            let of = |id: &SubtaskId| subtasks.iter().find(|s| s.id == *id).unwrap().status;
            let ready = subtask
                .depends_on
                .iter()
                .all(|id| of(id) == SubtaskStatus::Merged);
            let waits = subtask.blocked_reason == Some(BlockedReason::Dependency);
            assert_eq!(waits, !ready, "{subtask:?}");
            assert_eq!(
                subtask.blocked_reason.is_some(),
                subtask.status == SubtaskStatus::Blocked,
                "{subtask:?}"
            );
            assert!(subtask.attempts <= self.settings.worker_attempts, "{subtask:?}");
            let own = requests.iter().filter(|r| r.subtask_id == subtask.id);
            let open = own
                .clone()
                .filter(|r| r.status == MergeRequestStatus::Open)
                .count();
            let landed = own
                .clone()
                .filter(|r| r.status == MergeRequestStatus::Merged)
                .count();
            match subtask.status {
                SubtaskStatus::Completed => assert_eq!((open, landed), (1, 0), "{subtask:?}"),
                SubtaskStatus::Merged => assert_eq!((open, landed), (0, 1), "{subtask:?}"),
                _ => assert!(open <= 1 && landed == 0, "{subtask:?}"),
            }
        }
        if self.strict {
            for commit in requests.iter().filter_map(|r| r.merge_commit.as_deref()) {
                if self.landed.insert(commit.to_owned()) {
                    self.landed_as_checked(commit);
                }
            }
        }
    }

    /// After a round nothing stands still without a reason that is shown.
    async fn nothing_stands_still(&self) {
        let runs = self.runs().await;
        let live = |id: Option<RunId>| {
            runs.iter()
                .any(|run| Some(run.submitted.id) == id && !run.status.is_terminal())
        };
        let tasks = self.all_tasks().await;
        for task in &tasks {
            let moves = match task.status {
                TaskStatus::Planning => live(task.run_id),
                TaskStatus::PlanningFailed => false,
                TaskStatus::Active | TaskStatus::Done => true,
            };
            assert!(moves || task.error.is_some(), "{task:?}");
        }
        for subtask in self.all_subtasks().await {
            let auto = tasks.iter().any(|task| task.id == subtask.task_id && task.auto);
            let moves = match (subtask.status, subtask.blocked_reason) {
                (SubtaskStatus::InProgress, _) => live(subtask.run_id),
                (SubtaskStatus::Ready | SubtaskStatus::Completed, _) => !auto,
                (SubtaskStatus::Blocked, Some(BlockedReason::Failure)) => false,
                _ => true,
            };
            assert!(moves || subtask.error.is_some(), "{subtask:?}");
        }
    }

    /// A merge changed nothing of what was checked: it was checked on top of the target.
    fn landed_as_checked(&self, commit: &str) {
        let repository = self.repository();
        let parents = git(repository.path(), &["rev-list", "--parents", "-n", "1", commit]);
        let parents: Vec<&str> = parents.split(' ').skip(1).collect();
        let [onto, source] = parents[..] else {
            panic!("{commit} is no merge")
        };
        assert!(self.checked.contains(source), "{source} was not checked");
        let args = ["merge-base", "--is-ancestor", onto, source];
        let inside = git_output(repository.path(), &args).status.success();
        assert!(inside, "{source} was checked without {onto}, on which it landed");
    }

    /// Every change of state that was told is in the tables.
    async fn transitions(&mut self) {
        loop {
            let events = self.store.events(None, self.seen, 500).await.unwrap();
            if events.is_empty() {
                return;
            }
            for told in events {
                self.seen = told.seq;
                let (subject, data) = (told.event.subject, told.event.data);
                let status = data["status"].as_str().map(str::to_owned);
                match (told.event.kind.as_str(), status) {
                    ("subtask.created" | "subtask.updated", Some(status)) => {
                        let next: SubtaskStatus = status.parse().unwrap();
                        if let Some(before) = self.subtask_states.insert(subject, next) {
                            let direct = before == next || before.successors().contains(&next);
                            // Blocking a completed one takes it out of review and blocks it in one step.
                            let over = before == SubtaskStatus::Completed && next == SubtaskStatus::Blocked;
                            assert!(direct || over, "{before} to {next}");
                        }
                    }
                    ("task.created" | "task.updated", Some(status)) => {
                        let next: TaskStatus = status.parse().unwrap();
                        if let Some(before) = self.task_states.insert(subject, next) {
                            assert!(
                                before == next || before.successors().contains(&next),
                                "{before} to {next}"
                            );
                        }
                    }
                    _ => {}
                }
            }
        }
    }
}

/// The HTTP status of an answer.
pub(crate) fn status(error: &ControlError) -> u16 {
    error.code().status()
}

fn repositories(root: &Path) -> Repositories {
    let options = ForgeOptions {
        retry_delays: vec![Duration::from_millis(5)],
        ..ForgeOptions::default()
    };
    Repositories::open(&root.join("repositories"), Git::new(), options).unwrap()
}

fn start(
    root: &Path,
    store: &Arc<SqliteStore>,
    clock: &Arc<ManualClock>,
    settings: &WorkSettings,
    server_id: ServerId,
) -> Control {
    let (store, clock) = (Arc::clone(store), Arc::clone(clock));
    Control::new(Parts {
        store: store as Arc<dyn Store>,
        clock: clock as Arc<dyn Clock>,
        repositories: repositories(root),
        kinds: Kinds::new(KindSettings {
            command_argv: vec!["agent".into()],
            ..KindSettings::default()
        }),
        prompts: Prompts::embedded().unwrap(),
        work: settings.clone(),
        drivers: Drivers::default(),
        sandboxes: SandboxSettings::default(),
        logs: LogStore::open(root.join("logs"), 1 << 20).unwrap(),
        server_id,
    })
}
