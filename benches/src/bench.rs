//! The order of everything: rounds over all contenders, so that what disturbs the machine disturbs all.

use crate::contender::{ALL, Contender, Kept, LIMIT, OUR_POSTGRES, OUR_SQLITE, Program, run};
use crate::fleet::{self, Fleet};
use crate::machine::Usage;
use crate::machines::Machines;
use crate::output::Output;
use crate::probe::milliseconds;
use crate::sandboxes::Sandboxes;
use crate::servers::{Postgres, Redis};
use crate::startup::{self, Start};
use crate::stats::{Spread, number, percentile};
use crate::suites::Suites;
use crate::{BenchArgs, Figure, machine, probe, report};
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tokio::process::Command;

/// What was asked of a contender.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Asked {
    Drain,
    One,
    Many,
    Idle,
    HalfLoad,
    Dispatch,
    Sandbox,
}

/// Producers of [`Asked::Many`].
pub(crate) const MANY: u32 = 64;
/// Between two enqueues to an idle queue.
pub(crate) const IDLE_PAUSE: Duration = Duration::from_millis(20);
/// Enqueues to an idle queue in each round.
const IDLE_SAMPLES: u32 = 100;
const HALF_LOAD_SECONDS: f64 = 2.0;
/// Looked at before each measurement, to see what else the machine is doing.
const QUIET: Duration = Duration::from_millis(200);
/// A faster open loop would measure the loop.
pub(crate) const HIGHEST_RATE: f64 = 1000.0;

/// All results: for each contender and question one entry per round, or why there is none.
#[derive(Default)]
pub(crate) struct Results {
    pub(crate) lines: BTreeMap<(Asked, &'static str), Vec<std::result::Result<Value, String>>>,
    /// The commands that were run, in the order of their first run.
    pub(crate) commands: Vec<String>,
    /// Milliseconds of single fsyncs in each round, by question.
    pub(crate) fsyncs: BTreeMap<Asked, Vec<Vec<f64>>>,
    /// Starts of the server by store: the first, which makes the database, and the next.
    pub(crate) starts: BTreeMap<&'static str, (Vec<Start>, Vec<Start>)>,
    pub(crate) server_bytes: Option<u64>,
    /// Percent of the processors that were busy just before each measurement.
    pub(crate) busy: Vec<f64>,
    /// What was measured of sandboxes: milliseconds, in each round.
    pub(crate) sandboxes: Vec<(&'static str, Vec<Vec<f64>>)>,
    /// Output on its way: megabytes per second in each round.
    pub(crate) rates: Vec<(&'static str, Vec<f64>)>,
    /// Tests that do nothing: milliseconds for each, in each round.
    pub(crate) suites: Vec<(&'static str, Vec<f64>)>,
    /// Many sandboxes at rest.
    pub(crate) fleets: Vec<Fleet>,
    /// What could not be measured, and why.
    pub(crate) notes: Vec<String>,
}

impl Results {
    /// The number `key` of each round; NaN where there is none.
    pub(crate) fn values(&self, asked: Asked, name: &'static str, key: &str) -> Vec<f64> {
        let lines = self.lines.get(&(asked, name));
        let value = |line: &std::result::Result<Value, String>| {
            line.as_ref().ok().and_then(|line| line[key].as_f64())
        };
        lines
            .into_iter()
            .flatten()
            .map(|line| value(line).unwrap_or(f64::NAN))
            .collect()
    }

    /// Notes one round of a measurement of sandboxes.
    pub(crate) fn sandbox(&mut self, what: &'static str, times: Vec<f64>) {
        eprintln!(
            "{what}: {} ms p50, {} ms p99",
            number(percentile(&times, 0.5)),
            number(percentile(&times, 0.99))
        );
        match self.sandboxes.iter_mut().find(|(name, _)| *name == what) {
            Some((_, rounds)) => rounds.push(times),
            None => self.sandboxes.push((what, vec![times])),
        }
    }

    /// Notes one round of a throughput, megabytes per second.
    pub(crate) fn rate(&mut self, what: &'static str, rate: f64) {
        eprintln!("{what}: {} MB/s", number(rate));
        match self.rates.iter_mut().find(|(name, _)| *name == what) {
            Some((_, rounds)) => rounds.push(rate),
            None => self.rates.push((what, vec![rate])),
        }
    }

    /// Notes one round of a runner of tests.
    pub(crate) fn suite(&mut self, runner: &'static str, took: Duration, tests: usize) {
        let each = milliseconds(took) / tests as f64;
        eprintln!("{runner:<30} {} ms for each of {tests} tests", number(each));
        match self.suites.iter_mut().find(|(name, _)| *name == runner) {
            Some((_, rounds)) => rounds.push(each),
            None => self.suites.push((runner, vec![each])),
        }
    }

    pub(crate) fn spread(&self, asked: Asked, name: &'static str, key: &str) -> Option<Spread> {
        Spread::of(self.values(asked, name, key))
    }
}

/// The servers and the directory of a run; all of it goes with this.
pub(crate) struct Stores {
    postgres: Postgres,
    always: Option<Redis>,
    every_second: Option<Redis>,
    made: u32,
    directory: tempfile::TempDir,
}

impl Stores {
    fn start(args: &BenchArgs) -> Result<Self> {
        let directory = tempfile::Builder::new()
            .prefix("ostler-bench")
            .tempdir_in(&args.directory)
            .with_context(|| format!("cannot make a directory in {}", args.directory.display()))?;
        // The server of PostgreSQL is another user.
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o711);
        std::fs::set_permissions(directory.path(), open)?;
        let redis = |appendfsync| {
            (!args.no_peers)
                .then(|| Redis::start(directory.path(), appendfsync))
                .transpose()
        };
        Ok(Self {
            postgres: Postgres::start(directory.path())?,
            always: redis("always")?,
            every_second: redis("everysec")?,
            made: 0,
            directory,
        })
    }

    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// An empty database.
    pub(crate) fn fresh(&mut self, kept: Kept) -> Result<String> {
        let missing = "Redis was not started";
        let url = match kept {
            Kept::Postgres => self.postgres.database()?,
            Kept::RedisAlways => self.always.as_ref().context(missing)?.database()?,
            Kept::RedisEverySecond => self.every_second.as_ref().context(missing)?.database()?,
            Kept::Sqlite => {
                self.made += 1;
                let path = self.directory().join(format!("{}.db", self.made));
                path.to_string_lossy().into_owned()
            }
        };
        // What others left to be written is not for the next to pay.
        nix::unistd::sync();
        Ok(url)
    }

    pub(crate) fn remove(&self, kept: Kept, url: &str) -> Result<()> {
        match kept {
            Kept::Postgres => self.postgres.drop_database(url)?,
            Kept::Sqlite => {
                for suffix in ["", "-wal", "-shm", ".lock"] {
                    let file = format!("{url}{suffix}");
                    if std::fs::exists(&file)? {
                        std::fs::remove_file(file)?;
                    }
                }
            }
            Kept::RedisAlways | Kept::RedisEverySecond => {}
        }
        Ok(())
    }

    /// What PostgreSQL says about the settings on which durability rests.
    pub(crate) fn durability(&self) -> Result<String> {
        let names = [
            "fsync",
            "synchronous_commit",
            "full_page_writes",
            "shared_buffers",
            "max_wal_size",
        ];
        let show = |name: &&str| {
            Ok(format!(
                "{name} {}",
                self.postgres.sql("postgres", &format!("SHOW {name}"))?
            ))
        };
        let lines: Vec<String> = names.iter().map(show).collect::<Result<_>>()?;
        Ok(lines.join(", "))
    }
}

struct Bench<'a> {
    args: &'a BenchArgs,
    stores: Stores,
    contenders: Vec<Contender>,
    results: Results,
}

/// Measures everything and writes the tables.
pub(crate) async fn run_all(args: &BenchArgs) -> Result<PathBuf> {
    let began = Instant::now();
    if !args.no_peers {
        eprintln!("installing the peers");
        let status = Command::new(args.peers.join("setup"))
            .status()
            .await
            .context("benches/peers/setup is not here; run this from the top of the repository")?;
        ensure!(
            status.success(),
            "the peers cannot be installed; --no-peers leaves them out"
        );
    }
    let contenders = ALL.iter().filter(|c| c.is_ours() || !args.no_peers);
    let mut bench = Bench {
        args,
        stores: Stores::start(args)?,
        contenders: contenders.copied().collect(),
        results: Results::default(),
    };
    if args.wants(Figure::P4) {
        bench.throughput().await?;
    }
    if args.wants(Figure::P5) {
        bench.enqueue().await?;
    }
    if args.wants(Figure::P6) {
        bench.latency().await?;
    }
    if args.wants(Figure::P7) {
        bench.dispatch().await?;
    }
    if args.wants(Figure::P8) {
        bench.suites().await?;
    }
    if args.wants(Figure::P10) {
        bench.server().await?;
    }
    if args.wants(Figure::P1) {
        bench.sandboxes().await?;
    }
    if args.wants(Figure::P3) {
        bench.machines().await?;
    }
    if args.wants(Figure::P9) {
        bench.fleets().await?;
    }
    if args.wants(Figure::P11) {
        bench.output().await?;
    }
    let peers = (!args.no_peers).then_some(&*args.peers);
    let mut machine = machine::describe(bench.stores.directory(), peers);
    machine.push(("PostgreSQL's settings", bench.stores.durability()?));
    let about = report::About {
        quick: args.quick,
        complete: args.only.is_empty(),
        rounds: args.rounds(),
        took: began.elapsed(),
        date: jiff::Timestamp::now().strftime("%Y-%m-%d").to_string(),
        machine,
        contenders: bench.contenders.clone(),
    };
    let text = report::write(&about, &bench.results);
    std::fs::write(&args.output, text).with_context(|| format!("cannot write {}", args.output.display()))?;
    let ours_failed = bench.results.lines.iter().find_map(|((asked, name), lines)| {
        let ours = ALL.iter().any(|c| c.name == *name && c.is_ours());
        let error = lines.iter().find_map(|line| line.as_ref().err())?;
        ours.then(|| format!("{name}, {asked:?}: {error}"))
    });
    if let Some(failed) = ours_failed {
        bail!("{failed}");
    }
    Ok(args.output.clone())
}

/// As a command.
pub(crate) async fn run_command(args: &BenchArgs) -> Result<()> {
    let written = run_all(args).await?;
    eprintln!("the tables are in {}", written.display());
    Ok(())
}

/// Adds what the tables want to know to a result line.
fn completed(mut line: Value, busy: f64) -> Value {
    let rate = |seconds: &Value| Some(line["count"].as_f64()? / seconds.as_f64()?);
    let total = rate(&line["total_seconds"]);
    let enqueued = rate(&line["enqueue_seconds"]);
    let drained = rate(&line["drain_seconds"]);
    if let Some(line) = line.as_object_mut() {
        line.insert("busy_percent".to_owned(), busy.round().into());
        for (name, rate) in [
            ("per_second", total),
            ("enqueued_per_second", enqueued),
            ("drained_per_second", drained),
        ] {
            if let Some(rate) = rate {
                line.insert(name.to_owned(), rate.round().into());
            }
        }
    }
    line
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

impl Bench<'_> {
    fn scaled(&self, count: u32) -> u32 {
        if self.args.quick { count / 10 } else { count }.max(10)
    }

    fn taking_part(&self, round: u32) -> Vec<Contender> {
        let all = self.contenders.iter().copied();
        all.filter(|contender| round < contender.rounds).collect()
    }

    fn probe(&mut self, asked: Asked) -> Result<()> {
        // As often as those that are measured wait for the disk: it answers later when it has rested.
        let (count, pause) = match asked {
            Asked::Idle => (100, IDLE_PAUSE),
            _ => (300, Duration::ZERO),
        };
        let count = if self.args.quick { count / 10 } else { count };
        let times = probe::fsyncs(self.stores.directory(), count, pause)?;
        self.results.fsyncs.entry(asked).or_default().push(times);
        Ok(())
    }

    async fn measure(&mut self, asked: Asked, contender: Contender, arguments: &[String]) {
        eprintln!("{:<30} {}", contender.name, arguments.join(" "));
        let before = Usage::now();
        tokio::time::sleep(QUIET).await;
        let start = Usage::now();
        self.results.busy.push(start.busy_percent_since(before));
        let line = contender
            .measure(&mut self.stores, &self.args.peers, arguments)
            .await
            .map(|line| completed(line, Usage::now().busy_percent_since(start)))
            .map_err(|error| format!("{error:#}"));
        match &line {
            Ok(line) => eprintln!("    {line}"),
            Err(error) => eprintln!("    {error}"),
        }
        let command = contender.command_line(arguments);
        if !self.results.commands.contains(&command) {
            self.results.commands.push(command);
        }
        let key = (asked, contender.name);
        self.results.lines.entry(key).or_default().push(line);
    }

    async fn throughput(&mut self) -> Result<()> {
        for round in 0..self.args.rounds() {
            self.probe(Asked::Drain)?;
            for contender in self.taking_part(round) {
                let count = self.scaled(contender.jobs);
                let arguments = words(&format!("--scenario drain --count {count}"));
                self.measure(Asked::Drain, contender, &arguments).await;
            }
        }
        Ok(())
    }

    async fn enqueue(&mut self) -> Result<()> {
        for round in 0..self.args.rounds() {
            self.probe(Asked::One)?;
            for contender in self.taking_part(round) {
                if contender.program == Program::Executor {
                    continue;
                }
                for (asked, producers, count) in [
                    (Asked::One, 1, contender.singles),
                    (Asked::Many, MANY, contender.together),
                ] {
                    let count = self.scaled(count).max(producers);
                    let arguments = words(&format!(
                        "--scenario enqueue --count {count} --producers {producers}"
                    ));
                    self.measure(asked, contender, &arguments).await;
                }
            }
        }
        Ok(())
    }

    /// Half of what a queue can take when single enqueues and the drain share the machine.
    fn half_load(&self, contender: &Contender) -> Option<f64> {
        let enqueues = self
            .results
            .spread(Asked::Many, contender.name, "per_second")?
            .median;
        let seconds = self
            .results
            .spread(Asked::Drain, contender.name, "drain_seconds")?;
        let drains = f64::from(self.scaled(contender.jobs)) / seconds.median;
        let both = 1.0 / (1.0 / enqueues + 1.0 / drains);
        Some((both / 2.0).round().min(HIGHEST_RATE))
    }

    async fn latency(&mut self) -> Result<()> {
        let idle = self.scaled(IDLE_SAMPLES);
        for round in 0..self.args.rounds() {
            self.probe(Asked::Idle)?;
            self.probe(Asked::HalfLoad)?;
            for contender in self.taking_part(round) {
                let arguments = words(&format!("--scenario latency --count {idle}"));
                self.measure(Asked::Idle, contender, &arguments).await;
                if let Some(rate) = self.half_load(&contender) {
                    let count = self.scaled((rate * HALF_LOAD_SECONDS) as u32);
                    let arguments = words(&format!("--scenario latency --count {count} --rate {rate}"));
                    self.measure(Asked::HalfLoad, contender, &arguments).await;
                }
            }
        }
        Ok(())
    }

    /// Filled once; the rounds are inside.
    async fn dispatch(&mut self) -> Result<()> {
        self.probe(Asked::Dispatch)?;
        let long = self.scaled(1_000_000);
        let samples = self.scaled(40);
        let rounds = self.args.rounds();
        for (name, kept) in [(OUR_SQLITE, Kept::Sqlite), (OUR_POSTGRES, Kept::Postgres)] {
            let url = self.stores.fresh(kept)?;
            let short = self.stores.fresh(kept)?;
            let arguments =
                format!("--scenario dispatch --count {long} --samples {samples} --blocks {rounds}");
            eprintln!("{name:<30} {arguments}");
            let mut command = Command::new(std::env::current_exe()?);
            command.args(["queue", "--url", &url, "--short-url", &short]);
            command.args(words(&arguments));
            let line = run(command, LIMIT).await.map_err(|error| format!("{error:#}"));
            eprintln!("    {line:?}");
            self.stores.remove(kept, &url)?;
            self.stores.remove(kept, &short)?;
            let command =
                format!("target/release/ostler-benches queue --url URL --short-url URL {arguments}");
            if !self.results.commands.contains(&command) {
                self.results.commands.push(command);
            }
            self.results.lines.insert((Asked::Dispatch, name), vec![line]);
        }
        Ok(())
    }

    fn server_program(&self) -> Result<PathBuf> {
        Ok(match &self.args.server {
            Some(server) => server.clone(),
            None => std::env::current_exe()?.with_file_name("ostler"),
        })
    }

    async fn sandboxes(&mut self) -> Result<()> {
        let data = self.stores.directory().join("sandboxes");
        let sandboxes = Sandboxes::start(&self.server_program()?, &data, &mut self.results.notes).await?;
        let mut done = Ok(());
        for _ in 0..self.args.rounds() {
            self.probe(Asked::Sandbox)?;
            let samples = if self.args.quick { 3 } else { 20 };
            done = sandboxes.round(samples, &mut self.results).await;
            if done.is_err() {
                break;
            }
        }
        // Whatever came of it, its sandboxes end.
        sandboxes.stop().await?;
        done
    }

    async fn machines(&mut self) -> Result<()> {
        let data = self.stores.directory().join("machines");
        let program = self.server_program()?;
        let Some(mut machines) = Machines::start(&program, &data, &mut self.results.notes).await? else {
            return Ok(());
        };
        let mut done = Ok(());
        for _ in 0..self.args.rounds() {
            let samples = if self.args.quick { 1 } else { 4 };
            done = machines.round(samples, &mut self.results).await;
            if done.is_err() {
                break;
            }
        }
        machines.stop().await?;
        done
    }

    async fn suites(&mut self) -> Result<()> {
        let data = self.stores.directory().join("suites");
        let program = self.server_program()?;
        let peers = (!self.args.no_peers).then_some(&*self.args.peers);
        let count = if self.args.quick { 200 } else { 2000 };
        let started = Suites::start(&program, &data, peers, count, &mut self.results.notes).await?;
        let Some(suites) = started else {
            return Ok(());
        };
        let mut done = Ok(());
        for _ in 0..self.args.rounds() {
            self.probe(Asked::Sandbox)?;
            done = suites.round(&mut self.results).await;
            if done.is_err() {
                break;
            }
        }
        suites.stop().await?;
        done
    }

    async fn fleets(&mut self) -> Result<()> {
        let program = self.server_program()?;
        // Six health checks of every sandbox, and one sample of its use.
        let (counts, window) = if self.args.quick {
            ([fleet::FEW / 10, fleet::MANY / 10], Duration::from_secs(12))
        } else {
            ([fleet::FEW, fleet::MANY], Duration::from_mins(1))
        };
        for count in counts {
            eprintln!("{count} sandboxes at rest");
            let data = self.stores.directory().join(format!("fleet-{count}"));
            let fleet = fleet::watch(&program, &data, count, window).await?;
            eprintln!("    {fleet:?}");
            self.results.fleets.push(fleet);
        }
        Ok(())
    }

    async fn output(&mut self) -> Result<()> {
        let data = self.stores.directory().join("output");
        let program = self.server_program()?;
        let Some(output) = Output::start(&program, &data, &mut self.results.notes).await? else {
            return Ok(());
        };
        let (lines, megabytes) = if self.args.quick { (20, 20) } else { (300, 200) };
        let mut done = Ok(());
        for _ in 0..self.args.rounds() {
            done = output.round(lines, megabytes, &mut self.results).await;
            if done.is_err() {
                break;
            }
        }
        output.stop().await?;
        done
    }

    async fn server(&mut self) -> Result<()> {
        let server = self.server_program()?;
        let metadata = std::fs::metadata(&server)
            .with_context(|| format!("{} is not there; build it with `make build`", server.display()))?;
        self.results.server_bytes = Some(metadata.len());
        let rest = Duration::from_secs(if self.args.quick { 1 } else { 2 });
        for round in 0..self.args.rounds() {
            self.probe(Asked::Dispatch)?;
            for (name, kept) in [(OUR_SQLITE, Kept::Sqlite), (OUR_POSTGRES, Kept::Postgres)] {
                let url = self.stores.fresh(kept)?;
                let database = match kept {
                    Kept::Sqlite => format!("sqlite:{url}"),
                    _ => url.clone(),
                };
                let data = self
                    .stores
                    .directory()
                    .join(format!("data-{round}-{}", kept.name()));
                eprintln!("{name:<30} two starts of the server");
                let first = startup::start(&server, &data, &database, rest).await?;
                let next = startup::start(&server, &data, &database, rest).await?;
                eprintln!("    {first:?} {next:?}");
                self.stores.remove(kept, &url)?;
                let (firsts, nexts) = self.results.starts.entry(name).or_default();
                firsts.push(first);
                nexts.push(next);
            }
        }
        Ok(())
    }
}
