//! Follows a plan to its end, as test runners show it: what ended stays, what runs is shown below while it does.
//!
//! The server tells everything from the beginning, once, also over broken connections and restarts; so there is nothing
//! to look after here but the order in which things are said. Whatever waits for the server is a task of its own: the
//! clock on the screen and Ctrl-C never wait.

use super::cases;
use super::lines::{Style, plan_took};
use super::report::{self, Files, ReportArguments};
use super::screen::Screen;
use super::story::{Counts, Said, Story};
use super::tail::{self, Tail};
use crate::commands::Outcome;
use crate::context::Session;
use crate::error::{CliError, Result};
use crate::exit::Exit;
use crate::input::duration;
use crate::table::one_line;
use ostler_client::{Client, ClientError, Followed, PlanItem};
use ostler_contracts::{PlanView, TestView};
use ostler_domain::{Clock, PlanId, RunId, SystemClock};
use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};

/// How often what runs is shown anew.
const REDRAW: Duration = Duration::from_millis(100);
/// How often the time is looked at where nothing is shown anew.
const TICK: Duration = Duration::from_secs(1);
/// After this time without anything that runs it is said why, and again after as long.
const IDLE: Duration = Duration::from_secs(5);
/// Items on their way from the server.
const ITEMS: usize = 256;
/// Logs that are read at a time.
const LOGS: usize = 4;
/// Failures whose output is shown and reported; whoever has more looks at them one by one.
const MAX_OUTPUTS: usize = 200;
/// Pause before a request is repeated that must come through.
const AGAIN: Duration = Duration::from_millis(500);

/// What is shown and written.
#[derive(Debug, clap::Args)]
pub(super) struct FollowArguments {
    /// Lines of each stream of a failed test that are shown; 0 for none.
    #[arg(long, value_name = "N", default_value_t = 40)]
    lines: usize,
    /// Say of a test that it is slow after this time, such as 30s or 5m.
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = duration)]
    slow: Duration,
    #[command(flatten)]
    pub(super) reports: ReportArguments,
}

/// What the first Ctrl-C does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CtrlC {
    /// Cancels the plan, whose end is waited for: it was submitted here.
    Cancels,
    /// Leaves the plan as it is.
    Leaves,
}

/// What a task has brought.
enum Done {
    Tail(Said, Result<Tail>),
    Tests(std::result::Result<Vec<TestView>, ClientError>),
    Cancelled(std::result::Result<(), ClientError>),
    Explained(Option<String>),
    Pumped,
}

struct Watch<'a> {
    session: &'a Session,
    arguments: &'a FollowArguments,
    ctrl_c: CtrlC,
    plan: PlanView,
    story: Story,
    style: Style,
    screen: Screen,
    tasks: JoinSet<Done>,
    /// Failures whose output is still to be read.
    unread: VecDeque<Said>,
    /// How many of them are being read.
    reading: usize,
    /// How many more may be.
    outputs: usize,
    /// Whether it was said that there are too many.
    cut: bool,
    tails: BTreeMap<RunId, Tail>,
    keep_tails: bool,
    /// Whether the plan has ended, and nothing follows.
    over: bool,
    /// Whether the last word on the tests is being asked for.
    completing: bool,
    lost: bool,
    interrupted: bool,
    /// Since when nothing happens.
    idle: Instant,
    explaining: bool,
    /// Why nothing happens.
    why: Option<String>,
}

/// Follows a plan to its end; the exit code is that of its tests. The second Ctrl-C leaves in any case.
/// The files for reports are opened by the caller, before anything is submitted.
pub(super) async fn follow(
    session: &Session,
    plan: PlanView,
    arguments: &FollowArguments,
    files: Files,
    ctrl_c: CtrlC,
) -> Outcome {
    let mut stop = Stop::new()?;
    let screen = Screen::new(session.out);
    let mut watch = Watch {
        session,
        arguments,
        ctrl_c,
        story: Story::new(plan.tests as usize),
        style: Style {
            colour: screen.colour(),
            total: plan.tests as usize,
        },
        screen,
        tasks: JoinSet::new(),
        unread: VecDeque::new(),
        reading: 0,
        outputs: MAX_OUTPUTS,
        cut: false,
        tails: BTreeMap::new(),
        keep_tails: !files.is_empty(),
        over: false,
        completing: false,
        lost: false,
        interrupted: false,
        idle: Instant::now(),
        explaining: false,
        why: None,
        plan,
    };
    if watch.until_the_end(&mut stop).await? == Left::BeforeTheEnd {
        return Ok(Exit::CANCELLED);
    }
    let Watch {
        plan,
        story,
        tails,
        interrupted,
        ..
    } = &mut watch;
    if !files.is_empty() {
        let cases = cases::fetch(session, story).await;
        files.write(&report::report(plan, story, tails, &cases))?;
    }
    let exit = exit(&story.counts(), *interrupted);
    watch.last_words(exit)?;
    Ok(exit)
}

/// What the tests come to.
pub(super) fn exit(counts: &Counts, interrupted: bool) -> Exit {
    match counts {
        _ if interrupted => Exit::CANCELLED,
        Counts {
            failed: 0,
            timed_out: 0,
            lost: 0,
            cancelled: 0,
            ..
        } => Exit::OK,
        Counts {
            failed: 0,
            timed_out: 0,
            lost: 0,
            ..
        } => Exit::CANCELLED,
        Counts {
            failed: 0,
            timed_out: 0,
            ..
        } => Exit::UNAVAILABLE,
        _ => Exit::FAILED,
    }
}

/// Why watching ends.
#[derive(Debug, PartialEq, Eq)]
enum Left {
    AtTheEnd,
    BeforeTheEnd,
}

impl Watch<'_> {
    async fn until_the_end(&mut self, stop: &mut Stop) -> Result<Left> {
        self.say_started()?;
        let (sender, mut items) = mpsc::channel(ITEMS);
        self.tasks
            .spawn(pump(self.session.client.clone(), self.plan.id, sender));
        let mut tick = tokio::time::interval(if self.screen.live { REDRAW } else { TICK });
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !(self.over && !self.completing && self.unread.is_empty() && self.reading == 0) {
            tokio::select! {
                Some(item) = items.recv() => self.item(item?)?,
                Some(done) = self.tasks.join_next() => {
                    self.done(done.map_err(|error| CliError::Failed(format!("a part of it ended: {error}")))?)?;
                }
                _ = tick.tick() => self.tick()?,
                () = stop.wanted() => {
                    if self.interrupted || self.ctrl_c == CtrlC::Leaves {
                        let id = self.plan.id;
                        self.screen.note(&format!("ostler: `ostler test watch {id}` shows how it goes on"));
                        return Ok(Left::BeforeTheEnd);
                    }
                    self.cancel();
                }
            }
        }
        Ok(Left::AtTheEnd)
    }

    fn say_started(&mut self) -> Result<()> {
        if self.session.out.json {
            return self.session.out.line(&serde_json::json!({ "plan": self.plan }));
        }
        self.screen.print(&self.style.started(&self.plan))
    }

    fn item(&mut self, item: Followed<PlanItem>) -> Result<()> {
        match item {
            Followed::Connected => {
                if std::mem::take(&mut self.lost) {
                    self.screen.note("ostler: the server answers again");
                }
            }
            Followed::Lost(_) => {
                self.lost = true;
                self.screen
                    .note("ostler: the connection to the server is lost; trying again");
            }
            Followed::Item(PlanItem::Plan(plan)) => self.plan = *plan,
            Followed::Item(PlanItem::Started(test) | PlanItem::Finished(test)) => {
                self.idle = Instant::now();
                self.why = None;
                self.test(*test)?;
            }
            Followed::Item(PlanItem::End(plan)) => {
                self.plan = *plan;
                self.over = true;
                if !self.story.is_over() {
                    // Nothing should be missing; if something is, the tests themselves say it.
                    self.completing = true;
                    let (client, id) = (self.session.client.clone(), self.plan.id);
                    self.tasks
                        .spawn(async move { Done::Tests(insist(|| client.all_plan_tests(id)).await) });
                }
            }
        }
        Ok(())
    }

    fn test(&mut self, test: TestView) -> Result<()> {
        let Some(said) = self.story.test_is(test) else {
            return Ok(());
        };
        let out = self.session.out;
        match &said {
            Said::Started(test) | Said::Retried(test) | Said::Ended { test, .. } if out.json => {
                out.line(&serde_json::json!({ "test": test }))?;
            }
            _ => {}
        }
        // With the output that belongs to it, as soon as that is there.
        let shown = self.arguments.lines > 0 && !out.json;
        if said.failed_run().is_some() && (shown || self.keep_tails) {
            if self.outputs > 0 {
                self.outputs -= 1;
                self.unread.push_back(said);
                self.read();
                return Ok(());
            }
            if !std::mem::replace(&mut self.cut, true) {
                let note = format!(
                    "ostler: the output of more than {MAX_OUTPUTS} failures is neither shown nor reported"
                );
                self.screen.note(&note);
            }
        }
        self.print(&said, None)
    }

    fn read(&mut self) {
        while self.reading < LOGS
            && let Some(said) = self.unread.pop_front()
        {
            let Some(run) = said.failed_run() else { continue };
            self.reading += 1;
            let client = self.session.client.clone();
            self.tasks
                .spawn(async move { Done::Tail(said, tail::fetch(&client, run).await) });
        }
    }

    fn print(&mut self, said: &Said, output: Option<&Result<Tail>>) -> Result<()> {
        if self.session.out.json {
            return Ok(());
        }
        let mut text = self.style.said(said);
        match output {
            Some(Ok(tail)) => text.push_str(&tail.render(self.arguments.lines, self.style.colour)),
            Some(Err(error)) => {
                let _ = writeln!(text, "    its output cannot be read: {error}");
            }
            None => {}
        }
        self.screen.print(&text)
    }

    fn done(&mut self, done: Done) -> Result<()> {
        match done {
            Done::Tail(said, tail) => {
                self.reading -= 1;
                self.read();
                self.print(&said, Some(&tail))?;
                if self.keep_tails
                    && let (Some(run), Ok(tail)) = (said.failed_run(), tail)
                {
                    self.tails.insert(run, tail);
                }
            }
            Done::Tests(tests) => {
                self.completing = false;
                for test in tests? {
                    self.test(test)?;
                }
            }
            Done::Cancelled(outcome) => outcome?,
            Done::Explained(why) => {
                self.explaining = false;
                self.idle = Instant::now();
                let new = why.is_some() && why != self.why;
                self.why = why;
                if new
                    && !self.screen.live
                    && let Some(why) = &self.why
                {
                    self.session
                        .out
                        .note(&format!("ostler: it waits: {}", one_line(why)));
                }
            }
            Done::Pumped => {}
        }
        Ok(())
    }

    fn tick(&mut self) -> Result<()> {
        let now = SystemClock.now();
        for said in self.story.slow(now, self.arguments.slow) {
            if let (Said::Slow { name, elapsed }, true) = (&said, self.session.out.json) {
                let slow = serde_json::json!({ "name": name, "seconds": elapsed.as_secs() });
                self.session.out.line(&serde_json::json!({ "slow": slow }))?;
            }
            self.print(&said, None)?;
        }
        let counts = self.story.counts();
        let idle = counts.running == 0 && counts.waiting > 0 && !self.over;
        if idle && !self.explaining && self.idle.elapsed() >= IDLE {
            self.explaining = true;
            let (client, id) = (self.session.client.clone(), self.plan.id);
            // Only a comment on what is shown: if it cannot be had, it is missing.
            self.tasks.spawn(async move {
                Done::Explained(client.explain_plan(id).await.ok().map(|why| why.summary))
            });
        }
        if self.screen.live {
            let running = self.story.running(now);
            let took = plan_took(&self.plan, now);
            let lines = self
                .style
                .frame(&counts, &running, took, Screen::room(), self.why.as_deref());
            self.screen.draw(lines);
        }
        Ok(())
    }

    fn cancel(&mut self) {
        self.interrupted = true;
        self.screen
            .note("ostler: the plan is being cancelled; Ctrl-C again leaves at once");
        let (client, id) = (self.session.client.clone(), self.plan.id);
        self.tasks
            .spawn(async move { Done::Cancelled(insist(|| client.cancel_plan(id)).await.map(drop)) });
    }

    /// The summary, and what to do next.
    fn last_words(&mut self, exit: Exit) -> Result<()> {
        let plan = &self.plan;
        if self.session.out.json {
            return self
                .session
                .out
                .line(&serde_json::json!({ "plan": plan, "exit_code": exit.0 }));
        }
        let took = plan_took(plan, SystemClock.now());
        let text = self.style.summary(&self.story.counts(), took, self.story.tests());
        self.screen.draw(Vec::new());
        self.screen.print(&text)?;
        if exit != Exit::OK {
            let id = plan.id;
            self.screen.note(&format!(
                "ostler: `ostler test logs {id} TEST` shows whole outputs, `ostler test rerun {id} --failed` tries again"
            ));
        }
        Ok(())
    }
}

/// Hands on what the server tells.
async fn pump(
    client: Client,
    id: PlanId,
    items: mpsc::Sender<std::result::Result<Followed<PlanItem>, ClientError>>,
) -> Done {
    let mut follower = client.follow_plan(id);
    loop {
        let item = follower.next().await;
        let last = matches!(item, Err(_) | Ok(Followed::Item(PlanItem::End(_))));
        if items.send(item).await.is_err() || last {
            return Done::Pumped;
        }
    }
}

/// Asks until there is an answer; how long a server is waited for, the follower decides.
async fn insist<T, F>(ask: impl Fn() -> F) -> std::result::Result<T, ClientError>
where
    F: Future<Output = std::result::Result<T, ClientError>>,
{
    loop {
        match ask().await {
            Err(error) if error.is_transient() => tokio::time::sleep(AGAIN).await,
            done => return done,
        }
    }
}

/// Ctrl-C, and what asks for the same without a terminal.
struct Stop {
    interrupt: Signal,
    terminate: Signal,
}

impl Stop {
    fn new() -> Result<Self> {
        let listen = |kind| {
            signal(kind).map_err(|error| CliError::Failed(format!("signals cannot be received: {error}")))
        };
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
        })
    }

    async fn wanted(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
