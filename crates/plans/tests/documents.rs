//! The examples of `docs/testing.md` are plans.

#![allow(clippy::unwrap_used, reason = "test code")]

use ostler_domain::TestIsolation;
use ostler_plans::{Format, Plan};

const TEXT: &str = include_str!("../../../docs/testing.md");

/// How blocks of other files begin.
const SETTINGS: [&str; 2] = ["# config.toml\n", "# ostler.toml\n"];

/// The blocks of plans, as the line that each begins in, format and text.
fn plans() -> Vec<(usize, Format, String)> {
    let mut plans = Vec::new();
    let mut open: Option<(usize, Option<Format>, String)> = None;
    for (line, text) in (1..).zip(TEXT.lines()) {
        match (&mut open, text.strip_prefix("```")) {
            (None, Some(kind)) => {
                open = Some((
                    line,
                    Format::from_file_name(&format!("plan.{kind}")),
                    String::new(),
                ));
            }
            (Some(_), Some(_)) => {
                if let Some((line, Some(format), text)) = open.take()
                    && !SETTINGS.iter().any(|first| text.starts_with(first))
                {
                    plans.push((line, format, text));
                }
            }
            (Some((_, _, all)), None) => all.extend([text, "\n"]),
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "a block is not closed");
    plans
}

#[test]
fn every_example_is_a_plan() {
    let plans = plans();
    for format in [Format::Toml, Format::Yaml] {
        assert!(
            plans.iter().any(|plan| plan.1 == format),
            "no example in {format:?}"
        );
    }
    for (line, format, text) in plans {
        let plan = Plan::parse(&text, format).unwrap_or_else(|errors| panic!("line {line}: {errors}"));
        assert_eq!(
            plan.tests[0].isolation,
            TestIsolation::Test,
            "line {line}: the default"
        );
    }
}

#[test]
fn the_plan_of_our_own_tests_is_one() {
    let text = include_str!("../../../examples/plans/ostler.toml");
    let plan = Plan::parse(text, Format::Toml).unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(plan.tests.len(), 3);
}

fn named(name: &str) -> Plan {
    let plans = plans()
        .into_iter()
        .map(|(_, format, text)| Plan::parse(&text, format).unwrap());
    plans.into_iter().find(|plan| plan.name == name).unwrap()
}

#[test]
fn what_is_said_about_them_is_so() {
    let names: Vec<String> = named("drivers").tests.into_iter().map(|test| test.name).collect();
    assert_eq!(
        names,
        [
            "unit [kernel=6.1, arch=x86_64, env=release]",
            "unit [kernel=6.12, arch=x86_64, env=release]",
            "unit [kernel=6.12, arch=x86_64, env=asan]",
            "probe",
        ]
    );
    let timeouts: Vec<Option<u64>> = named("drivers")
        .tests
        .iter()
        .map(|test| test.timeout_ms)
        .collect();
    assert_eq!(
        timeouts,
        [Some(120_000), Some(120_000), Some(600_000), Some(60_000)]
    );

    let release = named("release");
    let needs = |name: &str| -> Vec<&str> {
        let test = release.tests.iter().find(|test| test.name == name).unwrap();
        test.needs
            .iter()
            .map(|need| release.tests[*need as usize].name.as_str())
            .collect()
    };
    assert_eq!(needs("unit [target=debug]"), ["build [target=debug]"]);
    assert_eq!(needs("package"), ["unit [target=debug]", "unit [target=release]"]);

    assert_eq!(named("suite").tests.len(), 4);
    for field in ostler_plans::schema()["$defs"]["test"]["properties"]
        .as_object()
        .unwrap()
        .keys()
    {
        assert!(
            TEXT.contains(&format!("`{field}`")),
            "the field `{field}` of a test is not described"
        );
    }
    for field in ostler_plans::schema()["properties"].as_object().unwrap().keys() {
        assert!(
            TEXT.contains(&format!("`{field}`")),
            "the field `{field}` of a plan is not described"
        );
    }
}
