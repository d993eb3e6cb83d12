//! The `bd` command line, as agents use it.
#![allow(
    clippy::unwrap_used,
    clippy::many_single_char_names,
    reason = "a test may panic, and its issues are a, b and c"
)]

use ostler_domain::{DependencyType, IssueStatus, IssueType, ProjectId, TenantId, Timestamp};
use ostler_forge::issues::{Change, Graph, Invocation, Output, execute, export_jsonl, import_jsonl};
use proptest::prelude::*;
use serde_json::Value;
use std::collections::BTreeSet;

struct Desk {
    graph: Graph,
    ids: std::ops::RangeFrom<u64>,
    call: Invocation,
}

impl Desk {
    fn new() -> Self {
        Self {
            graph: Graph::new("iv", TenantId::DEFAULT, ProjectId::from_u128(7), Vec::new()),
            ids: 1..,
            call: Invocation {
                actor: "ann".to_owned(),
                now: Timestamp(1_700_000_000_000_000),
                ..Invocation::default()
            },
        }
    }

    fn run(&mut self, words: &[&str]) -> Output {
        self.call.argv = words.iter().map(|w| (*w).to_owned()).collect();
        self.call.now.0 += 1_000_000;
        execute(&mut self.graph, &self.call, &mut self.ids)
    }

    fn ok(&mut self, words: &[&str]) -> String {
        let output = self.run(words);
        assert_eq!(output.code, 0, "{words:?}: {}", output.stderr);
        output.stdout
    }

    fn json(&mut self, words: &[&str]) -> Value {
        let mut words = words.to_vec();
        words.push("--json");
        serde_json::from_str(&self.ok(&words)).unwrap()
    }

    fn fails(&mut self, code: i32, words: &[&str]) -> String {
        let before = export_jsonl(&self.graph);
        let output = self.run(words);
        assert_eq!(output.code, code, "{words:?}: {}{}", output.stdout, output.stderr);
        assert_eq!(export_jsonl(&self.graph), before, "a failure changes nothing");
        assert_eq!(output.stdout, "");
        output.stderr
    }

    fn create(&mut self, words: &[&str]) -> String {
        let mut all = vec!["create", "--silent"];
        all.extend(words);
        self.ok(&all).trim().to_owned()
    }

    fn ready(&mut self) -> Vec<String> {
        let list = self.json(&["ready"]);
        list.as_array()
            .unwrap()
            .iter()
            .map(|i| i["id"].as_str().unwrap().to_owned())
            .collect()
    }
}

#[test]
fn a_planner_plans_and_a_worker_works() {
    let mut desk = Desk::new();
    let epic = desk.create(&["Login", "-t", "epic", "-d", "spec"]);
    let first = desk.create(&["Form", "--parent", &epic, "-p", "1", "--acceptance", "tests pass"]);
    let second = desk.create(&["Check", "--parent", &epic, "--deps", &first, "-l", "api,core"]);
    assert_eq!(
        (first.as_str(), second.as_str()),
        (&*format!("{epic}.1"), &*format!("{epic}.2"))
    );
    let third = desk.create(&["Docs", "--parent", &epic]);
    desk.ok(&["dep", "add", &third, &second]);
    assert_eq!(desk.ready(), [first.as_str()]);
    assert_eq!(
        desk.json(&["blocked"])[0]["blocked_by"],
        serde_json::json!([first])
    );

    desk.ok(&["update", &first, "--claim"]);
    assert_eq!(desk.ready(), Vec::<String>::new());
    let error = desk.fails(1, &["update", &first, "--claim", "--actor", "bob"]);
    assert!(error.contains("already claimed by ann"), "{error}");
    desk.ok(&["update", &first, "--claim"]);

    let closed = desk.json(&[
        "close",
        &first,
        "--reason",
        "done",
        "--suggest-next",
        "--session",
        "s1",
    ]);
    assert_eq!(closed["unblocked"][0]["id"], second.as_str());
    assert_eq!(closed["closed"][0]["close_reason"], "done");
    assert_eq!(desk.ready(), [second.as_str()]);

    let error = desk.fails(1, &["close", &third]);
    assert!(
        error.contains(&format!("waits for {second}")) && error.contains("--force"),
        "{error}"
    );
    let error = desk.fails(1, &["close", &epic]);
    assert!(
        error.contains("children") || error.contains("are open"),
        "{error}"
    );
    desk.graph = desk.graph.clone().epics_close_freely(true);
    desk.ok(&["close", &epic]);

    let status = desk.json(&["epic", "status"]);
    assert_eq!(status, serde_json::json!([]));
    desk.ok(&["reopen", &epic, "--reason", "more to do"]);
    let status = desk.json(&["epic", "status"]);
    assert_eq!(
        (&status[0]["total_children"], &status[0]["closed_children"]),
        (&3.into(), &1.into())
    );
}

#[test]
fn json_has_the_fields_of_beads() {
    let mut desk = Desk::new();
    let made = desk.json(&["create", "Fix it", "-t", "bug", "-p", "P0", "-d", "text"]);
    assert_eq!(made["schema_version"], 1);
    assert_eq!(
        (&made["issue_type"], &made["priority"], &made["status"]),
        (&"bug".into(), &0.into(), &"open".into())
    );
    let id = made["id"].as_str().unwrap().to_owned();
    assert!(id.starts_with("iv-") && id.len() == 6, "{id}");
    assert!(made["created_at"].as_str().unwrap().ends_with('Z'));
    let found = desk.create(&["Found", "--deps", &format!("discovered-from:{id}")]);

    let list = desk.json(&["list"]);
    assert_eq!(list[0]["dependent_count"], 1);
    assert_eq!(list[1]["dependencies"][0]["depends_on_id"], id.as_str());
    let shown = desk.json(&["show", &id]);
    assert_eq!(shown["dependents"][0]["dependency_type"], "discovered-from");
    assert_eq!(desk.json(&["show", &id, &found]).as_array().unwrap().len(), 2);
    // Without the prefix, too.
    assert_eq!(desk.json(&["show", &id[3..]])["id"], id.as_str());

    desk.call.json_envelope = true;
    let wrapped = desk.json(&["list"]);
    assert_eq!(
        (
            wrapped["schema_version"].as_i64(),
            wrapped["data"].as_array().unwrap().len()
        ),
        (Some(1), 2)
    );
    desk.call.json_envelope = false;

    let error: Value = serde_json::from_str(&desk.fails(3, &["show", "iv-none", "--json"])).unwrap();
    assert_eq!(error["code"], "not_found");
    assert!(
        error["error"]
            .as_str()
            .unwrap()
            .contains("issue not found: iv-none")
    );
}

#[test]
fn the_reverse_direction_of_deps_is_that_of_the_real_program() {
    let mut desk = Desk::new();
    let a = desk.create(&["a"]);
    let b = desk.create(&["b", "--deps", &format!("blocks:{a}")]);
    assert_eq!(desk.ready(), [b.as_str()]);
    let c = desk.create(&["c", "--deps", &format!("blocked-by:{a}")]);
    let blocked = desk.json(&["dep", "list", &c]);
    assert_eq!(blocked[0]["id"], a.as_str());
}

#[test]
fn cycles_and_deadlocks_are_refused_by_name() {
    let mut desk = Desk::new();
    let (a, b, c) = (desk.create(&["a"]), desk.create(&["b"]), desk.create(&["c"]));
    desk.ok(&["dep", "add", &a, &b]);
    desk.ok(&["dep", "add", &b, "--blocked-by", &c]);
    let error = desk.fails(1, &["dep", "add", &c, &a]);
    assert!(
        error.contains("cycle") && error.contains(&format!("{a} → {b} → {c} → {a}")),
        "{error}"
    );
    desk.fails(1, &["dep", "add", &a, &a]);
    let epic = desk.create(&["e", "-t", "epic"]);
    let part = desk.create(&["p", "--parent", &epic]);
    let error = desk.fails(1, &["dep", "add", &part, &epic]);
    assert!(error.contains("part of"), "{error}");
    let error = desk.fails(1, &["dep", "add", &epic, &part]);
    assert!(error.contains("cycle"), "{error}");
    // What an epic waits for, its parts wait for.
    desk.ok(&["dep", "add", &epic, &a]);
    assert!(!desk.ready().contains(&part));
    desk.fails(1, &["update", &epic, "--parent", &part]);
    desk.fails(1, &["dep", "remove", &a, &c]);
    assert_eq!(desk.json(&["dep", "cycles"]), serde_json::json!([]));
    let tree = desk.ok(&["dep", "tree", &a]);
    assert!(tree.contains(&format!("    ○ {c}")), "{tree}");
}

#[test]
fn a_whole_plan_at_once_or_not_at_all() {
    let mut desk = Desk::new();
    desk.call.stdin = br#"{"nodes":[
        {"key":"b","title":"B","parent_key":"e","priority":1},
        {"key":"e","title":"E","type":"epic"},
        {"key":"a","title":"A","parent_key":"e"}],
        "edges":[{"from_key":"b","to_key":"a"}]}"#
        .to_vec();
    let made = desk.json(&["create", "--graph", "-"]);
    let epic = made["ids"]["e"].as_str().unwrap().to_owned();
    assert_eq!(desk.ready(), [made["ids"]["a"].as_str().unwrap()]);
    assert_eq!(desk.graph.children(&epic).count(), 2);

    desk.call.stdin = br#"{"nodes":[{"key":"x","title":"X"},{"key":"y","title":"Y"}],
        "edges":[{"from_key":"x","to_key":"y"},{"from_key":"y","to_key":"x"}]}"#
        .to_vec();
    assert!(desk.fails(1, &["create", "--graph", "-"]).contains("cycle"));
    desk.call.stdin = b"[]".to_vec();
    assert!(desk.fails(1, &["create", "--graph", "-"]).contains("\"nodes\""));
    let error = desk.fails(1, &["create", "--graph", "plan.json"]);
    assert!(error.contains("- < plan.json"), "{error}");
    desk.call.files.insert(
        "plan.json".to_owned(),
        br#"{"nodes":[{"key":"x","title":"X"}]}"#.to_vec(),
    );
    desk.ok(&["create", "--graph", "plan.json"]);
}

#[test]
fn a_batch_is_all_or_nothing() {
    let mut desk = Desk::new();
    let (a, b) = (desk.create(&["a"]), desk.create(&["b"]));
    desk.call.stdin = format!(
        "# work\nclose {a} all done\nupdate {b} priority=0 title=\"new title\"\ncreate bug 1 \"found it\"\n"
    )
    .into_bytes();
    let done = desk.json(&["batch"]);
    assert_eq!((&done["operations"], &done["status"]), (&3.into(), &"ok".into()));
    assert_eq!(desk.graph.get(&b).unwrap().title, "new title");
    desk.call.stdin = format!("update {b} priority=1\nclose iv-none\n").into_bytes();
    let error = desk.fails(3, &["batch"]);
    assert!(error.contains("line 2 (close iv-none)"), "{error}");
}

#[test]
fn comments_labels_limits_and_deletion() {
    let mut desk = Desk::new();
    let a = desk.create(&["a", "--labels", "x"]);
    desk.ok(&["comments", "add", &a, "found", "something"]);
    desk.ok(&["comment", &a, "more"]);
    let comments = desk.json(&["comments", &a]);
    assert_eq!(
        (&comments[0]["text"], &comments[1]["author"]),
        (&"found something".into(), &"ann".into())
    );
    desk.ok(&["label", "add", &a, "urgent"]);
    assert_eq!(
        desk.json(&["label", "list", &a]),
        serde_json::json!(["urgent", "x"])
    );
    desk.ok(&["label", "remove", &a, "x"]);
    assert_eq!(
        desk.json(&["list", "--label", "urgent"])
            .as_array()
            .unwrap()
            .len(),
        1
    );
    assert_eq!(desk.json(&["list", "--label", "x"]).as_array().unwrap().len(), 0);

    for i in 0..60 {
        desk.create(&[&format!("n{i}")]);
    }
    let output = desk.run(&["list"]);
    assert_eq!(output.stdout.lines().count(), 50);
    assert!(output.stderr.contains("50 of 61"), "{}", output.stderr);
    assert_eq!(desk.json(&["list", "--limit", "0"]).as_array().unwrap().len(), 61);

    let epic = desk.create(&["e", "-t", "epic"]);
    desk.create(&["p", "--parent", &epic, "--deps", &a]);
    desk.ok(&["delete", &epic, "--cascade"]);
    assert!(desk.graph.contains(&epic), "only shown without --force");
    assert_eq!(
        desk.json(&["delete", &epic, "--cascade", "--force"])["deleted_count"],
        2
    );
    assert_eq!(desk.json(&["stats"])["summary"]["total_issues"], 61);
}

#[test]
fn mistakes_are_explained() {
    let mut desk = Desk::new();
    let a = desk.create(&["a"]);
    assert!(desk.fails(2, &["crate", "x"]).contains("create"));
    assert!(
        desk.fails(2, &["create", "x", "--titel", "y"])
            .contains("--title")
    );
    assert!(
        desk.fails(1, &["create", "x", "-t", "story!"])
            .contains("epic, task, bug")
    );
    assert!(
        desk.fails(1, &["create", "x", "-p", "9"])
            .contains("0 (most urgent) to 4")
    );
    assert!(
        desk.fails(1, &["update", &a, "--status", "doing"])
            .contains("in_progress")
    );
    assert!(desk.fails(1, &["create"]).contains("bd create \"Title\""));
    assert!(desk.fails(1, &["create", "x", "--id", "other-1"]).contains("iv-"));
    desk.fails(3, &["close", &a, "iv-none"]);
    assert!(desk.ok(&["--help"]).contains("ready"));
    assert!(desk.ok(&["prime"]).contains("bd ready"));
    assert!(desk.ok(&["version"]).starts_with("bd version"));
    desk.ok(&["init", "--stealth", "--prefix", "x"]);
}

#[test]
fn changes_are_net_changes() {
    let mut desk = Desk::new();
    let (a, b) = (desk.create(&["a"]), desk.create(&["b"]));
    let changes = desk.graph.take_changes();
    assert!(matches!(
        changes.as_slice(),
        [Change::Inserted(_), Change::Inserted(_)]
    ));
    desk.ok(&["update", &a, "--title", "x"]);
    desk.ok(&["delete", &b, "--force"]);
    let c = desk.create(&["c"]);
    desk.ok(&["delete", &c, "--force"]);
    desk.ok(&["show", &a]);
    let changes = desk.graph.take_changes();
    let [Change::Changed(x), Change::Deleted(y)] = changes.as_slice() else {
        panic!("{changes:?}")
    };
    assert_eq!((x.title.as_str(), y.id.as_str()), ("x", b.as_str()));
    assert_eq!(desk.graph.take_changes(), []);
}

#[test]
fn import_takes_what_beads_writes() {
    let mut desk = Desk::new();
    desk.call.stdin = concat!(
        r#"{"id":"bd-2","title":"Second","status":"deferred","priority":1,"issue_type":"story","created_at":"2026-04-20T14:00:00+02:00","updated_at":"2026-04-20T12:00:00.5Z","dependencies":[{"issue_id":"bd-2","depends_on_id":"bd-1","type":"waits-for","created_at":"2026-04-20T12:00:00Z"},{"depends_on_id":"gone-1","type":"blocks"}],"owner":"x","metadata":{}}"#,
        "\n\n",
        r#"{"id":"bd-1","title":"First","status":"open","priority":2,"issue_type":"task","created_at":"2026-04-20T12:00:00Z","updated_at":"2026-04-20T12:00:00Z","comments":[{"id":"c1","issue_id":"bd-1","author":"bob","text":"hi","created_at":"2026-04-20T12:00:00Z"}]}"#,
        "\n",
        r#"{"_type":"memory","key":"k","value":"v"}"#,
    )
    .as_bytes()
    .to_vec();
    let output = desk.run(&["import", "-", "--json"]);
    assert_eq!(output.code, 0, "{}", output.stderr);
    assert!(output.stderr.contains("gone-1"), "{}", output.stderr);
    let second = desk.graph.get("bd-2").unwrap();
    assert_eq!(
        (second.status, second.issue_type),
        (IssueStatus::Blocked, IssueType::Feature)
    );
    assert_eq!(second.created_at, Timestamp(1_776_686_400_000_000));
    assert_eq!(second.dependencies[0].kind, DependencyType::Blocks);
    assert_eq!(desk.ready(), ["bd-1"]);
    desk.call.stdin = b"{\"id\":\"bd-3\"}".to_vec();
    assert!(desk.fails(1, &["import"]).contains("line 1"));
}

/// Words of a random command about up to eight issues.
fn command() -> impl Strategy<Value = Vec<String>> {
    let id = (1u64..9).prop_map(|n| format!("{n}00"));
    let word = prop_oneof![
        id.clone(),
        id.clone(),
        id,
        "[a-z]{1,6}",
        Just("--force".to_owned()),
        Just("--claim".to_owned()),
        Just("--parent".to_owned()),
        Just("--status".to_owned()),
        Just("open".to_owned()),
        Just("in_progress".to_owned()),
        Just("--deps".to_owned()),
        Just("--json".to_owned()),
        Just("-t".to_owned()),
        Just("epic".to_owned()),
        Just("--cascade".to_owned()),
        ".{0,6}",
    ];
    let verb = prop_oneof![
        4 => Just(vec!["create", "x"]),
        1 => Just(vec!["create", "x", "-t", "epic"]),
        4 => Just(vec!["create", "x", "--parent"]),
        6 => Just(vec!["dep", "add"]),
        1 => Just(vec!["dep", "remove"]),
        1 => Just(vec!["dep", "tree"]),
        3 => Just(vec!["update"]),
        3 => Just(vec!["close", "--suggest-next"]),
        1 => Just(vec!["reopen"]),
        1 => Just(vec!["delete"]),
        1 => Just(vec!["show"]),
        1 => Just(vec!["list"]),
        1 => Just(vec!["ready"]),
        1 => Just(vec!["label", "add"]),
        1 => Just(vec!["comments", "add"]),
        1 => Just(vec![]),
    ];
    (verb, proptest::collection::vec(word, 0..4))
        .prop_map(|(verb, words)| verb.into_iter().map(str::to_owned).chain(words).collect())
}

/// The rule of readiness, written a second time and naively.
fn ready_by_definition(graph: &Graph) -> BTreeSet<String> {
    let open_blocker = |id: &str| {
        graph.get(id).unwrap().dependencies.iter().any(|d| {
            d.kind == DependencyType::Blocks
                && graph
                    .get(&d.depends_on)
                    .is_some_and(|b| b.status != IssueStatus::Closed)
        })
    };
    let waits = |id: &str| {
        let mut at = Some(id.to_owned());
        while let Some(id) = at {
            if open_blocker(&id) {
                return true;
            }
            at = graph.get(&id).unwrap().parent().map(str::to_owned);
        }
        false
    };
    graph
        .issues()
        .filter(|i| i.status == IssueStatus::Open && i.issue_type != IssueType::Epic && !waits(&i.id))
        .map(|i| i.id.clone())
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn no_command_breaks_the_graph(commands in proptest::collection::vec(command(), 1..40)) {
        let mut desk = Desk::new();
        for words in commands {
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            let before = export_jsonl(&desk.graph);
            let output = desk.run(&words);
            if output.code != 0 {
                prop_assert_eq!(export_jsonl(&desk.graph), before);
                prop_assert!(!output.stderr.is_empty());
            }
            prop_assert_eq!(desk.graph.cycle(), None);
            for issue in desk.graph.issues() {
                prop_assert!(issue.dependencies.iter().all(|d| desk.graph.contains(&d.depends_on)));
            }
        }
        desk.call.json_envelope = false;
        let list = desk.json(&["ready", "--limit", "0"]);
        let ready: BTreeSet<String> =
            list.as_array().unwrap().iter().map(|i| i["id"].as_str().unwrap().to_owned()).collect();
        prop_assert_eq!(ready, ready_by_definition(&desk.graph));

        // What is exported and imported is the same graph.
        let text = export_jsonl(&desk.graph);
        let mut copy = Graph::new("iv", TenantId::DEFAULT, ProjectId::from_u128(7), Vec::new());
        import_jsonl(&mut copy, &text, Timestamp(0)).unwrap();
        let both = desk.graph.issues().zip(copy.issues());
        for (a, b) in both {
            prop_assert_eq!(a, b);
        }
        prop_assert_eq!(copy.len(), desk.graph.len());
    }

    #[test]
    fn no_input_panics(text in ".{0,120}") {
        let mut desk = Desk::new();
        desk.call.stdin = text.clone().into_bytes();
        for words in [&["batch"][..], &["import"], &["create", "--graph", "-"], &["create", "x", "--stdin"]] {
            desk.run(words);
        }
        let _ = import_jsonl(&mut desk.graph, &text, Timestamp(i64::MAX));
    }
}
