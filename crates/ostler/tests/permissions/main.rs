//! Every endpoint, for every kind of caller, against the real server.
//!
//! The endpoints come from the OpenAPI document that the server serves; what each must answer stands in `rows.rs`. An
//! endpoint without a row fails the test, and so does a row without an endpoint.

#![allow(clippy::unwrap_used, reason = "test code")]

mod rows;
mod world;

use ostler_test_kit::{Postgres, require};
use reqwest::Method;
use rows::{Body, Row, Scope};
use serde_json::Value;
use std::collections::BTreeSet;
use world::{Answer, World};

/// A token of the right form that nobody has.
const UNKNOWN: &str = "ost_0000000000000000000000000000000000000000000000000000000000000000";

fn endpoints(document: &Value) -> BTreeSet<(String, String)> {
    let mut found = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for method in item.as_object().unwrap().keys() {
            if ["get", "put", "post", "delete", "patch"].contains(&method.as_str()) {
                let path = path.strip_prefix("/api/v1").unwrap_or(path);
                found.insert((method.to_uppercase(), path.to_owned()));
            }
        }
    }
    found
}

/// The refusal has the form that every error has.
fn assert_refusal(answer: &Answer, what: &str) {
    let code = match answer.status {
        400 => "INVALID_REQUEST",
        401 => "UNAUTHORIZED",
        403 => "FORBIDDEN",
        404 => "NOT_FOUND",
        409 => "CONFLICT",
        422 => "UNPROCESSABLE",
        503 => "UNAVAILABLE",
        other => panic!("{what}: {other} is no refusal that is expected here: {answer:?}"),
    };
    let error = &answer.body["error"];
    assert_eq!(error["code"], code, "{what}: {answer:?}");
    let said = |name: &str| error[name].as_str().is_some_and(|text| !text.is_empty());
    assert!(said("message") && said("request_id"), "{what}: {answer:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_endpoint_for_every_caller() {
    everything(None).await;
}

/// Where the database keeps tenants apart as well, it must be in nobody's way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_endpoint_for_every_caller_on_postgresql() {
    require!(Postgres);
    let postgres = Postgres::shared();
    everything(Some(&postgres.database())).await;
}

async fn everything(database: Option<&str>) {
    let directory = tempfile::tempdir().unwrap();
    let world = World::new(directory.path(), database).await;
    assert!(!world.server.log().contains("row-level security is not in force"));
    let document = world.server.get("/openapi.json").await;
    let rows = rows::rows();
    let known: BTreeSet<(String, String)> = rows
        .iter()
        .map(|row| (row.method.to_string(), row.path.to_owned()))
        .collect();
    assert_eq!(known.len(), rows.len(), "a row is there twice");
    let served = endpoints(&document);
    let missing: Vec<_> = served.difference(&known).collect();
    assert!(
        missing.is_empty(),
        "these endpoints have no row in crates/ostler/tests/permissions/rows.rs, which says who may use them: {missing:?}"
    );
    let gone: Vec<_> = known.difference(&served).collect();
    assert!(gone.is_empty(), "these rows have no endpoint: {gone:?}");
    let mut wrong = Vec::new();
    for row in &rows {
        check(&world, row, &mut wrong).await;
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

async fn check(world: &World, row: &Row, wrong: &mut Vec<String>) {
    let made = world.make(row.on).await;
    let path = fill(row.path, &made);
    let body = match row.body {
        Body::None => None,
        Body::Json(make) => Some(make(world)),
        Body::Bytes => Some(Value::Null),
    };
    let call = async |token: Option<&str>, path: &str| {
        world
            .call(row.method.clone(), path, row.query, token, body.clone())
            .await
    };
    let mut expect = |who: &str, answer: &Answer, wanted: u16| {
        if answer.status != wanted {
            wrong.push(format!(
                "{} {path} for {who}: {wanted} was expected, and {} came: {}",
                row.method, answer.status, answer.body
            ));
        } else if wanted >= 400 {
            assert_refusal(answer, &format!("{} {path} for {who}", row.method));
        }
    };
    let anybody = row.scope == Scope::Open;
    let open = |code: u16| if anybody { row.right } else { code };
    expect("nobody", &call(None, &path).await, open(401));
    expect("an unknown token", &call(Some(UNKNOWN), &path).await, open(401));
    if anybody {
        return;
    }
    // Everything but the permission, in one's own tenant.
    let lacking = world.all_but(row.scope, row.needs).await;
    let own = call(Some(&lacking), &path).await;
    let wanted = if row.needs.is_empty() {
        row.right
    } else {
        row.lacking.unwrap_or(403)
    };
    expect("one without the permission", &own, wanted);
    // Everything, in another tenant. What is no object answers there like here, with what is there.
    let other = call(Some(&world.other), &path).await;
    let wanted = match row.scope {
        Scope::Platform if row.on.is_of_tenant() => 404,
        Scope::Platform => 403,
        _ if row.on.is_of_tenant() => 404,
        _ => row.elsewhere.unwrap_or(row.right),
    };
    expect("another tenant", &other, wanted);
    let secret = made.iter().filter(|_| row.on.is_of_tenant());
    for id in secret.chain([&world.home_id]) {
        let told = other.status < 400 && other.body.to_string().contains(id.as_str());
        assert!(
            !told,
            "{} {path} tells another tenant of {id}: {other:?}",
            row.method
        );
    }
    // To another tenant what is there and what is not look the same, but for the id that was asked for.
    if row.on.is_of_tenant() {
        let strange = World::strange(row.on);
        let absent = call(Some(&world.other), &fill(row.path, &strange)).await;
        let shape = |answer: &Answer, ids: &[String]| {
            let mut text = answer.body["error"]["message"].to_string();
            for id in ids {
                text = text.replace(id, "…");
            }
            (answer.status, text)
        };
        assert_eq!(
            shape(&other, &made),
            shape(&absent, &strange),
            "{} {path}",
            row.method
        );
    }
    // At last the one who may, with this permission alone.
    let right = world.only(row.scope, row.needs).await;
    expect(
        "one with the permission",
        &call(Some(&right), &path).await,
        row.right,
    );
}

/// The path with its variables filled in, in order.
fn fill(path: &str, values: &[String]) -> String {
    let mut values = values.iter();
    let parts = path.split('/').map(|part| {
        if part.starts_with('{') {
            values
                .next()
                .unwrap_or_else(|| panic!("{path} has more variables"))
                .clone()
        } else {
            part.to_owned()
        }
    });
    parts.collect::<Vec<_>>().join("/")
}

#[test]
fn variables_are_filled_in() {
    let values = ["a".to_owned(), "b".to_owned()];
    assert_eq!(fill("/users/{id}/roles/{role}", &values), "/users/a/roles/b");
    assert_eq!(Method::GET.to_string(), "GET");
}
