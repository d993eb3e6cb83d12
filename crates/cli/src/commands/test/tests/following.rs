//! Following a plan of a server that breaks its connections, and what it ends with.

use super::super::follow::{CtrlC, FollowArguments, exit, follow};
use super::super::story::Story;
use super::{canned, ended, plan, test};
use crate::context::{Context, Session};
use crate::exit::Exit;
use crate::output::Output;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router};
use clap::Parser;
use ostler_contracts::TestView;
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};

/// A server that tells of one plan, a few events per connection, which then breaks.
#[derive(Clone)]
struct Fake {
    events: Arc<Vec<(&'static str, Value)>>,
    per_connection: usize,
    /// What each connection went on after.
    connections: Arc<Mutex<Vec<usize>>>,
    tests: Arc<Vec<TestView>>,
}

async fn events(State(fake): State<Fake>, headers: HeaderMap) -> impl IntoResponse {
    let last = headers
        .get("last-event-id")
        .map_or(0, |id| id.to_str().unwrap().parse().unwrap());
    fake.connections.lock().unwrap().push(last);
    let told = fake
        .events
        .iter()
        .enumerate()
        .skip(last)
        .take(fake.per_connection);
    let text = told.fold(String::new(), |text, (at, (event, data))| {
        text + &format!("id: {}\nevent: {event}\ndata: {data}\n\n", at + 1)
    });
    ([(CONTENT_TYPE, "text/event-stream")], text)
}

async fn logs() -> String {
    let line = |seq: u64, stream: &str, text: &str| {
        format!(
            "{}\n",
            json!({ "seq": seq, "at": "2026-01-01T00:00:00Z", "stream": stream, "text": text })
        )
    };
    line(1, "stdout", "2 != 3\n") + &line(2, "stderr", "panicked\n")
}

#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    follow: FollowArguments,
}

/// How following these tests ends, where every connection went on, and the JUnit report.
async fn followed(
    told: Vec<TestView>,
    last: Vec<TestView>,
    per_connection: usize,
) -> (Exit, Vec<usize>, String) {
    let tests = last.iter().map(|test| test.index).max().unwrap_or_default() as usize + 1;
    let mut events: Vec<(&'static str, Value)> = told
        .into_iter()
        .map(|test| {
            let event = if test.status.is_terminal() {
                "test.finished"
            } else {
                "test.started"
            };
            (event, json!(test))
        })
        .collect();
    events.push(("plan.finished", json!(plan(tests))));
    let fake = Fake {
        events: Arc::new(events),
        per_connection,
        connections: Arc::default(),
        tests: Arc::new(last),
    };
    let all = |State(fake): State<Fake>| async move { Json(json!(*fake.tests)) };
    let router = Router::new()
        .route("/api/v1/plans/{id}/events", get(self::events))
        .route("/api/v1/plans/{id}/tests", get(all))
        .route("/api/v1/runs/{id}/logs", get(logs))
        .with_state(fake.clone());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let server = tokio::spawn(async move { axum::serve(listener, router).await });
    let context = Context {
        data: "/nonexistent".into(),
        json: false,
        server: Some(url),
        token: Some("token".to_owned()),
        tenant: None,
    };
    let session = Session::open(&context, Output::new(false)).unwrap();
    let file = std::env::temp_dir().join(format!(
        "ostler-follow-{}-{per_connection}.xml",
        std::process::id()
    ));
    let arguments = Arguments::parse_from(["test", "--junit", file.to_str().unwrap()]);
    let files = arguments.follow.reports.open().unwrap();
    let exit = follow(&session, plan(tests), &arguments.follow, files, CtrlC::Cancels)
        .await
        .unwrap();
    server.abort();
    let xml = std::fs::read_to_string(&file).unwrap();
    std::fs::remove_file(&file).unwrap();
    let connections = fake.connections.lock().unwrap().clone();
    (exit, connections, xml)
}

#[tokio::test]
async fn broken_connections_lose_and_repeat_nothing() {
    let (exit, connections, xml) = followed(canned(), canned(), 4).await;
    assert_eq!(exit, Exit::FAILED);
    assert_eq!(connections, [0, 4, 8]);
    assert_eq!(xml.matches("<testcase").count(), 9, "{xml}");
    assert!(xml.contains("2 != 3") && xml.contains("flakyFailure"), "{xml}");
}

#[tokio::test]
async fn what_was_not_told_is_asked_for() {
    let mut told = canned();
    told.truncate(3);
    let mut last = canned();
    last.retain(|test| !test.superseded && test.status.is_terminal());
    let (exit, _, xml) = followed(told, last, 100).await;
    assert_eq!(exit, Exit::FAILED);
    assert_eq!(xml.matches("<testcase").count(), 9, "{xml}");
}

#[test]
fn codes() {
    let passed = ended(0, "a", "succeeded", 1, json!({}));
    let flaky = ended(1, "b", "succeeded", 1, json!({ "flaky": true }));
    let failed = ended(2, "c", "failed", 1, json!({ "exit_code": 1 }));
    let tolerated = ended(3, "d", "timed_out", 1, json!({ "tolerated": true }));
    let timed_out = ended(4, "e", "timed_out", 1, json!({}));
    let lost = ended(5, "f", "lost", 1, json!({}));
    let cancelled = test(6, "g", "cancelled", json!({}));
    let skipped = test(7, "h", "skipped", json!({}));
    let cases: [(&[&TestView], Exit); 8] = [
        (&[], Exit::OK),
        (&[&passed, &flaky, &tolerated, &skipped], Exit::OK),
        (&[&passed, &failed], Exit::FAILED),
        (&[&passed, &timed_out, &lost], Exit::FAILED),
        (&[&passed, &failed, &cancelled], Exit::FAILED),
        (&[&passed, &lost, &skipped], Exit::UNAVAILABLE),
        (&[&lost, &cancelled], Exit::UNAVAILABLE),
        (&[&passed, &cancelled], Exit::CANCELLED),
    ];
    for (tests, wanted) in cases {
        let mut story = Story::new(tests.len());
        for test in tests {
            story.test_is((*test).clone());
        }
        assert_eq!(exit(&story.counts(), false), wanted, "{tests:?}");
        assert_eq!(exit(&story.counts(), true), Exit::CANCELLED);
    }
}
