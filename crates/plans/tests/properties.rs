//! What is true of any text and of any plan.

use ostler_plans::{Format, Plan, PlanErrors, limits};
use proptest::prelude::*;
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;

const FORMATS: [Format; 3] = [Format::Toml, Format::Yaml, Format::Json];

/// A plan with most of what there is, to be damaged.
const SAMPLE: &str = r#"{
  "name": "p", "matrix": {"k": [6.10, "x"], "exclude": [{"k": "x"}], "include": [{"k": 7, "end": "panic"}]},
  "defaults": {"timeout": "5m", "env": {"A": 1}},
  "tests": [
    {"name": "a", "run": "echo ${matrix.k}", "shards": 2, "artifacts": ["*.log", "{a,b}/[c]"]},
    {"name": "b", "run": ["x", 1], "needs": ["a [k=7, shard=1/2]"], "kernel": {"name": "k", "args": "q"}},
    {"name": "c", "script": "é\n", "matrix": {}, "needs": ["a", "b"], "requires": {"cpus": 2}, "reports": ["stdout"]}
  ]
}"#;

/// Block style, so that it has little in common with JSON.
fn yaml(value: &Value, indent: usize, out: &mut String) {
    let pad = "  ".repeat(indent);
    match value {
        Value::Object(map) if !map.is_empty() => {
            for (key, value) in map {
                out.extend(["\n", &pad, &json!(key).to_string(), ":"]);
                yaml(value, indent + 1, out);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for item in items {
                out.extend(["\n", &pad, "-"]);
                yaml(item, indent + 1, out);
            }
        }
        scalar => out.extend([" ", &scalar.to_string()]),
    }
}

fn texts(plan: &Value) -> [(Format, String); 3] {
    let mut block = String::new();
    yaml(plan, 0, &mut block);
    [
        (Format::Toml, toml::to_string(plan).expect("no nulls in it")),
        (Format::Yaml, block),
        (Format::Json, plan.to_string()),
    ]
}

/// What is the same in all formats: everything but the places.
fn without_places(result: Result<Plan, PlanErrors>) -> Result<Plan, BTreeSet<(String, String)>> {
    result.map_err(|errors| errors.errors.into_iter().map(|e| (e.path, e.message)).collect())
}

fn scalar() -> impl Strategy<Value = Value> {
    prop_oneof![
        (0..100_i64).prop_map(Value::from),
        (0..100_i32).prop_map(|n| json!(f64::from(n) / 4.0)),
        any::<bool>().prop_map(Value::from),
        "[a-z${}. \"'\\\\:#é\n-]{0,8}".prop_map(Value::from),
        Just(json!("${matrix.k}")),
        Just(json!("${matrix.none}")),
    ]
}

fn matrix() -> impl Strategy<Value = Value> {
    let values = || {
        prop::collection::vec(
            prop_oneof![
                (0..9_i64).prop_map(Value::from),
                "[a-z]{1,3}".prop_map(Value::from)
            ],
            1..4,
        )
    };
    let pairs = prop::collection::btree_map("[akz]", (0..9_i64).prop_map(Value::from), 1..3);
    (
        prop::collection::btree_map("[akz]", values(), 0..3),
        prop::collection::vec(pairs, 0..2),
        any::<bool>(),
    )
        .prop_map(|(axes, rules, include)| {
            let mut matrix: Map<String, Value> = axes.into_iter().map(|(k, v)| (k, v.into())).collect();
            if !rules.is_empty() {
                let list = if include { "include" } else { "exclude" };
                matrix.insert(list.to_owned(), json!(rules));
            }
            Value::Object(matrix)
        })
}

/// A test; the flags say which of the others it needs.
fn test() -> impl Strategy<Value = (Map<String, Value>, Vec<bool>)> {
    let fields = (
        prop::option::weighted(0.4, matrix()),
        prop::option::weighted(0.3, 1..4_i64),
        prop::option::weighted(0.4, prop::collection::btree_map("[A-Z]{1,2}", scalar(), 0..3)),
        prop::option::weighted(0.2, scalar()),
        prop::option::weighted(0.2, scalar()),
        prop::option::weighted(0.2, scalar()),
    );
    (fields, prop::collection::vec(prop::bool::weighted(0.3), 8)).prop_map(
        |((matrix, shards, env, timeout, cwd, odd), needs)| {
            let all = [
                ("matrix", matrix),
                ("shards", shards.map(Value::from)),
                ("env", env.map(|env| json!(env))),
                ("timeout", timeout),
                ("cwd", cwd),
                ("odd", odd.filter(|odd| odd == &json!(true))),
            ];
            let fields = all
                .into_iter()
                .filter_map(|(key, value)| Some((key.to_owned(), value?)));
            (fields.collect(), needs)
        },
    )
}

/// A plan; with `backward`, tests need only earlier ones, so that there is no cycle.
fn plan(backward: bool) -> impl Strategy<Value = Value> {
    (
        prop::collection::vec(test(), 1..7),
        prop::option::weighted(0.3, matrix()),
        any::<bool>(),
    )
        .prop_map(move |(tests, matrix, turned)| {
            let count = tests.len();
            let mut list: Vec<Value> = Vec::new();
            for (i, (mut fields, flags)) in tests.into_iter().enumerate() {
                let chosen =
                    (0..count).filter(|other| flags[*other] && if backward { *other < i } else { true });
                let needs: Vec<String> = chosen.map(|other| format!("t{other}")).collect();
                fields.insert("name".into(), format!("t{i}").into());
                fields.insert("run".into(), "x".into());
                fields.insert("needs".into(), needs.into());
                list.push(Value::Object(fields));
            }
            if turned {
                list.reverse();
            }
            let mut plan = json!({ "name": "p", "tests": list });
            if let Some(matrix) = matrix {
                plan["matrix"] = matrix;
            }
            plan
        })
}

fn check(plan: &Plan) {
    let names: BTreeSet<&str> = plan.tests.iter().map(|t| t.name.as_str()).collect();
    let keys: BTreeSet<&str> = plan.tests.iter().map(|t| t.key.as_str()).collect();
    assert_eq!((names.len(), keys.len()), (plan.tests.len(), plan.tests.len()));
    assert!(!plan.tests.is_empty() && plan.tests.len() <= limits::TESTS);
    for (i, test) in plan.tests.iter().enumerate() {
        assert!(
            test.needs.iter().all(|need| (*need as usize) < i),
            "{} comes too early",
            test.name
        );
        assert!(test.needs.is_sorted_by(|a, b| a < b));
    }
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused(text in "\\PC{0,60}|[a-z0-9:\\-\\[\\]{}=\"'&*!|>#%@`~?,. \n\t]{0,80}") {
        for format in FORMATS {
            if let Err(errors) = Plan::parse(&text, format) {
                prop_assert!(!errors.errors.is_empty());
                prop_assert!(errors.errors.iter().all(|e| e.line >= 1 && e.column >= 1));
            }
        }
    }

    #[test]
    fn a_damaged_plan_is_read_or_refused(
        which in 0..3_usize,
        damage in prop::collection::vec((any::<prop::sample::Index>(), 0..4_usize, "[a-z0-9:\\-\\[\\]{}=\"'&*!|>,. \n]{0,3}"), 1..5),
    ) {
        let sample: Value = serde_json::from_str(SAMPLE).expect("the sample is JSON");
        let (format, text) = texts(&sample)[which].clone();
        let mut chars: Vec<char> = text.chars().collect();
        for (at, length, put) in damage {
            let start = at.index(chars.len().max(1)).min(chars.len());
            let end = (start + length).min(chars.len());
            chars.splice(start..end, put.chars());
        }
        let text: String = chars.into_iter().collect();
        match Plan::parse(&text, format) {
            Ok(plan) => check(&plan),
            Err(errors) => prop_assert!(!errors.errors.is_empty()),
        }
    }

    #[test]
    fn formats_mean_the_same(plan in plan(false)) {
        let [toml, yaml, json] = texts(&plan).map(|(format, text)| (without_places(Plan::parse(&text, format)), text));
        prop_assert_eq!(&toml.0, &json.0, "{}", toml.1);
        prop_assert_eq!(&yaml.0, &json.0, "{}", yaml.1);
    }

    #[test]
    fn needs_come_first(plan in plan(true)) {
        match Plan::parse(&plan.to_string(), Format::Json) {
            Ok(read) => {
                check(&read);
                prop_assert_eq!(Plan::parse(&plan.to_string(), Format::Json), Ok(read));
            }
            Err(errors) => {
                let circle = errors.errors.iter().any(|e| e.message.contains("circle"));
                prop_assert!(!circle, "{}", errors);
            }
        }
    }
}

#[test]
fn the_sample_is_good_in_every_format() {
    let sample: Value = serde_json::from_str(SAMPLE).expect("the sample is JSON");
    for (format, text) in texts(&sample) {
        check(&Plan::parse(&text, format).unwrap_or_else(|errors| panic!("{format:?}: {errors}\n{text}")));
    }
}
