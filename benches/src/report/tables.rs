//! What was measured, contender by contender.

use super::{About, table};
use crate::bench::{Asked, Results};
use crate::contender::{Contender, OUR_POSTGRES, OUR_SQLITE};
use crate::stats::{Spread, number, percentile};
use serde_json::Value;
use std::fmt::Write;

fn shown(spread: Option<Spread>) -> String {
    spread.map_or_else(|| "–".to_owned(), |spread| spread.shown())
}

/// Medians of what each round's fsyncs took, milliseconds: p50 and p99.
pub(super) fn fsync(results: &Results, asked: Asked, share: f64) -> Option<Spread> {
    let rounds = results.fsyncs.get(&asked)?;
    Spread::of(rounds.iter().map(|times| percentile(times, share)))
}

pub(super) fn machine(about: &About, results: &Results) -> String {
    let mut rows: Vec<Vec<String>> = about
        .machine
        .iter()
        .map(|(name, value)| vec![(*name).to_owned(), value.clone()])
        .collect();
    let all: Vec<f64> = results.fsyncs.values().flatten().flatten().copied().collect();
    rows.push(vec![
        "Append of 4 KiB with fsync".to_owned(),
        format!(
            "{} ms p50, {} ms p99, of {} between the measurements",
            number(percentile(&all, 0.5)),
            number(percentile(&all, 0.99)),
            all.len()
        ),
    ]);
    rows.push(vec![
        "Busy before each measurement".to_owned(),
        format!(
            "{} % of the processors",
            shown(Spread::of(results.busy.iter().copied()))
        ),
    ]);
    format!(
        "## Machine\n\n{}\nEverything ran on it at once: the benchmark, the contender and the database. What others did \
         before a measurement is in the last line; on a quiet machine it is near 0.\n\n",
        table(&["", ""], &rows)
    )
}

/// The rows of the contenders that were asked, best first by `order`, a number where more is better.
fn ranked(
    about: &About,
    results: &Results,
    asked: Asked,
    order: &str,
    ascending: bool,
    row: impl Fn(&Contender) -> Vec<String>,
) -> Vec<Vec<String>> {
    let mut known: Vec<(f64, &Contender)> = about
        .contenders
        .iter()
        .filter_map(|c| Some((results.spread(asked, c.name, order)?.median, c)))
        .collect();
    known.sort_by(|a, b| a.0.total_cmp(&b.0));
    if !ascending {
        known.reverse();
    }
    known.into_iter().map(|(_, contender)| row(contender)).collect()
}

fn name(contender: &Contender) -> Vec<String> {
    let name = if contender.is_ours() {
        format!("**{}**", contender.name)
    } else {
        contender.name.to_owned()
    };
    let durable = if contender.kept.durable() { "yes" } else { "no" };
    vec![name, contender.kept.name().to_owned(), durable.to_owned()]
}

fn rounds(results: &Results, asked: Asked, name: &'static str) -> String {
    results.values(asked, name, "count").len().to_string()
}

pub(super) fn all(about: &About, results: &Results) -> String {
    let mut text = String::new();
    let spread = |asked, contender: &Contender, key: &str| shown(results.spread(asked, contender.name, key));
    let section = |text: &mut String, title: &str, words: &str, head: &[&str], rows: &[Vec<String>]| {
        if !rows.is_empty() {
            let _ = writeln!(text, "## {title}\n\n{words}\n\n{}", table(head, rows));
        }
    };

    let rows = ranked(about, results, Asked::Drain, "per_second", false, |c| {
        let mut row = name(c);
        row.extend([
            spread(Asked::Drain, c, "count"),
            spread(Asked::Drain, c, "enqueued_per_second"),
            spread(Asked::Drain, c, "drained_per_second"),
            spread(Asked::Drain, c, "per_second"),
            rounds(results, Asked::Drain, c.name),
        ]);
        row
    });
    section(
        &mut text,
        "P4, throughput",
        "Runs per second: enqueued in bulk, then drained until the store holds every one as ended. Ours has an executor \
         that claims, calls a handler that only counts, and writes the ends. The lines with *executor* are the product's \
         own, which gives every run a sandbox (of the sim driver), a log and an end of its own.",
        &[
            "",
            "store",
            "durable",
            "runs",
            "enqueued/s",
            "drained/s",
            "both/s",
            "rounds",
        ],
        &rows,
    );

    let rows = ranked(about, results, Asked::Many, "per_second", false, |c| {
        let mut row = name(c);
        row.extend([
            spread(Asked::One, c, "per_second"),
            spread(Asked::Many, c, "per_second"),
            rounds(results, Asked::Many, c.name),
        ]);
        row
    });
    section(
        &mut text,
        "P5, single enqueue",
        &format!(
            "Runs per second, each enqueued by a call of its own that returns when the run is kept. One fsync after the \
             other makes {} a second here.",
            shown(fsync(results, Asked::One, 0.5).map(Spread::inverse_of_milliseconds))
        ),
        &["", "store", "durable", "1 producer", "64 producers", "rounds"],
        &rows,
    );

    let rows = ranked(about, results, Asked::Idle, "p50_ms", true, |c| {
        let mut row = name(c);
        row.extend([
            spread(Asked::Idle, c, "p50_ms"),
            spread(Asked::Idle, c, "p99_ms"),
            spread(Asked::HalfLoad, c, "rate"),
            spread(Asked::HalfLoad, c, "p50_ms"),
            spread(Asked::HalfLoad, c, "p99_ms"),
        ]);
        row
    });
    section(
        &mut text,
        "P6, from the enqueue to the start",
        &format!(
            "Milliseconds from just before the enqueue to the start of the handler (the product's executor: to the end \
             of the run), one at a time and at half of what the queue can take, at most {} a second. An fsync with the \
             same pauses took {} ms (p50) and {} ms (p99), one after the other {} ms and {} ms.",
            crate::bench::HIGHEST_RATE,
            shown(fsync(results, Asked::Idle, 0.5)),
            shown(fsync(results, Asked::Idle, 0.99)),
            shown(fsync(results, Asked::HalfLoad, 0.5)),
            shown(fsync(results, Asked::HalfLoad, 0.99)),
        ),
        &[
            "", "store", "durable", "idle p50", "idle p99", "runs/s", "p50", "p99",
        ],
        &rows,
    );
    text += &dispatch(results);
    text += &starts(results);
    text += &sandboxes(results);
    text += &suites(results);
    text += &fleets(results);
    text += &rates(results);
    text
}

/// One number of each block of a queue.
pub(super) fn blocks(results: &Results, name: &'static str, queue: &str, key: &str) -> Vec<f64> {
    let line = results
        .lines
        .get(&(Asked::Dispatch, name))
        .and_then(|lines| lines.first()?.as_ref().ok());
    let of = |block: &Value| block[queue][key].as_f64().unwrap_or(f64::NAN);
    line.and_then(|line| line["blocks"].as_array())
        .map(|blocks| blocks.iter().map(of).collect())
        .unwrap_or_default()
}

fn dispatch(results: &Results) -> String {
    let mut rows = Vec::new();
    for contender in [OUR_SQLITE, OUR_POSTGRES] {
        for queue in ["short", "long"] {
            let value = |key| shown(Spread::of(blocks(results, contender, queue, key)));
            let line = results
                .lines
                .get(&(Asked::Dispatch, contender))
                .and_then(|lines| lines.first()?.as_ref().ok());
            let Some(line) = line else { continue };
            let waiting = if queue == "short" { "short" } else { "count" };
            let waiting = number(line[waiting].as_f64().unwrap_or(f64::NAN));
            rows.push(vec![
                contender.to_owned(),
                waiting,
                value("claim_ms"),
                value("ten_ms"),
                value("fresh_ms"),
            ]);
        }
    }
    if rows.is_empty() {
        return String::new();
    }
    format!(
        "## P7, dispatch from a short and from a long queue\n\nMilliseconds (medians of blocks of samples) with runs of 50 \
         classes waiting: the claim of one, the claim of ten, and a fresh run of high priority from its enqueue to its \
         claim.\n\n{}\n",
        table(&["", "waiting", "claim of 1", "claim of 10", "fresh run"], &rows)
    )
}

fn starts(results: &Results) -> String {
    let mut rows = Vec::new();
    for (name, (first, next)) in &results.starts {
        for (which, starts) in [("first, makes the database", first), ("next", next)] {
            rows.push(vec![
                (*name).to_owned(),
                which.to_owned(),
                shown(Spread::of(starts.iter().map(|start| start.ready_ms))),
                shown(Spread::of(starts.iter().map(|start| start.idle_mb))),
            ]);
        }
    }
    if rows.is_empty() {
        return String::new();
    }
    let size = results.server_bytes.map_or(f64::NAN, |bytes| bytes as f64 / 1e6);
    format!(
        "## P10, the server\n\nFrom the start of the process to the first answer of `/health`, and resident memory when \
         it was left alone. The program has {} MB.\n\n{}\n",
        number(size),
        table(&["", "start", "ready, ms", "idle, MB"], &rows)
    )
}

fn sandboxes(results: &Results) -> String {
    let rows: Vec<Vec<String>> = results
        .sandboxes
        .iter()
        .map(|(what, rounds)| {
            let spread = |share| Spread::of(rounds.iter().map(|times| percentile(times, share)));
            let samples: usize = rounds.iter().map(Vec::len).sum();
            vec![
                (*what).to_owned(),
                shown(spread(0.5)),
                shown(spread(0.99)),
                samples.to_string(),
            ]
        })
        .collect();
    if rows.is_empty() {
        return String::new();
    }
    format!(
        "## P1, P2, P3 and P11, sandboxes\n\nMilliseconds over HTTP, with the real guest program in every sandbox but those \
         of the sim driver. Claims: one client after another, and {} at once, which either pause between two claims (250 \
         ms on average, so that no queue builds up) or never do (so that what is measured is the throughput: each of them \
         waits for all others). Client and server share the processors of this machine. The best services publish 27 to \
         186 ms for a start. Virtual machines are emulated (TCG). Lines are 10 ms apart, and their age is that at the \
         reader.\n\n{}\n",
        crate::service::CLIENTS,
        table(&["", "p50", "p99", "samples"], &rows)
    )
}

fn suites(results: &Results) -> String {
    let mut runners: Vec<(f64, Vec<String>)> = results
        .suites
        .iter()
        .filter_map(|(runner, rounds)| {
            let spread = Spread::of(rounds.iter().copied())?;
            Some((spread.median, vec![(*runner).to_owned(), spread.shown()]))
        })
        .collect();
    runners.sort_by(|a, b| a.0.total_cmp(&b.0));
    let rows: Vec<Vec<String>> = runners.into_iter().map(|(_, row)| row).collect();
    if rows.is_empty() {
        return String::new();
    }
    format!(
        "## P8, tests that do nothing\n\nMilliseconds for each of 2,000 tests of `true`, two at a time. Ostler: submitted as a \
         plan over HTTP to the end of the last one, each in namespaces of its own with a file system that is thrown away, \
         what it writes kept, what it uses measured, its begin and its end durable. cargo-nextest: a compiled crate of empty \
         tests. pytest-xdist: tests that start `true`. xargs: `true` itself, with nothing kept. Buildbot: builds of `true`, \
         50 of them, from the first that is asked for to the end of the last.\n\n{}\n",
        table(&["", "ms"], &rows)
    )
}

fn fleets(results: &Results) -> String {
    let row = |fleet: &crate::fleet::Fleet| {
        vec![
            number(fleet.sandboxes as f64),
            number(fleet.cpu_percent),
            number(fleet.resident_mb),
            number(fleet.seconds),
        ]
    };
    let rows: Vec<Vec<String>> = results.fleets.iter().map(row).collect();
    if rows.is_empty() {
        return String::new();
    }
    format!(
        "## P9, many sandboxes at rest\n\nThe server's process with a full pool of the sim driver, the guests' side of every \
         connection included, as both are in it. Every sandbox is asked by a connection of its own every 10 s, the answer \
         is noted in the database, and its use is sampled every 60 s.\n\n{}\n",
        table(&["sandboxes", "% of a core", "MB", "measured for, s"], &rows)
    )
}

fn rates(results: &Results) -> String {
    let row = |(what, rounds): &(&str, Vec<f64>)| {
        vec![(*what).to_owned(), shown(Spread::of(rounds.iter().copied()))]
    };
    let rows: Vec<Vec<String>> = results.rates.iter().map(row).collect();
    if rows.is_empty() {
        return String::new();
    }
    format!(
        "## P11, bulk output\n\nMegabytes of output per second at the reader, from the first line to the last, none \
         missing.\n\n{}\n",
        table(&["", "MB/s"], &rows)
    )
}

/// What went wrong, so that a gap in a table is explained.
pub(super) fn failures(results: &Results) -> String {
    let mut text = String::new();
    for ((_, name), lines) in &results.lines {
        for error in lines.iter().filter_map(|line| line.as_ref().err()) {
            let _ = writeln!(text, "- {name}: {}", error.replace('\n', " "));
        }
    }
    for note in &results.notes {
        let _ = writeln!(text, "- {note}");
    }
    if text.is_empty() {
        return text;
    }
    format!("## What could not be measured\n\n{text}\n")
}

pub(super) fn commands(results: &Results) -> String {
    let lines = results.commands.join("\n");
    format!(
        "## Commands\n\nEach with an empty database. Settings of the peers, and why: `benches/peers/README.md`.\n\n\
         ```\n{lines}\n```\n"
    )
}
