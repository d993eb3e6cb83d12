//! The parser against what Claude Code 2.1.329 really printed.

use ostler_agents::{
    AgentEvent, AgentExit, AgentKind, AgentReport, Claude, CommandAgent, ResultBlockError, Role,
};
use ostler_domain::Usage;
use proptest::prelude::*;

const SUCCESS: &str = include_str!("../fixtures/success.jsonl");
const RESUME: &str = include_str!("../fixtures/resume.jsonl");
const DENIED: &str = include_str!("../fixtures/denied-tool.jsonl");
const MAX_TURNS: &str = include_str!("../fixtures/max-turns.jsonl");
const API_500: &str = include_str!("../fixtures/api-error-500.jsonl");
const API_401: &str = include_str!("../fixtures/api-error-401.jsonl");
const UNKNOWN_RESUME: &str = include_str!("../fixtures/unknown-resume.jsonl");
const SESSION: &str = "11111111-2222-4333-8444-555555555555";

fn parse(output: &[u8], exit: AgentExit) -> (Vec<AgentEvent>, AgentReport) {
    parse_with(&Claude::default(), output, exit, Usage::default(), usize::MAX)
}

fn parse_with(
    kind: &dyn AgentKind,
    output: &[u8],
    exit: AgentExit,
    previous: Usage,
    chunk: usize,
) -> (Vec<AgentEvent>, AgentReport) {
    let mut parser = kind.parser(previous);
    let mut events: Vec<AgentEvent> = output
        .chunks(chunk.max(1))
        .flat_map(|chunk| parser.push(chunk))
        .collect();
    let (rest, report) = parser.finish(exit);
    events.extend(rest);
    (events, report)
}

fn close(a: f64, b: f64) -> bool {
    (a - b).abs() < 1e-9
}

#[test]
fn a_successful_run() {
    let (events, report) = parse(SUCCESS.as_bytes(), AgentExit::Code(0));
    assert!(report.success, "{:?}", report.error);
    assert_eq!(report.session.as_deref(), Some(SESSION));
    assert_eq!((report.usage.input_tokens, report.usage.output_tokens), (300, 60));
    assert!(close(report.usage.cost_usd, 0.0024));
    assert!(report.final_text.starts_with("The file says hello."));
    // The recorded model wrote `<result>ok</result>`, which is not JSON.
    assert!(matches!(&report.result_block, Err(ResultBlockError::NotJson { near, .. }) if near == "ok"));
    insta::assert_json_snapshot!("success-events", events);
}

#[test]
fn a_resumed_run_counts_only_itself() {
    let before = parse(SUCCESS.as_bytes(), AgentExit::Code(0)).1.usage;
    let kind = Claude::default();
    let newest = parse_with(&kind, RESUME.as_bytes(), AgentExit::Code(0), before, 100)
        .1
        .usage;
    // Versions that lack the field report totals of the session.
    let older = RESUME.replace("model_usage_since_last_result", "absent");
    let older = parse_with(&kind, older.as_bytes(), AgentExit::Code(0), before, 100)
        .1
        .usage;
    for usage in [newest, older] {
        assert_eq!((usage.input_tokens, usage.output_tokens), (100, 20));
        assert!(close(usage.cost_usd, 0.0008), "{usage:?}");
    }
}

#[test]
fn the_exit_must_agree_with_the_last_word() {
    let linger = parse(SUCCESS.as_bytes(), AgentExit::Lingered).1;
    assert!(linger.success && linger.error.is_none());
    for exit in [AgentExit::Code(1), AgentExit::Signal(9)] {
        let report = parse(SUCCESS.as_bytes(), exit).1;
        assert!(!report.success && report.saw_result_event);
    }
}

#[test]
fn exit_0_without_a_last_word_is_no_success() {
    let cut = SUCCESS.rfind("{\"duration_api_ms\"").unwrap();
    let (events, report) = parse(&SUCCESS.as_bytes()[..cut], AgentExit::Code(0));
    assert!(!report.success && !report.saw_result_event);
    assert_eq!(report.session.as_deref(), Some(SESSION), "it can be resumed");
    // Three answers were begun; what each read is known, and one was on two lines.
    assert_eq!(report.usage.input_tokens, 300);
    assert!(
        !events
            .iter()
            .any(|event| matches!(event, AgentEvent::Result { .. }))
    );
}

#[test]
fn the_last_word_is_known_before_the_program_exits() {
    let mut parser = Claude::default().parser(Usage::default());
    let end = SUCCESS.trim_end().len();
    parser.push(&SUCCESS.as_bytes()[..end]);
    assert!(!parser.ended());
    let events = parser.push(b"\n");
    assert!(parser.ended() && matches!(events.last(), Some(AgentEvent::Result { is_error: false, .. })));
}

#[test]
fn api_failures_are_failures_whatever_the_exit_code() {
    for (output, status) in [(API_500, "500"), (API_401, "401")] {
        for exit in [AgentExit::Code(1), AgentExit::Code(0), AgentExit::Lingered] {
            let (events, report) = parse(output.as_bytes(), exit);
            let error = report.error.unwrap();
            assert!(!report.success && error.contains(status), "{error}");
            assert_eq!(
                events
                    .iter()
                    .filter(|event| matches!(event, AgentEvent::Retry { .. }))
                    .count(),
                2
            );
        }
    }
    insta::assert_json_snapshot!(
        "api-error-events",
        parse(API_500.as_bytes(), AgentExit::Code(1)).0
    );
}

#[test]
fn limits_and_denials_are_failures() {
    let error = parse(MAX_TURNS.as_bytes(), AgentExit::Code(1)).1.error.unwrap();
    assert!(
        error.contains("limit of turns") && error.contains("(1)"),
        "{error}"
    );
    let (events, report) = parse(DENIED.as_bytes(), AgentExit::Code(0));
    let error = report.error.unwrap();
    assert!(!report.success && error.contains("Bash"), "{error}");
    assert!(
        events
            .iter()
            .any(|event| matches!(event, AgentEvent::PermissionDenied { tool, .. } if tool == "Bash"))
    );
}

#[test]
fn a_session_that_is_gone_is_told_apart() {
    let report = parse(UNKNOWN_RESUME.as_bytes(), AgentExit::Code(1)).1;
    assert!(report.session_lost && report.session.is_none());
    assert!(report.error.unwrap().contains("No conversation found"));
    assert!(!parse(API_500.as_bytes(), AgentExit::Code(1)).1.session_lost);
}

#[test]
fn garbage_is_shown_and_is_no_success() {
    let (events, report) = parse(
        b"Segmentation fault\n{\"type\":1}\n[]\n\xff\n",
        AgentExit::Code(0),
    );
    assert_eq!(events.len(), 4);
    assert!(
        events
            .iter()
            .all(|event| matches!(event, AgentEvent::Unparsed { .. }))
    );
    assert!(!report.success);
    let (events, report) = parse(b"cannot start: disk full", AgentExit::Code(127));
    assert_eq!(
        events,
        [AgentEvent::Unparsed {
            line: "cannot start: disk full".into()
        }]
    );
    assert!(report.error.unwrap().contains("disk full"));
}

#[test]
fn a_line_longer_than_the_limit_is_skipped_and_the_rest_is_read() {
    let mut parser = Claude::default().parser(Usage::default());
    let chunk = vec![b'x'; 1 << 20];
    for _ in 0..17 {
        assert!(parser.push(&chunk).is_empty());
    }
    let mut rest = b"\n".to_vec();
    rest.extend_from_slice(SUCCESS.as_bytes());
    let events = parser.push(&rest);
    assert_eq!(events[0], AgentEvent::Skipped { bytes: 17 << 20 });
    assert!(parser.finish(AgentExit::Code(0)).1.success);
}

#[test]
fn what_a_sub_agent_says_is_not_the_agents_word() {
    let line = r#"{"type":"assistant","parent_tool_use_id":"t1","message":{"id":"m","content":[{"type":"text","text":"<result>1</result>"}]}}"#;
    let (events, report) = parse(line.as_bytes(), AgentExit::Code(1));
    assert_eq!(
        events,
        [AgentEvent::Message {
            role: Role::Assistant,
            text: "<result>1</result>".into()
        }]
    );
    assert_eq!(report.result_block, Ok(None));
    assert!(report.final_text.is_empty());
}

#[test]
fn a_session_id_that_could_be_an_option_is_not_taken() {
    let line = br#"{"type":"system","subtype":"init","session_id":"--settings=x"}"#;
    assert_eq!(parse(line, AgentExit::Code(0)).1.session, None);
}

#[test]
fn fields_of_other_shapes_cost_nothing_else() {
    let line = SUCCESS.lines().last().unwrap();
    let mut changed = line.to_owned();
    for (from, to) in [
        (r#""permission_denials":[]"#, r#""permission_denials":7"#),
        (r#""modelUsage":{"#, r#""modelUsage":[],"x":{"#),
        (
            r#""model_usage_since_last_result":{"#,
            r#""model_usage_since_last_result":"no","y":{"#,
        ),
    ] {
        assert!(changed.contains(from), "{from}");
        changed = changed.replace(from, to);
    }
    let report = parse(changed.as_bytes(), AgentExit::Code(0)).1;
    assert!(report.success && report.usage.input_tokens == 300, "{report:?}");
    assert!(close(report.usage.cost_usd, 0.0024), "{report:?}");
}

fn outputs() -> impl Strategy<Value = Vec<u8>> {
    let lines: Vec<Vec<u8>> = [SUCCESS, RESUME, DENIED, API_500, UNKNOWN_RESUME]
        .iter()
        .flat_map(|text| text.lines())
        .map(|line| line.as_bytes().to_vec())
        .collect();
    let line = prop_oneof![
        prop::sample::select(lines),
        prop::collection::vec(any::<u8>(), 0..40),
        "[<>/result{}\":a1\\[\\], ]{0,40}".prop_map(String::into_bytes),
        r#"\{"type":"(assistant|user|system|result)","(message|result|usage|subtype)":(1|null|"x"|\[\{\}\]|\{"content":\[1,\{"type":"text"\}\]\})\}"#
            .prop_map(String::into_bytes),
    ];
    prop::collection::vec(line, 0..12).prop_map(|lines| lines.join(&b'\n'))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn any_bytes_in_any_chunks_give_one_outcome(output in outputs(), chunk in 1usize..200, code in 0i32..2) {
        let command = CommandAgent::new(vec!["x".into()]);
        for kind in [&Claude::default() as &dyn AgentKind, &command] {
            let exit = AgentExit::Code(code);
            let whole = parse_with(kind, &output, exit, Usage::default(), usize::MAX);
            let cut = parse_with(kind, &output, exit, Usage::default(), chunk);
            prop_assert_eq!(whole.1.success, whole.1.error.is_none());
            prop_assert!(!whole.1.success || code == 0);
            prop_assert_eq!(whole, cut);
        }
    }

    #[test]
    fn a_transcript_cut_anywhere_is_no_success(at in 0usize..SUCCESS.trim_end().len()) {
        prop_assert!(!parse(&SUCCESS.as_bytes()[..at], AgentExit::Code(0)).1.success);
    }
}
