//! What is shown of canned plans.

mod following;

use super::lines::Style;
use super::report::report;
use super::story::{Said, Story, Verdict};
use super::tail::Tail;
use crate::error::CliError;
use crate::table::Colour;
use ostler_contracts::{LogLine, PlanView, TestView, Time};
use ostler_domain::{PlanId, RunId, Timestamp};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;

/// 2026-01-01T00:00:00Z.
const BEGIN: i64 = 1_767_225_600_000_000;

fn at(milliseconds: i64) -> Timestamp {
    Timestamp(BEGIN + milliseconds * 1000)
}

fn merged(mut base: Value, more: &Value) -> Value {
    for (key, value) in more.as_object().unwrap() {
        base[key] = value.clone();
    }
    base
}

/// A test, the `index`th of its plan, in its first run; `more` says what is different.
#[expect(clippy::needless_pass_by_value, reason = "made where it is passed")]
pub(super) fn test(index: u32, name: &str, status: &str, more: Value) -> TestView {
    let base = json!({
        "run_id": RunId::from_u128(u128::from(index) + 1), "seq": index + 1, "name": name, "key": format!("{index:032x}"),
        "index": index, "status": status, "held": false, "ordinal": 1, "attempt": 1, "superseded": false, "flaky": false,
        "tolerated": false, "needs": [], "tags": [], "duration_us": null, "exit_code": null, "signal": null,
        "error": null, "failure": null, "kernel_end": null, "metrics": null, "cases": null, "artifacts": 0,
        "problems": [], "sandbox_id": null, "created_at": Time(at(0)), "started_at": null, "finished_at": null,
    });
    serde_json::from_value(merged(base, &more)).unwrap()
}

/// One that ran for a time.
#[expect(clippy::needless_pass_by_value, reason = "made where it is passed")]
pub(super) fn ended(index: u32, name: &str, status: &str, milliseconds: i64, more: Value) -> TestView {
    let ran = json!({
        "duration_us": milliseconds * 1000, "started_at": Time(at(1000)), "finished_at": Time(at(1000 + milliseconds)),
    });
    test(index, name, status, merged(ran, &more))
}

pub(super) fn plan(tests: usize) -> PlanView {
    serde_json::from_value(json!({
        "id": PlanId::from_u128(7), "name": "shop", "status": "running", "counters": {
            "queued": 0, "held": 0, "running": 0, "succeeded": 0, "failed": 0, "timed_out": 0, "cancelled": 0,
            "skipped": 0, "lost": 0, "tolerated": 0,
        },
        "tests": tests, "project_id": null, "branch": null, "fail_fast": false, "max_parallel": null, "labels": {},
        "cancel_requested": false, "created_by": null, "created_at": Time(at(0)), "finished_at": Time(at(12_345)),
    }))
    .unwrap()
}

/// Everything that can happen to a test.
pub(super) fn canned() -> Vec<TestView> {
    let failed = json!({ "exit_code": 1, "failure": "test" });
    vec![
        test(0, "adds", "running", json!({ "started_at": Time(at(1000)) })),
        ended(0, "adds", "succeeded", 5, json!({ "exit_code": 0 })),
        ended(
            1,
            "sub\x1b[2Jtracts",
            "failed",
            2500,
            merged(
                failed.clone(),
                &json!({
                    "cases": { "passed": 98, "failed": 2, "skipped": 1, "errors": 0 },
                    "problems": ["the report out.xml is not whole: line 3: unexpected end"],
                }),
            ),
        ),
        ended(
            2,
            "network",
            "failed",
            40,
            merged(failed.clone(), &json!({ "superseded": true })),
        ),
        ended(
            2,
            "network",
            "succeeded",
            61_000,
            json!({
                "exit_code": 0, "ordinal": 2, "flaky": true, "run_id": RunId::from_u128(99),
            }),
        ),
        ended(
            3,
            "sleeps",
            "timed_out",
            30_000,
            json!({ "signal": 9, "error": "it took longer than 30 s" }),
        ),
        ended(
            4,
            "known",
            "failed",
            7,
            merged(failed, &json!({ "tolerated": true })),
        ),
        test(
            5,
            "after subtracts",
            "skipped",
            json!({ "error": "`subtracts` did not pass" }),
        ),
        test(6, "late", "cancelled", json!({})),
        ended(
            7,
            "far away",
            "lost",
            900,
            json!({
                "failure": "infrastructure", "error": "its sandbox went away 3 times",
            }),
        ),
        ended(
            8,
            "boots",
            "failed",
            1234,
            json!({ "failure": "infrastructure", "kernel_end": "hang" }),
        ),
    ]
}

fn told(story: &mut Story, tests: Vec<TestView>) -> Vec<Said> {
    tests.into_iter().filter_map(|test| story.test_is(test)).collect()
}

fn shown(colour: Colour) -> String {
    let mut story = Story::new(9);
    let style = Style { colour, total: 9 };
    let mut text = style.started(&plan(9));
    for said in told(&mut story, canned()) {
        text.push_str(&style.said(&said));
    }
    text.push_str(&style.said(&Said::Slow {
        name: "network".to_owned(),
        elapsed: Duration::from_millis(60_900),
    }));
    text + &style.summary(&story.counts(), Duration::from_millis(12_345), story.tests())
}

#[test]
fn a_plan_is_shown() {
    insta::assert_snapshot!(shown(Colour::Off));
}

#[test]
fn colours_change_nothing_else() {
    let coloured = shown(Colour::On);
    insta::assert_snapshot!(coloured.escape_debug().to_string().replace("\\n", "\n"));
    assert_eq!(
        anstream::adapter::strip_str(&coloured).to_string(),
        shown(Colour::Off)
    );
}

#[test]
fn what_runs_is_shown_below() {
    let mut story = Story::new(30);
    told(&mut story, canned());
    for index in 10..16 {
        let started = json!({ "started_at": Time(at(i64::from(index) * 1000)) });
        story.test_is(test(index, &format!("runs {index}"), "running", started));
    }
    let style = Style {
        colour: Colour::Off,
        total: 30,
    };
    let running = story.running(at(75_500));
    let took = Duration::from_millis(75_500);
    let lines = style.frame(&story.counts(), &running, took, 4, Some("every sandbox is busy"));
    insta::assert_snapshot!(lines.join("\n"));
    let few = style.frame(&story.counts(), &running[..2], took, 4, None);
    assert_eq!(few.len(), 3, "{few:?}");
}

#[test]
fn nothing_is_said_twice_and_ends_are_final() {
    let mut story = Story::new(9);
    let first = told(&mut story, canned());
    assert_eq!(first.len(), 11);
    assert!(story.is_over());
    let counts = story.counts();
    assert_eq!(
        (counts.passed, counts.flaky, counts.failed, counts.lost),
        (2, 1, 1, 2)
    );
    assert_eq!(
        (
            counts.timed_out,
            counts.tolerated,
            counts.skipped,
            counts.cancelled
        ),
        (1, 1, 1, 1)
    );
    assert_eq!((counts.ended(), counts.running, counts.waiting), (9, 0, 0));
    // Again, and in any other order: nothing new.
    assert_eq!(told(&mut story, canned()), []);
    assert_eq!(told(&mut story, canned().into_iter().rev().collect()), []);
    assert_eq!(story.counts(), counts);
    assert_eq!(story.earlier("network").len(), 1);
    assert_eq!(story.earlier("adds").len(), 0);
}

#[test]
fn a_run_that_is_told_late_is_said_and_does_not_count() {
    let mut story = Story::new(9);
    let mut tests = canned();
    let earlier = tests.remove(3);
    told(&mut story, tests);
    let counts = story.counts();
    assert!(matches!(story.test_is(earlier), Some(Said::Retried(_))));
    assert_eq!(story.counts(), counts);
}

#[test]
fn a_test_that_is_tried_again_waits_until_then() {
    let mut story = Story::new(1);
    let retried = ended(0, "network", "failed", 40, json!({ "superseded": true }));
    assert!(matches!(story.test_is(retried), Some(Said::Retried(_))));
    assert_eq!(
        (story.counts().waiting, story.counts().ended(), story.is_over()),
        (1, 0, false)
    );
    // A sandbox goes away, and the same run is started once more.
    let again = |attempt| {
        test(
            0,
            "network",
            "running",
            json!({ "ordinal": 2, "attempt": attempt, "started_at": Time(at(0)) }),
        )
    };
    assert!(matches!(story.test_is(again(1)), Some(Said::Started(_))));
    assert_eq!(story.test_is(again(2)), None);
    assert_eq!(story.counts().running, 1);
    let passed = ended(
        0,
        "network",
        "succeeded",
        40,
        json!({ "ordinal": 2, "flaky": true }),
    );
    let said = story.test_is(passed);
    assert!(
        matches!(
            said,
            Some(Said::Ended {
                verdict: Verdict::Flaky,
                done: 1,
                ..
            })
        ),
        "{said:?}"
    );
    assert!(story.is_over());
}

#[test]
fn slow_tests_are_said_less_and_less_often() {
    let mut story = Story::new(2);
    let started = |index, name, from| test(index, name, "running", json!({ "started_at": Time(at(from)) }));
    told(&mut story, vec![started(0, "a", 0), started(1, "b", 30_000)]);
    let period = Duration::from_secs(60);
    let said: Vec<(i64, String)> = (0..=300)
        .flat_map(|second| {
            let said = story.slow(at(second * 1000), period);
            said.into_iter().filter_map(move |said| match said {
                Said::Slow { name, .. } => Some((second, name)),
                _ => None,
            })
        })
        .collect();
    let wanted = [
        (60, "a"),
        (90, "b"),
        (120, "a"),
        (150, "b"),
        (240, "a"),
        (270, "b"),
    ];
    let said: Vec<(i64, &str)> = said.iter().map(|(at, name)| (*at, name.as_str())).collect();
    assert_eq!(said, wanted);
}

#[test]
fn reports_say_all_of_it() {
    let mut story = Story::new(9);
    told(&mut story, canned());
    let mut tail = Tail::default();
    for (stream, text) in [("stdout", "2 != 3\n"), ("stderr", "panicked\n")] {
        tail.add(&LogLine {
            seq: 1,
            at: Time(at(0)),
            stream: stream.to_owned(),
            text: text.to_owned(),
            base64: false,
        });
    }
    let tails = BTreeMap::from([(RunId::from_u128(2), tail.clone()), (RunId::from_u128(3), tail)]);
    let report = report(&plan(9), &story, &tails, &BTreeMap::new());
    let counts = report.counts();
    assert_eq!(
        (
            counts.passed,
            counts.flaky,
            counts.failed,
            counts.skipped,
            counts.errors
        ),
        (2, 1, 2, 3, 2)
    );
    let mut xml = Vec::new();
    ostler_reports::write_junit(&report, &mut xml).unwrap();
    insta::assert_snapshot!(String::from_utf8(xml).unwrap());
}

#[test]
fn tests_are_named_exactly_or_by_a_part_that_no_other_has() {
    let tests = || {
        [
            "unit [shard=1/2]",
            "unit [shard=2/2]",
            "unit",
            "boot [kernel=6.1]",
        ]
    };
    let tests = || {
        (0..)
            .zip(tests())
            .map(|(index, name)| test(index, name, "queued", json!({})))
            .collect()
    };
    let named = |text: &str| super::named(tests(), text).map(|test| test.name);
    assert_eq!(named("unit").unwrap(), "unit");
    assert_eq!(named("6.1").unwrap(), "boot [kernel=6.1]");
    assert_eq!(named("=2/2").unwrap(), "unit [shard=2/2]");
    assert!(matches!(named("shard"), Err(CliError::Ambiguous { .. })));
    assert!(matches!(named("smoke"), Err(CliError::NotFound { .. })));
}

#[test]
fn a_test_with_cases_is_a_suite_of_its_own_and_told_twice_only_where_it_says_more() {
    let lines = |text: &str| {
        let limits = ostler_reports::Limits::default();
        ostler_reports::read(ostler_reports::Format::JsonLines, text.as_bytes(), &limits).report
    };
    let bad = r#"{"suite": "s", "name": "one", "outcome": "passed"}
{"class": "k", "name": "two", "outcome": "failed", "message": "no"}"#;
    let good = r#"{"name": "three", "outcome": "passed"}"#;
    let mut story = Story::new(4);
    let retried = json!({ "superseded": true });
    for view in [
        ended(0, "fails by a case", "failed", 10, json!({})),
        ended(1, "fails besides", "failed", 10, json!({ "exit_code": 3 })),
        ended(2, "flaky", "failed", 10, retried),
        ended(
            2,
            "flaky",
            "succeeded",
            10,
            json!({ "ordinal": 2, "flaky": true, "run_id": RunId::from_u128(9) }),
        ),
        ended(3, "plain", "succeeded", 10, json!({})),
    ] {
        story.test_is(view);
    }
    let cases = BTreeMap::from([
        (RunId::from_u128(1), lines(bad)),
        (RunId::from_u128(2), lines(good)),
        (RunId::from_u128(9), lines(good)),
    ]);
    let report = report(&plan(4), &story, &BTreeMap::new(), &cases);
    let suites: Vec<(&str, Vec<&str>)> = report
        .suites
        .iter()
        .map(|suite| {
            (
                suite.name.as_str(),
                suite.cases.iter().map(|case| case.name.as_str()).collect(),
            )
        })
        .collect();
    assert_eq!(
        suites,
        [
            ("shop", vec!["fails besides", "flaky", "plain"]),
            ("fails by a case", vec!["one", "two"]),
            ("fails besides", vec!["three"]),
            ("flaky", vec!["three"]),
        ]
    );
    let classes: Vec<_> = report.suites[1]
        .cases
        .iter()
        .map(|case| case.class.as_deref())
        .collect();
    assert_eq!(classes, [Some("s"), Some("k")]);
    let mut xml = Vec::new();
    ostler_reports::write_junit(&report, &mut xml).unwrap();
    let xml = String::from_utf8(xml).unwrap();
    assert!(xml.contains("<flakyFailure"), "{xml}");
}
