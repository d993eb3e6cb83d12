//! Plans that are wrong, and the exact words that people get.

use ostler_plans::{Format, Plan};
use std::fmt::Write;

fn told(format: Format, text: &str) -> String {
    match Plan::parse(text, format) {
        Ok(plan) => panic!("this is a good plan with {} tests:\n{text}", plan.tests.len()),
        Err(errors) => errors.to_string(),
    }
}

/// A test with these fields, at line 2.
fn test(fields: &str) -> String {
    format!("name: p\ntests: [{{name: t, run: x, {fields}}}]")
}

/// Tests, one a line from line 3.
fn tests(lines: &[&str]) -> String {
    format!("name: p\ntests:\n- {}", lines.join("\n- "))
}

fn table(cases: &[(&str, Format, String)]) -> String {
    let mut all = String::new();
    for (what, format, text) in cases {
        writeln!(all, "## {what} ({format:?})\n{}\n", told(*format, text)).expect("texts can be written to");
    }
    all
}

#[test]
fn form() {
    use Format::{Json, Toml, Yaml};
    let cases = [
        ("empty", Toml, String::new()),
        ("empty", Yaml, String::new()),
        ("empty", Json, String::new()),
        ("syntax", Toml, "name = 'p'\ntests = [\n  {name = }\n]\n".into()),
        ("syntax", Yaml, "name: p\ntests:\n  - {name: a\n".into()),
        ("syntax", Json, "{\"name\": \"p\",\n \"tests\": [,]}".into()),
        ("not a table", Yaml, "- a\n- b\n".into()),
        (
            "unknown field",
            Toml,
            "name = 'p'\n[[tests]]\nname = 't'\nrun = 'x'\ntimout = 3\n".into(),
        ),
        (
            "unknown field",
            Yaml,
            "name: p\ntests:\n- name: t\n  run: x\n  timout: 3\n".into(),
        ),
        (
            "unknown field",
            Json,
            "{\"name\": \"p\", \"tests\": [\n  {\"name\": \"t\", \"run\": \"x\",\n   \"timout\": 3}]}".into(),
        ),
        (
            "nothing is near",
            Yaml,
            "name: p\ntests: []\nqqqqqqqqqqqq: 1\n".into(),
        ),
        ("duplicate key", Toml, "name = 'p'\nname = 'q'\n".into()),
        (
            "duplicate key",
            Yaml,
            "name: p\ntests:\n- name: t\n  run: x\n  name: u\n".into(),
        ),
        (
            "duplicate key",
            Json,
            "{\"name\": \"p\",\n\"name\": \"q\", \"tests\": []}".into(),
        ),
        (
            "all at once",
            Yaml,
            "nmae: p\ntests:\n- {name: 5, run: true, priority: high, retries: 11, priority2: 1}\n\
             - {name: b, run: {}, requires: {cpu: 1, memory_mb: 0}, kernel: {args: x}, env: [a]}\n"
                .into(),
        ),
        ("second document", Yaml, "name: p\n---\nname: q\n".into()),
        ("tag", Yaml, "name: !secret p\n".into()),
        ("merge key", Yaml, "a: &a {b: 1}\nc:\n  <<: *a\n".into()),
        ("alias inside itself", Yaml, "a: &a [*a]\n".into()),
        ("unknown alias", Yaml, "a: *b\n".into()),
        (
            "too deep",
            Json,
            format!("{}{}", "[".repeat(200), "]".repeat(200)),
        ),
        (
            "too deep",
            Yaml,
            format!("a: {}{}", "[".repeat(200), "]".repeat(200)),
        ),
        ("alias bomb", Yaml, bomb()),
        (
            "bad escape",
            Json,
            "{\"name\": \"\\ud800\", \"tests\": []}".into(),
        ),
        (
            "number",
            Toml,
            "name = 'p'\nmax_parallel = 0\n[[tests]]\nname = 't'\nrun = 'x'\n".into(),
        ),
    ];
    insta::assert_snapshot!(table(&cases));
}

/// Ten lines that stand for ten billion values.
fn bomb() -> String {
    let mut text = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for i in 1..10 {
        let below = vec![format!("*a{}", i - 1); 10].join(", ");
        writeln!(text, "a{i}: &a{i} [{below}]").expect("texts can be written to");
    }
    text
}

#[test]
fn values() {
    let cases = [
        "timeout: 90x",
        "timeout: 0",
        "timeout: 8d",
        "timeout: [1]",
        "priority: 1001",
        "priority: 1.5",
        "retries: -1",
        "retry_delay: 2h",
        "runner: dokcer",
        "runner: 5",
        "isolation: sandbx",
        "network: open",
        "shards: 0",
        "artifacts: '*.log'",
        "artifacts: [/etc/passwd]",
        "artifacts: [a/../../b]",
        "artifacts: ['{..,a}/b']",
        "artifacts: ['a[b']",
        "artifacts: ['']",
        "artifact_limits: {max_bytes: 10 apples}",
        "reports: [{path: a, format: junti}]",
        "reports: [{format: tap}]",
        "reports: [../x.xml]",
        "kernel: {name: k, expect: explode}",
        "kernel: [6.1]",
        "kernel: true",
        "kernel: k, runner: docker",
        "requires: {driver: qemu}, runner: docker",
        "requires: {image: a}, image: b",
        "requires: {kernal: a}",
        "env: {A: [1]}",
        "env: {'A=B': 1}",
        "env: {OSTLER_SHARD_INDEX: 1}",
        "script: y",
        "quarantined: 'yes'",
        "cwd: \"a\\0b\"",
    ];
    let cases: Vec<_> = cases
        .iter()
        .map(|fields| (*fields, Format::Yaml, test(fields)))
        .collect();
    insta::assert_snapshot!(table(&cases));
}

#[test]
fn meaning() {
    let matrix = |fields: &str| test(&format!("matrix: {{{fields}}}"));
    let cases = [
        ("no tests", "name: p\ntests: []".to_owned()),
        ("names", "name: ' '\nbranch: b\ntests: [{run: x}, {name: '', run: x}, {name: a}, {name: \"a\\tb\", run: x}]".into()),
        ("name in defaults", "name: p\ndefaults: {name: d, run: x, script: y}\ntests: [{name: t}]".into()),
        ("empty commands", tests(&["{name: a, run: ''}", "{name: b, run: []}", "{name: c, script: ' '}"])),
        ("same name", tests(&["{name: a, run: x}", "{name: a, run: y}"])),
        ("same name after expansion", tests(&["{name: a, run: x, matrix: {k: [1]}}", "{name: 'a [k=1]', run: y}"])),
        ("unknown need", tests(&["{name: build, run: x}", "{name: b, run: x, needs: [biuld]}"])),
        (
            "unknown suffix",
            tests(&["{name: build, run: x, matrix: {k: [1, 2]}}", "{name: b, run: x, needs: ['build [k=3]']}"]),
        ),
        (
            "circle",
            tests(&["{name: a, run: x, needs: [b]}", "{name: b, run: x, needs: [c]}", "{name: c, run: x, needs: [b]}"]),
        ),
        ("itself", tests(&["{name: a, run: x, needs: [a]}"])),
        ("circle by defaults", "name: p\ndefaults: {needs: [a]}\ntests: [{name: a, run: x}]".into()),
        ("unknown axis", test("cwd: '${matrix.kernal}', matrix: {kernel: [1], arch: [x]}")),
        (
            "one mistake in many combinations",
            "name: p\nmatrix: {k: [1, 2]}\ntests: [{name: t, run: '${matrix.q}', artifacts: ['${matrix.q}']}]".into(),
        ),
        ("no matrix", test("cwd: '${matrix.kernel}'")),
        ("open brace", test("cwd: '${matrix.kernel', matrix: {kernel: [1]}")),
        ("a template that does not fit", test("timeout: '${matrix.t}', runner: '${matrix.t}', matrix: {t: [1s, quemu]}")),
        ("a template in defaults", "name: p\ndefaults: {retries: '${matrix.r}'}\nmatrix: {r: [99]}\ntests: [{name: t, run: x}]".into()),
        ("empty axis", matrix("a: []")),
        ("same value", matrix("a: [1, 2, '1']")),
        ("not a list", matrix("a: 1")),
        ("name of an axis", matrix("'a b': [1], shard: [1]")),
        ("exclude", matrix("a: [1], exclude: [{b: 1}, {}]")),
        ("nothing left", matrix("a: [1], exclude: [{a: 1}]")),
        ("same by include", matrix("include: [{a: 1}, {a: 1}]")),
        ("too many", matrix(&format!("a: {0:?}, b: {0:?}, c: {0:?}", (0..30).collect::<Vec<_>>()))),
        ("too many shards", format!("name: p\ndefaults: {{shards: 1000, matrix: {{a: {:?}}}}}\ntests: [{{name: t, run: x}}]", (0..101).collect::<Vec<_>>())),
        ("too much text", format!("name: p\nmatrix: {{a: {:?}}}\ntests: [{{name: t, run: {}}}]", (0..5000).collect::<Vec<_>>(), "x".repeat(100_000))),
        (
            "too many needs",
            format!(
                "name: p\nmatrix: {{a: {:?}}}\ntests: [{{name: a, run: x}}, {{name: b, run: x, needs: [a]}}]",
                (0..2000).collect::<Vec<_>>()
            ),
        ),
    ];
    let cases: Vec<_> = cases
        .into_iter()
        .map(|(what, text)| (what, Format::Yaml, text))
        .collect();
    insta::assert_snapshot!(table(&cases));
}

#[test]
fn only_so_many_problems_are_told() {
    let lines: Vec<String> = (0..80)
        .map(|i| format!("{{name: t{i}, run: x, a{i}: 1}}"))
        .collect();
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let errors = Plan::parse(&tests(&lines), Format::Yaml).expect_err("80 mistakes");
    assert_eq!((errors.errors.len(), errors.more), (50, true));
    assert_eq!(errors.errors[49].line, 52);
}

#[test]
fn a_text_that_is_too_long() {
    let text = " ".repeat(ostler_plans::limits::TEXT + 1);
    let errors = Plan::parse(&text, Format::Json).expect_err("too long");
    assert_eq!(
        errors.to_string(),
        "line 1, column 1: the plan is 16777217 bytes long, more than 16777216; split it"
    );
}

#[test]
fn items_that_cannot_be_divided() {
    for (fields, wanted) in [
        ("items: [a, b]", "add `shards`"),
        ("shards: 3, items: [a, b]", "2 items are too few for 3 parts"),
        ("shards: 1, items: [a, a]", "the item `a` stands there twice"),
        ("shards: 1, items: ['']", "an item is one line, and not empty"),
        (
            "shards: 1, items: [\"a\\nb\"]",
            "an item is one line, and not empty",
        ),
        ("env: {OSTLER_SHARD_ITEMS: x}", "is set by Ostler; use `shards`"),
    ] {
        let said = told(Format::Yaml, &test(fields));
        assert!(said.contains(wanted), "{fields}: {said}");
    }
    let long = (0..2000).fold(String::new(), |mut all, n| {
        write!(all, "i{n:060}, ").expect("texts can be written to");
        all
    });
    let said = told(Format::Yaml, &test(&format!("shards: 2, items: [{long}]")));
    assert!(said.contains("longer than 100 KiB"), "{said}");
}
