//! Users, roles, tokens and credentials, and the audit log.

use super::records::{round_trip, stored};
use super::samples::{self, *};
use crate::{Change, Filter, Record, Store, StoreError, StoreExt};
use ostler_domain as d;
use std::sync::Arc;

/// A part of [`records_round_trip`](super::records_round_trip).
pub(super) async fn access_round_trips(store: &dyn Store, owner: d::TenantId) {
    let part = department(owner);
    let (somebody, some_role) = (user(owner, None), role(Some(owner)));
    let changes = [
        Change::insert(&part),
        Change::insert(&somebody),
        Change::insert(&some_role),
    ];
    store.commit(changes.into()).await.unwrap();

    let first = department(owner);
    let second = d::Department {
        id: first.id,
        ..department(owner)
    };
    round_trip(store, first, Some(second)).await;
    for (before, after) in [(None, Some(part.id)), (Some(part.id), None)] {
        let first = user(owner, before);
        let second = d::User {
            id: first.id,
            ..user(owner, after)
        };
        round_trip(store, first, Some(second)).await;
    }
    for tenant in [Some(owner), None] {
        let first = role(tenant);
        let second = d::Role {
            id: first.id,
            permissions: d::Permissions::default(),
            ..role(tenant)
        };
        round_trip(store, first, Some(second)).await;
    }
    let assignment = d::RoleAssignment {
        user_id: somebody.id,
        role_id: some_role.id,
        tenant_id: owner,
    };
    round_trip(store, assignment, None).await;
    let first = token(owner, true);
    let second = d::ApiToken {
        user_id: Some(somebody.id),
        ..first.clone()
    };
    round_trip(store, first, Some(second)).await;
    let first = credential(owner);
    let second = d::Credential {
        id: first.id,
        kind: d::CredentialKind::GithubToken,
        ..credential(owner)
    };
    round_trip(store, first, Some(second)).await;
    let second = crate::CredentialCheck {
        key_id: "another".into(),
        ..credential_check()
    };
    round_trip(store, credential_check(), Some(second)).await;
}

/// What the audit log holds stays, whatever becomes of what it tells of.
pub async fn the_audit_log_is_append_only(store: Arc<dyn Store>) {
    let store = &*store;
    let tenant = samples::tenant();
    let entries = [audit_entry(tenant.id, true), audit_entry(tenant.id, false)];
    let mut changes = vec![Change::insert(&tenant)];
    changes.extend(entries.iter().map(Change::insert));
    store.commit(changes).await.unwrap();
    let mut values = entries[0].to_values();
    values[1] = crate::Value::Int(0);
    let table = d::AuditEntry::TABLE;
    for change in [
        Change::delete(&entries[0]),
        Change::Update {
            table,
            values,
            expected: 0,
        },
    ] {
        // The tenant must come back with it.
        let result = store.commit(vec![Change::delete(&tenant), change]).await;
        assert!(result.is_err(), "{result:?}");
    }
    assert!(stored(store, &tenant).await.is_some());
    store.commit(vec![Change::delete(&tenant)]).await.unwrap();
    let left: Vec<d::AuditEntry> = store.list(Filter::by("tenant_id", tenant.id)).await.unwrap();
    assert_eq!(left, entries, "in the order in which they were made");
}

/// What goes with a user and with a tenant, and what cannot go while it is used.
pub async fn access_goes_with_its_owner(store: Arc<dyn Store>) {
    let store = &*store;
    let tenant = samples::tenant();
    let part = department(tenant.id);
    let people = [user(tenant.id, Some(part.id)), user(tenant.id, None)];
    let (own, built_in) = (role(Some(tenant.id)), role(None));
    let mut changes = vec![
        Change::insert(&tenant),
        Change::insert(&part),
        Change::insert(&own),
        Change::insert(&built_in),
        Change::insert(&credential(tenant.id)),
    ];
    for somebody in &people {
        changes.push(Change::insert(somebody));
        let held = d::ApiToken {
            user_id: Some(somebody.id),
            ..token(tenant.id, false)
        };
        changes.push(Change::insert(&held));
        for role in [&own, &built_in] {
            changes.push(Change::insert(&d::RoleAssignment {
                user_id: somebody.id,
                role_id: role.id,
                tenant_id: tenant.id,
            }));
        }
    }
    store.commit(changes).await.unwrap();
    for used in [
        Change::delete(&part),
        Change::delete(&own),
        Change::delete(&built_in),
    ] {
        let result = store.commit(vec![used]).await;
        assert!(matches!(result, Err(StoreError::Reference { .. })), "{result:?}");
    }
    store.commit(vec![Change::delete(&people[0])]).await.unwrap();
    let left: Vec<d::ApiToken> = store.list(Filter::by("tenant_id", tenant.id)).await.unwrap();
    assert_eq!(
        left.iter().map(|t| t.user_id).collect::<Vec<_>>(),
        [Some(people[1].id)]
    );
    store.commit(vec![Change::delete(&part)]).await.unwrap();
    store.commit(vec![Change::delete(&tenant)]).await.unwrap();
    let assigned: Vec<d::RoleAssignment> = store.list(Filter::all()).await.unwrap();
    let sealed: Vec<d::Credential> = store.list(Filter::all()).await.unwrap();
    let tokens: Vec<d::ApiToken> = store.list(Filter::by("tenant_id", tenant.id)).await.unwrap();
    assert!(assigned.is_empty() && sealed.is_empty() && tokens.is_empty());
    let roles: Vec<d::Role> = store.list(Filter::all()).await.unwrap();
    assert_eq!(roles, [built_in], "those that Ostler brings along are nobody's");
}
