//! What holds for any report and for any bytes.

#![allow(clippy::unwrap_used, reason = "test code")]

use ostler_reports::{
    Case, Format, Limits, Outcome, Property, Reason, Report, Rerun, Suite, detect, read, write_json_lines,
    write_junit, write_tap,
};
use proptest::collection::vec;
use proptest::prelude::*;
use std::time::{Duration, Instant};

const FORMATS: [Format; 6] = [
    Format::Junit,
    Format::Tap,
    Format::Ktap,
    Format::LibtestJson,
    Format::LibtestText,
    Format::JsonLines,
];

/// Any characters, and often those that mean something to one of the formats.
fn text() -> impl Strategy<Value = String> {
    let special = prop::sample::select(vec![
        "\n",
        "\r",
        "\t",
        " ",
        "#",
        "\\",
        "\"",
        "'",
        "&",
        "<",
        ">",
        "]]>",
        "\u{1b}[31m",
        "\u{1b}]0;",
        "\u{7}",
        "\0",
        "---",
        "...",
        "# SKIP",
        "# TODO x",
        "1..2",
        "ok 1",
        "    ",
        ": ",
        "|",
        "[",
        "~",
        "\u{fffe}",
        "\u{2028}",
        "\u{85}",
        "&amp;",
        "é",
    ]);
    vec(
        prop_oneof![
            special.prop_map(str::to_owned),
            "[a-z]{1,4}",
            any::<char>().prop_map(String::from)
        ],
        0..8,
    )
    .prop_map(|parts| parts.concat())
}

fn some_text() -> impl Strategy<Value = Option<String>> {
    prop::option::of(text())
}

fn duration() -> impl Strategy<Value = Option<Duration>> {
    prop::option::of((0..1_000_000_u64, 0..1_000_000_000_u32).prop_map(|(s, n)| Duration::new(s, n)))
}

fn reason() -> impl Strategy<Value = Reason> {
    (some_text(), some_text(), some_text()).prop_map(|(message, kind, details)| Reason {
        message,
        kind,
        details,
    })
}

fn outcome() -> impl Strategy<Value = Outcome> {
    prop_oneof![
        Just(Outcome::Passed),
        reason().prop_map(Outcome::Failed),
        reason().prop_map(Outcome::Skipped),
        reason().prop_map(Outcome::Error),
        text().prop_map(|message| Outcome::Skipped(Reason {
            message: Some(message),
            kind: Some("todo".into()),
            details: None
        })),
    ]
}

fn property() -> impl Strategy<Value = Property> {
    (text(), text()).prop_map(|(name, value)| Property { name, value })
}

fn rerun() -> impl Strategy<Value = Rerun> {
    let outcome = prop_oneof![
        reason().prop_map(Outcome::Failed),
        reason().prop_map(Outcome::Error)
    ];
    (outcome, duration(), some_text(), some_text()).prop_map(|(outcome, duration, stdout, stderr)| Rerun {
        outcome,
        duration,
        stdout,
        stderr,
    })
}

fn case() -> impl Strategy<Value = Case> {
    let names = (text(), some_text());
    let output = (some_text(), some_text());
    (
        names,
        outcome(),
        duration(),
        output,
        vec(property(), 0..3),
        vec(rerun(), 0..3),
    )
        .prop_map(
            |((name, class), outcome, duration, (stdout, stderr), properties, reruns)| Case {
                name,
                class,
                outcome,
                duration,
                stdout,
                stderr,
                properties,
                reruns,
            },
        )
}

fn suite() -> impl Strategy<Value = Suite> {
    (
        text(),
        duration(),
        vec(property(), 0..3),
        some_text(),
        some_text(),
        vec(case(), 1..4),
    )
        .prop_map(|(name, duration, properties, stdout, stderr, cases)| Suite {
            name,
            duration,
            properties,
            stdout,
            stderr,
            cases,
        })
}

/// At most one suite has no name, and it is the first one, as all formats put it.
fn report() -> impl Strategy<Value = Report> {
    (some_text(), vec(suite(), 0..4)).prop_map(|(name, mut suites)| {
        for (number, suite) in suites.iter_mut().enumerate().skip(1) {
            suite.name = format!("{number} {}", suite.name);
        }
        Report {
            name,
            suites,
            warnings: Vec::new(),
        }
    })
}

/// Every text of a report, changed.
fn each_text(report: &mut Report, change: &dyn Fn(&mut String)) {
    let each = |text: &mut Option<String>| {
        if let Some(text) = text {
            change(text);
        }
    };
    let of = |outcome: &mut Outcome| {
        if let Outcome::Failed(reason) | Outcome::Skipped(reason) | Outcome::Error(reason) = outcome {
            each(&mut reason.message);
            each(&mut reason.kind);
            each(&mut reason.details);
        }
    };
    let pairs = |properties: &mut Vec<Property>| {
        for property in properties {
            change(&mut property.name);
            change(&mut property.value);
        }
    };
    each(&mut report.name);
    for suite in &mut report.suites {
        change(&mut suite.name);
        pairs(&mut suite.properties);
        each(&mut suite.stdout);
        each(&mut suite.stderr);
        for case in &mut suite.cases {
            change(&mut case.name);
            each(&mut case.class);
            of(&mut case.outcome);
            each(&mut case.stdout);
            each(&mut case.stderr);
            pairs(&mut case.properties);
            for rerun in &mut case.reruns {
                of(&mut rerun.outcome);
                each(&mut rerun.stdout);
                each(&mut rerun.stderr);
            }
        }
    }
}

/// What XML cannot say: some characters, and the difference between nothing and an empty text.
fn as_xml(report: &mut Report) {
    each_text(report, &|text| {
        text.retain(
            |c| !matches!(c, '\0'..='\x08' | '\x0b' | '\x0c' | '\x0e'..='\x1f' | '\u{fffe}' | '\u{ffff}'),
        );
    });
    let filled = |text: &mut Option<String>| *text = text.take().filter(|text| !text.is_empty());
    let details = |outcome: &mut Outcome| {
        if let Outcome::Failed(reason) | Outcome::Skipped(reason) | Outcome::Error(reason) = outcome {
            reason.details = reason.details.take().filter(|details| !details.trim().is_empty());
        }
    };
    filled(&mut report.name);
    for suite in &mut report.suites {
        filled(&mut suite.stdout);
        filled(&mut suite.stderr);
        for case in &mut suite.cases {
            filled(&mut case.class);
            filled(&mut case.stdout);
            filled(&mut case.stderr);
            details(&mut case.outcome);
            for rerun in &mut case.reruns {
                filled(&mut rerun.stdout);
                filled(&mut rerun.stderr);
                if let Outcome::Failed(reason) | Outcome::Error(reason) = &mut rerun.outcome {
                    filled(&mut reason.details);
                }
            }
        }
    }
}

fn xml_of(report: &Report) -> Vec<u8> {
    let mut bytes = Vec::new();
    write_junit(report, &mut bytes).unwrap();
    bytes
}

fn tap_of(report: &Report) -> Vec<u8> {
    let mut bytes = Vec::new();
    write_tap(report, &mut bytes).unwrap();
    bytes
}

fn json_of(report: &Report) -> Vec<u8> {
    let mut bytes = Vec::new();
    write_json_lines(report, &mut bytes).unwrap();
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn junit_is_read_as_it_was_written(mut report in report()) {
        // Commands for terminals are taken out before: which text is one, is a test of its own.
        each_text(&mut report, &|text| *text = text.replace('\u{1b}', ""));
        let bytes = xml_of(&report);
        let parsed = read(Format::Junit, &bytes, &Limits::default());
        prop_assert_eq!(parsed.error, None);
        as_xml(&mut report);
        prop_assert_eq!(parsed.report, report, "{}", String::from_utf8_lossy(&bytes));
    }

    /// An independent reader of the same format agrees about cases and counts, also with commands in the texts.
    #[test]
    fn junit_is_read_by_another_tool(mut report in report()) {
        // quick-junit does not know references to characters in text, which XML has for a carriage return alone.
        each_text(&mut report, &|text| *text = text.replace('\r', ""));
        // Nor does it know a case that was skipped after tries.
        for case in report.suites.iter_mut().flat_map(|suite| &mut suite.cases) {
            if let Outcome::Skipped(_) = case.outcome {
                case.reruns.clear();
            }
        }
        let bytes = xml_of(&report);
        let other = quick_junit::Report::deserialize(bytes.as_slice()).unwrap();
        let counts = report.counts();
        prop_assert_eq!((other.tests, other.failures, other.errors, other.skipped),
            (counts.total(), counts.failed, counts.errors, counts.skipped));
        for (other, suite) in other.test_suites.iter().zip(&report.suites) {
            prop_assert_eq!(other.test_cases.len(), suite.cases.len());
        }
    }

    #[test]
    fn tap_is_read_as_it_was_written(mut report in report()) {
        let bytes = tap_of(&report);
        prop_assert_eq!(detect(&bytes), Some(Format::Tap));
        let parsed = read(Format::Tap, &bytes, &Limits::default());
        prop_assert_eq!(parsed.error, None, "{}", String::from_utf8_lossy(&bytes));
        report.name = None;
        for suite in &mut report.suites {
            if suite.name.is_empty() {
                *suite = Suite { cases: std::mem::take(&mut suite.cases), ..Suite::default() };
            }
            for case in &mut suite.cases {
                if let Outcome::Skipped(reason) = &mut case.outcome {
                    // A directive without a text says as much as one with an empty text.
                    reason.message = reason.message.take().filter(|message| !message.is_empty());
                }
            }
        }
        let mut got = parsed.report;
        for case in got.suites.iter_mut().flat_map(|suite| &mut suite.cases) {
            if let Outcome::Skipped(reason) = &mut case.outcome {
                reason.message = reason.message.take().filter(|message| !message.is_empty());
            }
        }
        prop_assert_eq!(got, report, "{}", String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn json_lines_are_read_as_they_were_written(report in report()) {
        let bytes = json_of(&report);
        let parsed = read(Format::JsonLines, &bytes, &Limits::default());
        prop_assert_eq!(parsed.error, None);
        let got: Vec<_> = parsed.report.cases().map(|(suite, case)| (&suite.name, case)).collect();
        let expected: Vec<_> = report.cases().map(|(suite, case)| (&suite.name, case)).collect();
        prop_assert_eq!(got, expected);
    }

    #[test]
    fn no_bytes_make_a_reader_panic(bytes in vec(any::<u8>(), 0..400)) {
        let _ = detect(&bytes);
        for format in FORMATS {
            let _ = read(format, &bytes, &Limits::default());
        }
    }

    /// Lines that mean something to one of the formats, in any order and with any indentation.
    #[test]
    fn no_lines_make_a_reader_panic(lines in vec((0..20_usize, any::<prop::sample::Index>(), text()), 0..60)) {
        let mut document = String::new();
        for (indent, index, text) in &lines {
            document.push_str(&" ".repeat(*indent));
            document.push_str(PIECES[index.index(PIECES.len())]);
            document.push_str(text);
            document.push('\n');
        }
        for format in FORMATS {
            let parsed = read(format, document.as_bytes(), &Limits::default());
            // The kernel's reader begins with a version, any other with the first line.
            let parsed_kernel = read(format, format!("KTAP version 1\n{document}").as_bytes(), &Limits::default());
            prop_assert!(parsed.report.counts().total() <= lines.len() * 4 + 4);
            prop_assert!(parsed_kernel.report.counts().total() <= lines.len() * 4 + 8);
        }
    }

    /// A document with a piece cut out, doubled or changed: the cases in front of that place are still there.
    #[test]
    fn a_broken_document_keeps_its_cases(report in report(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        for (format, bytes) in [
            (Format::Junit, xml_of(&report)), (Format::Tap, tap_of(&report)), (Format::JsonLines, json_of(&report)),
        ] {
            if bytes.is_empty() {
                continue;
            }
            let at = at.index(bytes.len());
            let mut changed = bytes.clone();
            changed[at] = byte;
            let _ = read(format, &changed, &Limits::default());
            let mut doubled = bytes.clone();
            doubled.extend_from_slice(&bytes[at..]);
            let _ = read(format, &doubled, &Limits::default());
            let cut = &bytes[..at];
            let parsed = read(format, cut, &Limits::default());
            let whole = match format {
                Format::Junit => count(cut, b"</testcase>") + count(cut, b"\"/>\n    <testcase"),
                Format::JsonLines => count(cut, b"\n"),
                _ => 0,
            };
            prop_assert!(parsed.report.counts().total() >= whole);
            // Only the last new line can be missing without harm.
            let ended = matches!(format, Format::JsonLines) && cut.last().is_none_or(|b| matches!(b, b'\n' | b'}'));
            if at + 1 < bytes.len() && format == Format::Junit {
                prop_assert!(parsed.error.is_some());
            }
            if format == Format::JsonLines && !ended {
                prop_assert!(parsed.error.is_some());
            }
        }
    }
}

fn count(bytes: &[u8], piece: &[u8]) -> usize {
    bytes
        .windows(piece.len())
        .filter(|window| *window == piece)
        .count()
}

const PIECES: [&str; 34] = [
    "",
    "ok ",
    "ok 1 - ",
    "not ok 2 ",
    "1..3",
    "1..0 # SKIP ",
    "# ",
    "# Subtest: ",
    "TAP version 14",
    "TAP version 13",
    "KTAP version 1",
    "# TAP version 13",
    "Bail out! ",
    "---",
    "...",
    "message: ",
    "stdout: |",
    "pragma +strict",
    "[    1.000000] ok 3 ",
    "running 3 tests",
    "test a ... ok",
    "test b ... ",
    "test b ... FAILED",
    "failures:",
    "---- b stdout ----",
    "b",
    "test result: FAILED. ",
    "{\"type\":\"suite\",\"event\":\"started\",\"test_count\":2}",
    "{\"type\":\"test\",\"event\":\"started\",\"name\":\"x\"}",
    "{\"type\":\"test\",\"event\":\"failed\",\"name\":\"x\"}",
    "<testsuite name='x'>",
    "<testcase name='y'>",
    "</testcase>",
    "<failure>",
];

/// Input of a size that takes a fraction of a second in linear time and minutes in quadratic time, for each place where a
/// reader looks ahead or back.
#[test]
fn no_input_takes_quadratic_time() {
    const SIZE: usize = 1 << 19;
    let repeated = |piece: &str| piece.repeat(SIZE / piece.len());
    let documents = [
        ("escapes", repeated("\u{1b}]")),
        ("attributes", format!("<testsuite {}>", repeated("a='1' "))),
        ("open elements", repeated("<testsuite name='abcdefgh'>")),
        (
            "small suites",
            format!(
                "<testsuite name='{}'>{}",
                "n".repeat(1000),
                repeated("<testsuite name='a'><testcase/></testsuite>")
            ),
        ),
        (
            "references",
            format!("<testsuite><testcase><failure message='{0}'>{0}", repeated("&")),
        ),
        (
            "entities",
            format!("<testsuite><testcase><failure>{}", repeated("&x;")),
        ),
        (
            "document type",
            format!("<!DOCTYPE a [{}", repeated("<!ENTITY a \"&a;&a;\">")),
        ),
        ("comment", format!("<testsuite><!--{}", repeated("-"))),
        (
            "text pieces",
            format!("<testsuite><testcase><system-out>{}", repeated("<![CDATA[a]]>")),
        ),
        (
            "results",
            format!("TAP version 13\n{}", repeated("not ok\n# x\n")),
        ),
        ("comments", format!("KTAP version 1\n{}", repeated("# x\n"))),
        ("hashes", format!("1..1\nok 1 {}", repeated(" #"))),
        ("subtests", repeated("    ok 1\nok 1\n")),
        (
            "stairs",
            repeated("ok\n    ok\n        ok\n            ok\n                ok\n"),
        ),
        ("spaces", format!("KTAP version 1\n{}", repeated("  "))),
        ("block", format!("ok 1\n  ---\n{}", repeated("  a: |\n   b\n"))),
        ("names", format!("running 9 tests\n{}", repeated("test a ... "))),
        ("runs", repeated("running 1 test\n")),
        (
            "lists",
            format!(
                "running 1 test\ntest a ... FAILED\nfailures:\n---- a stdout ----\n{}",
                repeated("failures:\n    a\n")
            ),
        ),
        (
            "events",
            repeated("{\"type\":\"test\",\"event\":\"started\",\"name\":\"a\"}\n"),
        ),
        (
            "dollars",
            repeated("{\"type\":\"test\",\"event\":\"ok\",\"name\":\"a::b$c#9999999\"}\n"),
        ),
        ("nested", repeated("{\"type\":")),
        ("brackets", repeated("[")),
    ];
    for (what, document) in documents {
        for format in FORMATS {
            let start = Instant::now();
            let _ = detect(document.as_bytes());
            let parsed = read(format, document.as_bytes(), &Limits::default());
            // Quadratic work takes minutes here, linear work less than a second; the machine may be busy.
            assert!(
                start.elapsed() < Duration::from_secs(20),
                "{what} as {format:?}: {:?}",
                start.elapsed()
            );
            drop(parsed);
        }
    }
}

#[test]
fn commands_for_terminals_are_not_in_xml() {
    let message =
        "\u{1b}[1;31merror\u{1b}[0m:\ttab \u{1b}]8;;http://h\u{1b}\\link\u{1b}]8;;\u{1b}\\ \u{1b}]open"
            .to_owned();
    let outcome = Outcome::Failed(Reason {
        message: Some(message),
        ..Reason::default()
    });
    let suite = Suite {
        cases: vec![Case {
            outcome,
            ..Case::default()
        }],
        ..Suite::default()
    };
    let bytes = xml_of(&Report {
        suites: vec![suite],
        ..Report::default()
    });
    let parsed = read(Format::Junit, &bytes, &Limits::default());
    let message = parsed.report.suites[0].cases[0]
        .outcome
        .reason()
        .unwrap()
        .message
        .as_deref();
    assert_eq!(message, Some("error:\ttab link open"));
}
