//! Sandboxes: claimed by one statement, stamped and counted.

use super::records::stored;
use super::samples::*;
use crate::{
    Change, Filter, NewEvent, Record, SandboxBrief, SandboxSecrets, SandboxStamp, Store, StoreError,
    StoreExt, Told,
};
use ostler_domain as d;
use ostler_domain::{SandboxStatus, ServerId};
use serde_json::json;
use std::sync::Arc;

/// The oldest warm member of the pool on that server, with the new holder's values; no other is touched.
pub async fn sandboxes_are_claimed_oldest_first(store: Arc<dyn Store>) {
    let store = &*store;
    let owner = some_tenant(store).await;
    let server = ServerId::new();
    let member = |created: i64| d::Sandbox {
        server_id: server,
        created_at: at(created),
        reason: None,
        ..sandbox(None, None)
    };
    let (young, old) = (member(30), member(10));
    let twin = d::Sandbox {
        id: d::SandboxId::new(),
        ..member(20)
    };
    let earlier_twin = d::Sandbox {
        id: d::SandboxId::from_u128(1),
        ..twin.clone()
    };
    let elsewhere = d::Sandbox {
        server_id: ServerId::new(),
        ..member(1)
    };
    let other_pool = d::Sandbox {
        pool: "other".into(),
        ..member(1)
    };
    let starting = d::Sandbox {
        status: SandboxStatus::Provisioning,
        ..member(1)
    };
    let all = [young, old, twin, earlier_twin, elsewhere, other_pool, starting];
    store
        .commit(all.iter().map(Change::insert).collect())
        .await
        .unwrap();
    let [young, old, twin, earlier_twin, elsewhere, other_pool, starting] = all;
    for expected in [old, earlier_twin, twin, young] {
        let department = d::DepartmentId::new();
        let mut claim = claim_sandbox("default", server, owner);
        claim.department_id = Some(department);
        let claimed = store.claim_sandbox(claim, None).await.unwrap().unwrap();
        let wanted = d::Sandbox {
            tenant_id: Some(owner),
            department_id: Some(department),
            status: SandboxStatus::Running,
            config: json!({"held": true}),
            tool_allowlist: Some(vec!["git".into()]),
            for_run: true,
            claimed_at: Some(at(5000)),
            used_at: Some(at(5000)),
            version: 2,
            ..expected
        };
        assert_eq!(claimed, wanted);
        assert_eq!(stored(store, &claimed).await, Some(wanted));
    }
    // What tells of a claim is written with it, and only with one that comes about.
    let told: Told = Arc::new(move |sandbox: &d::Sandbox| {
        vec![Change::Event(NewEvent {
            tenant_id: sandbox.tenant_id,
            kind: "told".into(),
            subject: sandbox.id.to_string(),
            data: json!({"version": sandbox.version}),
            at: at(5000),
        })]
    });
    let since = store.last_event().await.unwrap();
    let none = store
        .claim_sandbox(claim_sandbox("default", server, owner), Some(told.clone()))
        .await;
    assert_eq!(none.unwrap(), None);
    assert_eq!(store.last_event().await.unwrap(), since);
    let one_more = d::Sandbox {
        server_id: server,
        ..sandbox(None, None)
    };
    store.commit(vec![Change::insert(&one_more)]).await.unwrap();
    let wrong: Told = Arc::new(|sandbox: &d::Sandbox| vec![Change::insert(sandbox)]);
    let twice = store
        .claim_sandbox(claim_sandbox("default", server, owner), Some(wrong))
        .await;
    assert!(matches!(twice, Err(StoreError::Duplicate { .. })), "{twice:?}");
    assert_eq!(stored(store, &one_more).await, Some(one_more.clone()));
    let claimed = store
        .claim_sandbox(claim_sandbox("default", server, owner), Some(told))
        .await;
    let claimed = claimed.unwrap().unwrap();
    assert_eq!(claimed.id, one_more.id);
    let events = store.events(Some(owner), since, 10).await.unwrap();
    let events: Vec<_> = events
        .into_iter()
        .map(|e| (e.event.kind, e.event.subject, e.event.data))
        .collect();
    assert_eq!(
        events,
        [("told".to_owned(), claimed.id.to_string(), json!({"version": 2}))]
    );
    // A part of the rows, by a condition that is written out.
    let briefs = Filter::<SandboxBrief>::by("id", claimed.id).unlike("status", "destroyed");
    let brief = SandboxBrief {
        id: claimed.id,
        tenant_id: claimed.tenant_id,
        driver: claimed.driver,
        host: claimed.host.clone(),
        server_id: claimed.server_id,
        status: claimed.status,
        paused: claimed.paused,
        failures: claimed.failures,
    };
    assert_eq!(store.list(briefs).await.unwrap(), [brief]);
    let none = Filter::<SandboxBrief>::by("id", claimed.id).unlike("status", "running");
    assert_eq!(store.list(none).await.unwrap(), []);
    for untouched in [elsewhere, other_pool, starting] {
        assert_eq!(stored(store, &untouched).await, Some(untouched));
    }
}

/// Sixteen claimers, forty sandboxes: each is given once.
pub async fn concurrent_claims_of_sandboxes_never_double(store: Arc<dyn Store>) {
    let owner = some_tenant(&*store).await;
    let server = ServerId::new();
    let members: Vec<d::Sandbox> = (0..40)
        .map(|n| d::Sandbox {
            server_id: server,
            created_at: at(n),
            ..sandbox(None, None)
        })
        .collect();
    store
        .commit(members.iter().map(Change::insert).collect())
        .await
        .unwrap();
    let claimers: Vec<_> = (0..16)
        .map(|_| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                let mut got = Vec::new();
                while let Some(sandbox) = store
                    .claim_sandbox(claim_sandbox("default", server, owner), None)
                    .await
                    .unwrap()
                {
                    got.push(sandbox.id);
                }
                got
            })
        })
        .collect();
    let mut got = Vec::new();
    for claimer in claimers {
        got.extend(claimer.await.unwrap());
    }
    got.sort();
    let mut expected: Vec<_> = members.iter().map(|m| m.id).collect();
    expected.sort();
    assert_eq!(got, expected);
}

/// Sandboxes are stamped without a new version, counted by where and how they are, and samples of their use are pruned.
pub async fn sandboxes_are_stamped_counted_and_pruned(store: Arc<dyn Store>) {
    let store = &*store;
    let owner = some_tenant(store).await;
    let server = ServerId::new();
    let of = |host: &str, status: SandboxStatus| d::Sandbox {
        server_id: server,
        host: host.into(),
        status,
        ..sandbox(Some(owner), None)
    };
    let all = [
        of("a", SandboxStatus::Running),
        of("a", SandboxStatus::Running),
        of("b", SandboxStatus::Running),
        of("a", SandboxStatus::Warm),
        of("a", SandboxStatus::Destroyed),
    ];
    store
        .commit(all.iter().map(Change::insert).collect())
        .await
        .unwrap();
    let counts: Vec<_> = store
        .sandbox_counts()
        .await
        .unwrap()
        .into_iter()
        .filter(|c| c.server_id == server)
        .map(|c| (c.host, c.status, c.count))
        .collect();
    assert_eq!(
        counts,
        [
            ("a".to_owned(), SandboxStatus::Running, 2),
            ("a".to_owned(), SandboxStatus::Warm, 1),
            ("b".to_owned(), SandboxStatus::Running, 1),
        ]
    );

    let ids = vec![all[0].id, all[3].id];
    for (what, when) in [
        (SandboxStamp::Checked, at(99)),
        (SandboxStamp::Used, at(98)),
        (SandboxStamp::Secrets, at(97)),
    ] {
        store.stamp_sandboxes(ids.clone(), what, when).await.unwrap();
    }
    for (n, before) in all.iter().enumerate() {
        let mut wanted = before.clone();
        if n == 0 || n == 3 {
            (wanted.checked_at, wanted.used_at) = (Some(at(99)), Some(at(98)));
        }
        assert_eq!(stored(store, before).await, Some(wanted));
    }
    // That they were given secrets outlives every change of their record.
    for n in [0, 1] {
        let mut changed = stored(store, &all[n]).await.unwrap();
        changed.config = serde_json::Value::Null;
        store.commit(vec![Change::update(&changed)]).await.unwrap();
        let given: Option<SandboxSecrets> = store.get(all[n].id).await.unwrap();
        assert_eq!(given.unwrap().secrets_at, (n == 0).then_some(at(97)));
    }

    let samples: Vec<d::UsageSample> = (1..=4).map(|n| usage(at(n), Some(owner))).collect();
    store
        .commit(samples.iter().map(Change::insert).collect())
        .await
        .unwrap();
    assert_eq!(store.prune(d::UsageSample::TABLE, "at", at(3)).await.unwrap(), 2);
    let left: Vec<d::UsageSample> = store.list(Filter::all().order_by("at")).await.unwrap();
    assert_eq!(left, samples[2..]);
}
