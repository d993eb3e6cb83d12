//! Reports as real tools write them. Those in `samples/` are the output of the tools themselves.

use ostler_reports::{Format, Limits, Outcome, Parsed, detect, read};

fn parse(format: Format, text: &str) -> Parsed {
    read(format, text.as_bytes(), &Limits::default())
}

/// `suite | class | name | outcome [type] message`, a line per case.
fn table(parsed: &Parsed) -> Vec<String> {
    parsed
        .report
        .cases()
        .map(|(suite, case)| {
            let reason = case.outcome.reason().cloned().unwrap_or_default();
            let mut line = format!("{} | {} | {}", suite.name, case.name, case.outcome.as_str());
            if let Some(kind) = reason.kind {
                line.push_str(" [");
                line.push_str(&kind);
                line.push(']');
            }
            if let Some(message) = reason.message {
                line.push(' ');
                line.push_str(message.lines().next().unwrap_or_default());
            }
            line
        })
        .collect()
}

fn check(format: Format, text: &str, expected: &[&str], error: Option<&str>) -> Parsed {
    let parsed = parse(format, text);
    assert_eq!(table(&parsed), expected, "{text}");
    assert_eq!(
        parsed.error.as_ref().map(ToString::to_string).as_deref(),
        error,
        "{text}"
    );
    parsed
}

const LIBTEST_JSON: &str = include_str!("samples/libtest.jsonl");
const LIBTEST: &str = include_str!("samples/libtest.txt");
const NEXTEST_JSON: &str = include_str!("samples/nextest.jsonl");
const NEXTEST: &str = include_str!("samples/nextest.xml");
const PYTEST: &str = include_str!("samples/pytest.xml");
const NODE: &str = include_str!("samples/node.tap");
const TEST_MORE: &str = include_str!("samples/test-more.tap");

#[test]
fn formats_are_detected() {
    for (text, format) in [
        (LIBTEST_JSON, Some(Format::LibtestJson)),
        (LIBTEST, Some(Format::LibtestText)),
        (NEXTEST_JSON, Some(Format::LibtestJson)),
        (NEXTEST, Some(Format::Junit)),
        (PYTEST, Some(Format::Junit)),
        (NODE, Some(Format::Tap)),
        (TEST_MORE, Some(Format::Tap)),
        (CONSOLE, Some(Format::Ktap)),
        ("[    0.1] TAP version 13\n[    0.2] 1..1\n", Some(Format::Ktap)),
        (
            "{\"name\":\"a\",\"outcome\":\"passed\"}\n",
            Some(Format::JsonLines),
        ),
        ("1..1\nok 1\n", Some(Format::Tap)),
        ("\u{feff}<?xml version='1.0'?><testsuite/>", Some(Format::Junit)),
        ("<html></html>", None),
        ("ok, said nobody\n", None),
        ("", None),
    ] {
        assert_eq!(detect(text.as_bytes()), format, "{}", &text[..text.len().min(60)]);
    }
}

#[test]
fn libtest_says_the_same_for_people_and_for_programs() {
    let expected = |left: &str| {
        [
            " | tests::bad | failed assertion `left == right` failed: no & <never>",
            " | tests::ign | skipped slow",
            " | tests::ok | passed",
            " | tests::res | failed Error: \"an err\"",
            " | tests::sp | passed",
            " | tests::sp2 | failed note: test did not panic as expected at src/lib.rs:11:32",
        ]
        .map(|line| format!("{left}{line}"))
    };
    let text = parse(Format::LibtestText, LIBTEST);
    assert_eq!(text.error, None);
    let mut got = table(&text);
    got[..6].sort();
    assert_eq!(got[..6], expected("src/lib.rs"));
    assert_eq!(
        got[6..],
        [
            "tests/it.rs | it | passed".to_owned(),
            "Doc-tests sample | src/lib.rs - f (line 1) | passed".to_owned(),
        ]
    );
    let bad = text
        .report
        .cases()
        .find(|(_, case)| case.name == "tests::bad")
        .unwrap()
        .1;
    assert!(bad.stdout.as_ref().unwrap().starts_with("before\n"));
    let last = text
        .report
        .cases()
        .find(|(_, case)| case.name == "tests::sp2")
        .unwrap()
        .1;
    assert_eq!(
        last.stdout.as_deref(),
        Some("note: test did not panic as expected at src/lib.rs:11:32")
    );

    let json = parse(Format::LibtestJson, LIBTEST_JSON);
    assert_eq!(json.error, None);
    let mut got = table(&json);
    got[..6].sort();
    let mut expected = expected("");
    expected[5] = " | tests::sp2 | failed test did not panic as expected at src/lib.rs:11:32".to_owned();
    assert_eq!(got[..6], expected);
    assert_eq!(json.report.suites.len(), 3);
    assert!(json.report.suites[0].duration.is_some());
}

#[test]
fn libtest_for_people_breaks_off_and_prints_past_the_capture() {
    let text = "running 3 tests\ntest a ... some words\nmore\nok\ntest b ... bench:       1,234 ns/iter (+/- 5) = 3 MB/s\n\
                test c ... ";
    let parsed = check(
        Format::LibtestText,
        text,
        &[
            " | a | passed",
            " | b | passed",
            " | c | error the test began and has no result",
        ],
        Some("line 6, column 1: expected the result of the test that began here, found none"),
    );
    assert_eq!(
        parsed.report.suites[0].cases[0].stdout.as_deref(),
        Some("some words\nmore\n")
    );
    assert_eq!(parsed.report.suites[0].cases[1].properties[0].value, "1234");
    check(
        Format::LibtestText,
        "running 2 tests\ntest a ... ok <0.500s>\nerror: process didn't exit successfully\n",
        &[" | a | passed"],
        Some("line 1, column 1: 2 tests were planned, 1 ran"),
    );
}

/// A test that prints the output of another run, as tests of cargo itself do.
#[test]
fn output_of_a_run_within_a_test_is_output() {
    let text = "running 1 test\ntest outer ... FAILED\n\nfailures:\n\n---- outer stdout ----\nrunning 1 test\n\
                test inner ... FAILED\n\nfailures:\n\n---- inner stdout ----\nx\n\nfailures:\n    inner\n\n\
                test result: FAILED. 0 passed; 1 failed; finished in 0.00s\n\nthread 'outer' panicked at a.rs:1:2:\n\
                it failed\n\n\nfailures:\n    outer\n\ntest result: FAILED. 0 passed; 1 failed; finished in 1.50s\n";
    let parsed = check(Format::LibtestText, text, &[" | outer | failed it failed"], None);
    let suite = &parsed.report.suites[0];
    assert!(suite.cases[0].stdout.as_ref().unwrap().ends_with("it failed"));
    assert_eq!(suite.duration.unwrap().as_millis(), 1500);
}

#[test]
fn libtest_events_of_a_program_that_crashed() {
    let text = r#"   Compiling x
{ "type": "suite", "event": "started", "test_count": 3 }
{ "type": "test", "event": "started", "name": "a" }
{ "type": "test", "event": "started", "name": "b" }
{"my": "own"}
{ "type": "test", "name": "a", "event": "ok", "exec_time": 0.5 }
{ "type": "bench", "name": "c", "median": 12.5, "deviation": 1 }
{ "type": "test", "na"#;
    check(
        Format::LibtestJson,
        text,
        &[" | a | passed", " | b | error the test began and has no result"],
        Some("line 8, column 21: expected an event of libtest, found EOF while parsing a string"),
    );
}

#[test]
fn nextest_events_with_tries() {
    let parsed = parse(Format::LibtestJson, NEXTEST_JSON);
    assert_eq!(parsed.error, None);
    let mut got = table(&parsed);
    got.sort();
    assert_eq!(
        got,
        [
            "sample::it | it | passed",
            "sample::sample | tests::bad | failed assertion `left == right` failed: no & <never>",
            "sample::sample | tests::ign | skipped",
            "sample::sample | tests::ok | passed",
            "sample::sample | tests::res | failed Error: \"an err\"",
            "sample::sample | tests::sp | passed",
            "sample::sample | tests::sp2 | failed note: test did not panic as expected at src/lib.rs:11:32",
        ]
    );
    let bad = parsed
        .report
        .cases()
        .find(|(_, case)| case.name == "tests::bad")
        .unwrap()
        .1;
    assert_eq!(bad.reruns.len(), 1);
}

#[test]
fn junit_of_nextest() {
    let parsed = parse(Format::Junit, NEXTEST);
    assert_eq!(parsed.error, None);
    assert_eq!(parsed.report.name.as_deref(), Some("nextest-run"));
    let counts = parsed.report.counts();
    assert_eq!((counts.passed, counts.failed), (3, 3));
    let bad = parsed
        .report
        .cases()
        .find(|(_, case)| case.name == "tests::bad")
        .unwrap()
        .1;
    assert_eq!(bad.class.as_deref(), Some("sample"));
    assert_eq!(bad.reruns.len(), 1);
    assert!(bad.reruns[0].duration.is_some() && bad.reruns[0].stdout.is_some());
    assert!(matches!(&bad.reruns[0].outcome, Outcome::Failed(reason) if reason.details.is_some()));
}

#[test]
fn junit_of_pytest() {
    let parsed = check(
        Format::Junit,
        PYTEST,
        &[
            "pytest | test_ok | passed",
            "pytest | test_bad | failed AssertionError: #x1B[31mred#x1B[0m <&> #x01",
            "pytest | test_skip | skipped [pytest.skip] not now",
            "pytest | test_xf | skipped [pytest.xfail] known",
            "pytest | test_err | error failed on setup with \"RuntimeError: setup\"",
            "pytest | test_p[a#b] | passed",
            "pytest | test_p[c d] | passed",
            "pytest | test_m | passed",
        ],
        None,
    );
    let cases = &parsed.report.suites[0].cases;
    assert_eq!(
        (
            cases[0].properties[0].name.as_str(),
            cases[0].properties[0].value.as_str()
        ),
        ("k", "v")
    );
    assert_eq!(cases[7].class.as_deref(), Some("test_s.TestC"));
}

#[test]
fn junit_of_surefire_googletest_and_others() {
    let surefire = r#"<?xml version="1.0"?><!DOCTYPE testsuite [<!ENTITY lol "lollollol">]>
<testsuite name="com.x.A" time="1,234.5" tests="3"><properties><property name="os" value="l"/></properties>
<testcase name="a" classname="com.x.A" time="0,25"><system-out><![CDATA[<raw> & ]]]]><![CDATA[>]]></system-out></testcase>
<testcase name="b" time="x"><flakyFailure message="m" type="t"><stackTrace>st</stackTrace><system-out>o</system-out></flakyFailure></testcase>
<testcase name="c"><error>&lol; a & b &#x41;</error></testcase>
<testsuite name="inner"><testcase classname="only"/></testsuite>
<testcase name="d"><failure message="1"/><failure message="2">two</failure><system-err>e</system-err></testcase>
</testsuite>"#;
    let parsed = check(
        Format::Junit,
        surefire,
        &[
            "com.x.A | a | passed",
            "com.x.A | b | passed",
            "com.x.A | c | error",
            "com.x.A | d | failed 1",
            "com.x.A/inner |  | passed",
        ],
        None,
    );
    let suite = &parsed.report.suites[0];
    assert_eq!(suite.duration.unwrap().as_millis(), 1_234_500);
    assert_eq!(suite.properties.len(), 1);
    assert_eq!(suite.cases[0].stdout.as_deref(), Some("<raw> & ]]>"));
    assert_eq!(suite.cases[0].duration.unwrap().as_millis(), 250);
    assert_eq!(suite.cases[1].reruns[0].stdout.as_deref(), Some("o"));
    assert_eq!(
        suite.cases[1].reruns[0]
            .outcome
            .reason()
            .unwrap()
            .details
            .as_deref(),
        Some("st")
    );
    assert_eq!(
        suite.cases[2].outcome.reason().unwrap().details.as_deref(),
        Some("&lol; a & b A")
    );
    assert_eq!(
        suite.cases[3].outcome.reason().unwrap().details.as_deref(),
        Some("2\ntwo")
    );
    assert_eq!(suite.cases[3].stderr.as_deref(), Some("e"));
    let warned: Vec<_> = parsed
        .report
        .warnings
        .iter()
        .map(|warning| (warning.line, warning.message.as_str()))
        .collect();
    assert_eq!(
        warned,
        [
            (4, "`x` is no number of seconds"),
            (5, "the entity `lol` is left as it is"),
            (6, "a case has no name"),
        ]
    );

    let googletest = r#"<testsuites tests="2"><testsuite name="S"><testcase name="T" status="run" result="completed"
 value_param="5" time="0."/><testcase name="DISABLED_U" status="notrun" result="suppressed"/></testsuite>
 <testsuite name="broken"><error message="no database"/></testsuite><testcase name="loose"/></testsuites>"#;
    check(
        Format::Junit,
        googletest,
        &[
            "S | T | passed",
            "S | DISABLED_U | skipped [suppressed]",
            "broken | broken | error no database",
            " | loose | passed",
        ],
        None,
    );
}

#[test]
fn junit_that_breaks_off() {
    check(
        Format::Junit,
        "<testsuites>\n<testsuite name='s'><testcase name='a'/>\n<testcase name='b'><system-out>x",
        &[
            "s | a | passed",
            "s | b | error the report breaks off within this case",
        ],
        Some("line 3, column 33: expected the ends of 4 elements, found the end of the document"),
    );
    let parsed = parse(
        Format::Junit,
        "<testsuite>\n<testcase name='a'/></testcase>\n<testcase name='b'/></testsuite>",
    );
    assert_eq!(table(&parsed), [" | a | passed"]);
    assert_eq!(parsed.error.unwrap().line, 2);
    check(
        Format::Junit,
        "<html/>",
        &[],
        Some("line 1, column 8: expected `<testsuites>` or `<testsuite>`, found the end of the document"),
    );
}

#[test]
fn tap_of_node_and_of_test_more() {
    let parsed = check(
        Format::Tap,
        NODE,
        &[
            " | adds | passed",
            " | fails # hash | failed [testCodeFailure] Expected values to be strictly equal:",
            " | skips | skipped no time",
            " | todo | skipped [testCodeFailure] later",
            "outer | in one | passed",
            "outer | in two | failed [testCodeFailure] boom",
        ],
        None,
    );
    let cases = &parsed.report.suites[0].cases;
    assert!(cases[0].duration.unwrap().as_nanos() > 0);
    assert!(
        cases[1]
            .outcome
            .reason()
            .unwrap()
            .details
            .as_ref()
            .unwrap()
            .starts_with("TestContext.")
    );
    let parsed = check(
        Format::Tap,
        TEST_MORE,
        &[
            " | first # hash | passed",
            " | second | failed",
            " | todo one | skipped [todo] later",
            " | test 5 | skipped no net",
            "inner | a | passed",
            "inner | b | failed",
        ],
        None,
    );
    let details = parsed.report.suites[0].cases[1]
        .outcome
        .reason()
        .unwrap()
        .details
        .as_deref();
    assert_eq!(details, Some("  Failed test 'second'\n  at t.t line 2."));
}

#[test]
fn tap_of_the_specifications() {
    for (text, expected, error) in [
        ("TAP version 14\n1..0 # skip no engine\n", &[][..], None),
        (
            "ok 1\nok 2\n1..2\n",
            &[" | test 1 | passed", " | test 2 | passed"],
            None,
        ),
        (
            "ok\nnoise\nok - x\n1..2\n",
            &[" | test 1 | passed", " | x | passed"],
            None,
        ),
        (
            "1..2\nok 1\n",
            &[" | test 1 | passed"],
            Some("line 1, column 1: 2 tests were planned, 1 ran"),
        ),
        (
            "ok 1\n",
            &[" | test 1 | passed"],
            Some("line 1, column 1: expected a plan (`1..N`), found the end of the report"),
        ),
        (
            "1..3\nok 1\nBail out! no disk\nok 2\n",
            &[" | test 1 | passed"],
            Some("line 3, column 1: the test program gave up: no disk"),
        ),
        // The result of a subtest says what its tests do not.
        (
            "1..3\n    1..2\n    ok 1 - a\nok 1 - s\n    1..1\n    ok 1 - b\nnot ok 2 - t\n    1..0 # skip why\nok 3 - u\n",
            &[
                " | u | skipped why",
                "s | a | passed",
                "s | s | error 2 tests were planned, 1 ran",
                "t | b | passed",
                "t | t | failed",
            ],
            None,
        ),
        (
            "1..1\n        ok 1 - leaf\n        1..1\n    ok 1 - mid\n    1..1\nok 1 - top\n",
            &["top/mid | leaf | passed"],
            None,
        ),
        (
            "1..1\n    not ok 1 - x\n    1..1\nnot ok 1 - s # TODO soon\n",
            &["s | x | skipped [todo] soon"],
            None,
        ),
        (
            "1..1\n# Subtest: gone\n    ok 1 - x\n    1..1\n",
            &["gone | x | passed"],
            Some("line 3, column 1: expected the result of the subtest that begins here, found none"),
        ),
        (
            "TAP version 13\n1..1\nnot ok 1 - y\n  ---\n  message: 'it''s'\n  data:\n    got: 1\n  ...\n",
            &[" | y | failed it's"],
            None,
        ),
    ] {
        check(Format::Tap, text, expected, error);
    }
    let strict = parse(
        Format::Tap,
        "pragma +strict\nwhat\n1..1\nok 5 - x # time=12.5ms\n",
    );
    assert_eq!(strict.report.warnings.len(), 2);
    assert_eq!(
        strict.report.suites[0].cases[0].duration.unwrap().as_micros(),
        12_500
    );
}

const CONSOLE: &str = "\
[    0.000000] Linux version 6.1.0 (gcc)\r
Welcome!\r
ok this is noise\r
[    2.100000] KTAP version 1\r
[    2.100001] 1..3\r
[    2.100002]     KTAP version 1\r
[    2.100003]     # Subtest: example\r
[    2.100004]     1..3\r
[    2.100005]     ok 1 example_simple_test\r
random: crng init done\r
[    2.100006]     # example_bad: EXPECTATION FAILED at lib/example.c:12\r
[    2.100007]     Expected 1 == 2\r
[    2.100008]     not ok 2 example_bad\r
[    2.100009]         KTAP version 1\r
[    2.100010]         # Subtest: example_params\r
[    2.100011]         ok 1 value 3\r
[    2.100012]         ok 2 value 2 # SKIP unsupported\r
[    2.100013]     # example_params: pass:1 fail:0 skip:1 total:2\r
[    2.100014]     ok 3 example_params\r
[    2.100015] # example: pass:2 fail:1 skip:0 total:3\r
[    2.100016] not ok 1 example\r
[    2.100017] ok 2 alone # XFAIL known\r
";

#[test]
fn ktap_in_the_middle_of_a_console() {
    let expected = [
        " | alone | skipped [xfail] known",
        "example | example_simple_test | passed",
        "example | example_bad | failed",
        "example/example_params | value 3 | passed",
        "example/example_params | value 2 | skipped unsupported",
    ];
    let whole = format!("{CONSOLE}[    3.0] not ok 3 last # exit=1\r\n[   4.0] reboot: Power down\r\n");
    let mut all = expected.to_vec();
    all.insert(1, " | last | failed exit=1");
    let parsed = check(Format::Ktap, &whole, &all, None);
    let bad = &parsed.report.suites[1].cases[1];
    let details = bad.outcome.reason().unwrap().details.as_deref();
    assert_eq!(
        details,
        Some("example_bad: EXPECTATION FAILED at lib/example.c:12")
    );
    // The kernel panicked.
    let panicked = format!("{CONSOLE}[    3.0] Kernel panic - not syncing\r\n");
    check(
        Format::Ktap,
        &panicked,
        &expected,
        Some("line 5, column 1: 3 tests were planned, 2 ran"),
    );
    check(
        Format::Ktap,
        "[    0.0] Linux\n[    1.0] Kernel panic\n",
        &[],
        Some("line 2, column 1: expected `KTAP version 1`, found the end of the report"),
    );
}

/// The runner of the kernel's selftests comments out what a program says and adds a result.
#[test]
fn ktap_of_the_runner_of_selftests() {
    let text = "TAP version 13\n1..4\n# timeout set to 45\n# selftests: net: a\n# TAP version 13\n# 1..2\n# ok 1 one\n\
                # # Totals: pass:1\n# not ok 2 two\nnot ok 1 selftests: net: a # exit=1\n# selftests: net: b\n\
                # TAP version 13\n# 1..3\n# ok 1 one\n#\nnot ok 2 selftests: net: b # TIMEOUT 45 seconds\n\
                # TAP version 13\n# Bail out! no root\nnot ok 3 selftests: net: c # exit=1\nok 4 # SKIP old way\n";
    check(
        Format::Ktap,
        text,
        &[
            " | selftests: net: c | failed exit=1",
            " | old way | skipped old way",
            "selftests: net: a | one | passed",
            "selftests: net: a | two | failed",
            "selftests: net: b | one | passed",
            "selftests: net: b | selftests: net: b | failed [timeout] 45 seconds",
        ],
        None,
    );
}

#[test]
fn limits_end_a_report_and_say_so() {
    let limits = Limits {
        cases: 2,
        suites: 2,
        field: 8,
        name: 4,
        depth: 3,
    };
    let many = "1..3\nok 1 - abcdefgh\nok 2\nok 3\n";
    let parsed = read(Format::Tap, many.as_bytes(), &limits);
    assert_eq!(parsed.report.suites[0].cases[0].name, "abcd");
    assert_eq!(parsed.report.counts().passed, 2);
    assert_eq!(
        parsed.error.unwrap().to_string(),
        "line 4, column 1: more than 2 cases: raise the limit or split the report"
    );
    let deep = "<testsuite><testsuite><testsuite><testcase name='x'/></testsuite></testsuite></testsuite>";
    let parsed = read(
        Format::Junit,
        deep.as_bytes(),
        &Limits {
            suites: 9,
            ..limits.clone()
        },
    );
    assert!(
        parsed
            .error
            .unwrap()
            .to_string()
            .contains("more than 3 elements within one another")
    );
    let long = "<testsuite><testcase name='x'><failure>0123456é789</failure></testcase></testsuite>";
    let parsed = read(Format::Junit, long.as_bytes(), &Limits { depth: 9, ..limits });
    let details = parsed.report.suites[0].cases[0]
        .outcome
        .reason()
        .unwrap()
        .details
        .clone();
    assert_eq!(details.as_deref(), Some("0123456"));
    assert_eq!(parsed.report.warnings.len(), 1);
}
