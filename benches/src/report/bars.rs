//! The bars, and whether they are met.

use super::About;
use super::tables::{blocks, fsync};
use crate::bench::{Asked, Results};
use crate::contender::{ALL, APALIS_SQLITE, Contender, Kept, OUR_POSTGRES, OUR_SQLITE};
use crate::machines::{BARE, BOOT, RESTORE};
use crate::output::{BULK_DOCKER, BULK_EXEC, BULK_RUN, LINE_DOCKER, LINE_EXEC, LINE_RUN};
use crate::sandboxes::{
    CLAIM_DOCKER, CLAIM_PROCESS, CLAIM_SIM, CLAIM_SIM_FLOOD, CLAIM_SIM_MANY, COLD_DOCKER, COLD_DOCKER_LIMIT,
    START_DOCKER,
};
use crate::service::CLIENTS;
use crate::stats::{Spread, number, percentile};
use crate::suites::{BUILDBOT, NEXTEST, OURS};

/// One bar.
pub(super) struct Verdict {
    pub(super) figure: &'static str,
    pub(super) what: String,
    pub(super) ours: String,
    pub(super) beside: String,
    pub(super) judged: String,
    pub(super) bar: String,
    pub(super) met: Option<bool>,
    /// For one that is not met: what was measured of the reason.
    pub(super) why: Option<String>,
}

/// Which way is better.
#[derive(Clone, Copy)]
enum Bar {
    AtLeast(f64),
    AtMost(f64),
}

impl Bar {
    fn shown(self, unit: &str) -> String {
        match self {
            Self::AtLeast(value) => format!("≥ {}{unit}", number(value)),
            Self::AtMost(value) => format!("≤ {}{unit}", number(value)),
        }
    }

    fn met(self, value: f64) -> bool {
        match self {
            Self::AtLeast(bar) => value >= bar,
            Self::AtMost(bar) => value <= bar,
        }
    }
}

fn shown(spread: Option<Spread>, unit: &str) -> String {
    spread.map_or_else(|| "–".to_owned(), |spread| format!("{}{unit}", spread.shown()))
}

fn verdict(
    figure: &'static str,
    what: impl Into<String>,
    ours: String,
    beside: String,
    judged: Option<Spread>,
    unit: &str,
    bar: Bar,
) -> Verdict {
    Verdict {
        figure,
        what: what.into(),
        ours,
        beside,
        judged: shown(judged, unit),
        bar: bar.shown(unit),
        met: judged.map(|spread| bar.met(spread.median)),
        why: None,
    }
}

/// Ratios round by round.
fn ratios(over: &[f64], under: &[f64]) -> Option<Spread> {
    Spread::of(over.iter().zip(under).map(|(over, under)| over / under))
}

/// The peers that keep what they acknowledge. One in a file, without a server to talk to, is beside ours in a file only.
fn durable_peers(about: &About, ours: &str) -> impl Iterator<Item = &'static Contender> {
    let known: Vec<&str> = about.contenders.iter().map(|c| c.name).collect();
    let in_file = ours == OUR_SQLITE;
    ALL.iter().filter(move |c| {
        known.contains(&c.name) && !c.is_ours() && c.kept.durable() && (in_file || c.kept != Kept::Sqlite)
    })
}

/// The one of them with the highest median of `key`.
fn best_peer(about: &About, results: &Results, ours: &str, asked: Asked, key: &str) -> Option<&'static str> {
    durable_peers(about, ours)
        .filter_map(|c| Some((results.spread(asked, c.name, key)?.median, c.name)))
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, name)| name)
}

pub(super) fn verdicts(about: &About, results: &Results) -> Vec<Verdict> {
    let mut all = sandboxes(results);
    all.extend(throughput(about, results));
    all.extend(enqueue(about, results));
    all.extend(latency(about, results));
    all.extend(dispatch(results));
    all.extend(suites(results));
    all.extend(fleets(results));
    all.extend(server(results));
    all.extend(output(results));
    all
}

fn beside(
    results: &Results,
    figure: &'static str,
    what: &str,
    asked: Asked,
    key: &str,
    (ours, peer): (&'static str, Option<&'static str>),
    bar: Bar,
) -> Verdict {
    let own = results.values(asked, ours, key);
    let theirs = peer
        .map(|peer| results.values(asked, peer, key))
        .unwrap_or_default();
    verdict(
        figure,
        format!("{ours}: {what}"),
        shown(Spread::of(own.iter().copied()), "/s"),
        format!(
            "{}: {}",
            peer.unwrap_or("no durable peer"),
            shown(Spread::of(theirs.iter().copied()), "/s")
        ),
        ratios(&own, &theirs),
        " ×",
        bar,
    )
}

fn throughput(about: &About, results: &Results) -> Vec<Verdict> {
    let asked = Asked::Drain;
    let mut all = Vec::new();
    for (what, key) in [
        ("enqueued in bulk and drained", "per_second"),
        ("the drain of it", "drained_per_second"),
    ] {
        let peer = best_peer(about, results, OUR_POSTGRES, asked, key);
        let bar = Bar::AtLeast(1.5);
        let mut verdict = beside(results, "P4", what, asked, key, (OUR_POSTGRES, peer), bar);
        verdict.why = drain_reason(results, OUR_POSTGRES);
        all.push(verdict);
        let bar = Bar::AtLeast(20.0);
        let sqlite = (OUR_SQLITE, Some(APALIS_SQLITE));
        let mut verdict = beside(results, "P4", what, asked, key, sqlite, bar);
        verdict.why = drain_reason(results, OUR_SQLITE);
        all.push(verdict);
    }
    all
}

/// What the time of a drain went into.
fn drain_reason(results: &Results, name: &'static str) -> Option<String> {
    let per_second = results.spread(Asked::Drain, name, "drained_per_second")?.median;
    let busy = results.spread(Asked::Drain, name, "busy_percent")?.median;
    Some(format!(
        "a run takes {} µs of wall time, while the processors of the machine were {} % busy (at 100 % only less work \
         for each run makes it faster, not waiting less)",
        number(1e6 / per_second),
        number(busy)
    ))
}

fn enqueue(about: &About, results: &Results) -> Vec<Verdict> {
    let mut all = Vec::new();
    let key = "per_second";
    for ours in [OUR_POSTGRES, OUR_SQLITE] {
        let one = results.values(Asked::One, ours, key);
        let many = results.values(Asked::Many, ours, key);
        let mut company = verdict(
            "P5",
            format!("{ours}: 64 producers beside one"),
            shown(Spread::of(many.iter().copied()), "/s"),
            format!("one producer: {}", shown(Spread::of(one.iter().copied()), "/s")),
            ratios(&many, &one),
            " ×",
            Bar::AtLeast(10.0),
        );
        let fsync = fsync(results, Asked::One, 0.5).map(|spread| spread.median);
        if let (Some(one), Some(many), Some(fsync)) = (Spread::of(one), Spread::of(many), fsync) {
            company.why = Some(format!(
                "one producer needs {} ms for an enqueue, of which an fsync of this disk is {} ms, so there is little \
                 waiting that company could share; 64 producers need {} µs for each run, with {} % of the processors busy",
                number(1e3 / one.median),
                number(fsync),
                number(1e6 / many.median),
                shown(results.spread(Asked::Many, ours, "busy_percent"), ""),
            ));
        }
        all.push(company);
        for (what, asked) in [("1 producer", Asked::One), ("64 producers", Asked::Many)] {
            let peer = best_peer(about, results, ours, asked, key);
            let bar = Bar::AtLeast(1.0);
            let mut verdict = beside(results, "P5", what, asked, key, (ours, peer), bar);
            let own = results.spread(asked, ours, key);
            if let (Some(own), Some(fsync)) = (own, fsync) {
                verdict.why = Some(format!(
                    "an enqueue takes {} ms of wall time; an fsync of this disk alone takes {} ms",
                    number(1e3 / own.median),
                    number(fsync)
                ));
            }
            all.push(verdict);
        }
    }
    all
}

fn latency(about: &About, results: &Results) -> Vec<Verdict> {
    let mut all = Vec::new();
    for (ours, bar) in [(OUR_SQLITE, 0.5), (OUR_POSTGRES, 1.5)] {
        for (what, asked) in [("idle", Asked::Idle), ("at half load", Asked::HalfLoad)] {
            let p50 = results.values(asked, ours, "p50_ms");
            let p99 = results.values(asked, ours, "p99_ms");
            let fsyncs: Vec<f64> = results
                .fsyncs
                .get(&asked)
                .map(|rounds| rounds.iter().map(|times| percentile(times, 0.5)).collect())
                .unwrap_or_default();
            let best = durable_peers(about, ours)
                .filter_map(|c| Some((results.spread(asked, c.name, "p50_ms")?, c.name)))
                .min_by(|a, b| a.0.median.total_cmp(&b.0.median));
            let beside = best.map_or_else(
                || "no durable peer".to_owned(),
                |(spread, name)| format!("{name}: {} ms", spread.shown()),
            );
            let beyond = Spread::of(p50.iter().zip(&fsyncs).map(|(p50, fsync)| (p50 - fsync).max(0.0)));
            let mut middle = verdict(
                "P6",
                format!("{ours}, {what}: p50 beyond one fsync"),
                shown(Spread::of(p50.iter().copied()), " ms"),
                format!(
                    "{beside}; fsync: {}",
                    shown(Spread::of(fsyncs.iter().copied()), " ms")
                ),
                beyond,
                " ms",
                Bar::AtMost(bar),
            );
            middle.why = split(results, asked, ours);
            all.push(middle);
            let mut tail = verdict(
                "P6",
                format!("{ours}, {what}: p99 beside p50"),
                shown(Spread::of(p99.iter().copied()), " ms"),
                format!("p50: {}", shown(Spread::of(p50.iter().copied()), " ms")),
                ratios(&p99, &p50),
                " ×",
                Bar::AtMost(10.0),
            );
            let slow = fsync(results, asked, 0.99);
            tail.why = slow.map(|slow| format!("the p99 of an fsync alone was {} ms", slow.shown()));
            all.push(tail);
        }
    }
    all
}

/// Where the time between the enqueue and the start went.
fn split(results: &Results, asked: Asked, name: &'static str) -> Option<String> {
    let enqueue = results.spread(asked, name, "enqueue_p50_ms")?;
    let total = results.spread(asked, name, "p50_ms")?;
    Some(format!(
        "of the {} ms the durable enqueue alone takes {} ms, of which an fsync is {} ms; the rest is the claim, which is a \
         durable commit of its own and so waits for a second fsync",
        number(total.median),
        enqueue.shown(),
        shown(fsync(results, asked, 0.5), "")
    ))
}

fn dispatch(results: &Results) -> Vec<Verdict> {
    let mut all = Vec::new();
    for ours in [OUR_SQLITE, OUR_POSTGRES] {
        for (what, key) in [
            ("claim of one run", "claim_ms"),
            ("claim of ten", "ten_ms"),
            ("a fresh run of high priority", "fresh_ms"),
        ] {
            let short = blocks(results, ours, "short", key);
            let long = blocks(results, ours, "long", key);
            let mut verdict = verdict(
                "P7",
                format!("{ours}: {what}, long queue beside short"),
                shown(Spread::of(long.iter().copied()), " ms"),
                format!("short: {}", shown(Spread::of(short.iter().copied()), " ms")),
                ratios(&long, &short),
                " ×",
                Bar::AtMost(1.3),
            );
            let added = Spread::of(long.iter().zip(&short).map(|(long, short)| long - short));
            verdict.why = added.map(|added| {
                format!(
                    "the long queue adds {} ms; an fsync, which both have, takes {} ms",
                    added.shown(),
                    shown(fsync(results, Asked::Dispatch, 0.5), "")
                )
            });
            all.push(verdict);
        }
    }
    all
}

fn suites(results: &Results) -> Vec<Verdict> {
    let rounds = |runner: &str| {
        let known = results.suites.iter().find(|(name, _)| *name == runner);
        known.map(|(_, rounds)| rounds.clone()).unwrap_or_default()
    };
    let ours = rounds(OURS);
    let own = shown(Spread::of(ours.iter().copied()), " ms");
    let mut all = Vec::new();
    for (peer, over, bar) in [
        (NEXTEST, false, Bar::AtMost(1.0)),
        (BUILDBOT, true, Bar::AtLeast(40.0)),
    ] {
        let theirs = rounds(peer);
        let judged = if over {
            ratios(&theirs, &ours)
        } else {
            ratios(&ours, &theirs)
        };
        let mut verdict = verdict(
            "P8",
            if over {
                "a test of `true`: times as fast"
            } else {
                "a test of `true`, isolated and measured"
            },
            own.clone(),
            format!("{peer}: {}", shown(Spread::of(theirs.iter().copied()), " ms")),
            judged,
            " ×",
            bar,
        );
        verdict.why = Spread::of(ours.iter().zip(&theirs).map(|(own, their)| own - their)).map(|more| {
            format!(
                "each takes {} ms more, in which it is claimed and ended durably ({} ms for an fsync) and kept apart",
                more.shown(),
                shown(fsync(results, Asked::Sandbox, 0.5), "")
            )
        });
        all.push(verdict);
    }
    all
}

fn server(results: &Results) -> Vec<Verdict> {
    let mut all = Vec::new();
    for (name, (first, next)) in &results.starts {
        let ready = Spread::of(next.iter().map(|start| start.ready_ms));
        let mut verdict_ready = verdict(
            "P10",
            format!("{name}: start to ready"),
            shown(ready, " ms"),
            format!(
                "its first start: {}",
                shown(Spread::of(first.iter().map(|start| start.ready_ms)), " ms")
            ),
            ready,
            " ms",
            Bar::AtMost(200.0),
        );
        verdict_ready.why = None;
        all.push(verdict_ready);
        let idle = Spread::of(next.iter().map(|start| start.idle_mb));
        all.push(verdict(
            "P10",
            format!("{name}: idle memory"),
            shown(idle, " MB"),
            String::new(),
            idle,
            " MB",
            Bar::AtMost(40.0),
        ));
    }
    if let Some(bytes) = results.server_bytes {
        let size = Spread::of([bytes as f64 / 1e6]);
        let bar = Bar::AtMost(60.0);
        all.push(verdict(
            "P10",
            "size of the program",
            shown(size, " MB"),
            String::new(),
            size,
            " MB",
            bar,
        ));
    }
    all
}

/// One percentile of each round of what was measured of sandboxes.
fn rounds(results: &Results, what: &str, share: f64) -> Vec<f64> {
    results
        .sandboxes
        .iter()
        .find(|(name, _)| *name == what)
        .map(|(_, rounds)| rounds.iter().map(|times| percentile(times, share)).collect())
        .unwrap_or_default()
}

/// Claims in a second that clients without a pause get together.
fn claims_per_second(results: &Results) -> Option<Spread> {
    let (_, flood) = results
        .sandboxes
        .iter()
        .find(|(name, _)| *name == CLAIM_SIM_FLOOD)?;
    let mean = |times: &Vec<f64>| times.iter().sum::<f64>() / times.len() as f64;
    Spread::of(flood.iter().map(|times| 1e3 * CLIENTS as f64 / mean(times)))
}

/// What a claim costs when it is alone, and how many the server makes when it is asked for as many as it can.
fn claim_reason(results: &Results, what: &str) -> Option<String> {
    let alone = Spread::of(rounds(results, CLAIM_SIM, 0.5))?;
    let per_second = claims_per_second(results)?;
    let queue = if what == CLAIM_SIM_FLOOD {
        format!(
            "; {CLIENTS} clients that never pause wait for each other, so that one claim takes as long as {CLIENTS} claims \
             of the server and the clients together, which share the same processors"
        )
    } else {
        String::new()
    };
    Some(format!(
        "a claim by one client takes {} ms, one durable commit in it; the server makes at most {} claims a second \
         here{queue}",
        number(alone.median),
        per_second.shown()
    ))
}

fn sandboxes(results: &Results) -> Vec<Verdict> {
    if results.sandboxes.is_empty() {
        return Vec::new();
    }
    let mut all = Vec::new();
    let fsyncs: Vec<f64> = results
        .fsyncs
        .get(&Asked::Sandbox)
        .map(|rounds| rounds.iter().map(|times| percentile(times, 0.5)).collect())
        .unwrap_or_default();
    for (what, clients) in [
        (CLAIM_SIM, "1 client"),
        (CLAIM_SIM_MANY, "64 clients with pauses"),
        (CLAIM_SIM_FLOOD, "64 clients without a pause"),
    ] {
        for (named, share, bar) in [("p50", 0.5, 2.0), ("p99", 0.99, 10.0)] {
            let own = rounds(results, what, share);
            let beyond = Spread::of(own.iter().zip(&fsyncs).map(|(own, fsync)| (own - fsync).max(0.0)));
            let mut claim = verdict(
                "P1",
                format!("claim of a warm sandbox over HTTP, {clients}: {named} beyond one fsync"),
                shown(Spread::of(own), " ms"),
                format!("fsync: {}", shown(Spread::of(fsyncs.iter().copied()), " ms")),
                beyond,
                " ms",
                Bar::AtMost(bar),
            );
            claim.why = claim_reason(results, what);
            all.push(claim);
        }
    }
    for (what, bar) in [(CLAIM_PROCESS, 15.0), (CLAIM_DOCKER, 25.0)] {
        let own = Spread::of(rounds(results, what, 0.5));
        let beside = if what == CLAIM_DOCKER {
            let start = Spread::of(rounds(results, START_DOCKER, 0.5));
            format!("{START_DOCKER}: {}", shown(start, " ms"))
        } else {
            String::new()
        };
        all.push(verdict(
            "P1",
            what,
            shown(own, " ms"),
            beside,
            own,
            " ms",
            Bar::AtMost(bar),
        ));
    }
    for (figure, what, peer, bar) in [
        ("P2", COLD_DOCKER, COLD_DOCKER_LIMIT, 1.1),
        ("P3", BOOT, BARE, 1.2),
        ("P3", RESTORE, BARE, 0.3),
    ] {
        let own = rounds(results, what, 0.5);
        let theirs = rounds(results, peer, 0.5);
        let mut cold = verdict(
            figure,
            what,
            shown(Spread::of(own.iter().copied()), " ms"),
            format!("{peer}: {}", shown(Spread::of(theirs.iter().copied()), " ms")),
            ratios(&own, &theirs),
            " ×",
            Bar::AtMost(bar),
        );
        let more = Spread::of(own.iter().zip(&theirs).map(|(own, peer)| own - peer));
        cold.why = more.map(|more| format!("it takes {} ms more than {peer}", more.shown()));
        all.push(cold);
    }
    // What was not asked for is no verdict.
    all.retain(|verdict| verdict.met.is_some());
    all
}

fn fleets(results: &Results) -> Vec<Verdict> {
    let [few, many] = &results.fleets[..] else {
        return Vec::new();
    };
    let one = |value| Spread::of([value]);
    let each = |fleet: &crate::fleet::Fleet| fleet.cpu_percent / fleet.sandboxes as f64;
    let count = number(many.sandboxes as f64);
    let mut cpu = verdict(
        "P9",
        format!("{count} idle sandboxes, checked every 10 s: processor"),
        shown(one(many.cpu_percent), " % of a core"),
        String::new(),
        one(many.cpu_percent),
        " %",
        Bar::AtMost(10.0),
    );
    cpu.why = Some(format!(
        "a check of one sandbox, with its share of all that goes on besides, takes {} µs",
        number(many.cpu_percent / 100.0 * 10.0 / many.sandboxes as f64 * 1e6)
    ));
    let memory = verdict(
        "P9",
        format!("{count} idle sandboxes: memory"),
        shown(one(many.resident_mb), " MB"),
        String::new(),
        one(many.resident_mb),
        " MB",
        Bar::AtMost(200.0),
    );
    let linear = verdict(
        "P9",
        "processor for each sandbox, many beside few",
        format!("{count}: {} % of a core", number(many.cpu_percent)),
        format!(
            "{}: {} % of a core",
            number(few.sandboxes as f64),
            number(few.cpu_percent)
        ),
        one(each(many) / each(few)),
        " ×",
        Bar::AtMost(1.2),
    );
    vec![cpu, memory, linear]
}

fn output(results: &Results) -> Vec<Verdict> {
    let mut all = Vec::new();
    for what in [LINE_RUN, LINE_EXEC] {
        let own = Spread::of(rounds(results, what, 0.99));
        let peer = Spread::of(rounds(results, LINE_DOCKER, 0.99));
        all.push(verdict(
            "P11",
            format!("{what}: p99"),
            shown(own, " ms"),
            format!("{LINE_DOCKER}: {}", shown(peer, " ms")),
            own,
            " ms",
            Bar::AtMost(20.0),
        ));
    }
    let rates = |what: &str| {
        let found = results.rates.iter().find(|(name, _)| *name == what);
        Spread::of(found.map(|(_, rounds)| rounds.clone()).unwrap_or_default())
    };
    for what in [BULK_RUN, BULK_EXEC] {
        let own = rates(what);
        let mut bulk = verdict(
            "P11",
            format!("{what}: bulk"),
            shown(own, " MB/s"),
            format!("{BULK_DOCKER}: {}", shown(rates(BULK_DOCKER), " MB/s")),
            own,
            " MB/s",
            Bar::AtLeast(100.0),
        );
        bulk.why = Some(
            "the program, the guest, the server and the reader, which takes JSON, share the processors of this machine"
                .to_owned(),
        );
        all.push(bulk);
    }
    all.retain(|verdict| verdict.met.is_some());
    all
}
