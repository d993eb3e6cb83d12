//! Tenants, who belongs to them, and what is kept for them.

use super::{AWKWARD, at, either};
use crate::{AgentSession, Change, CredentialCheck, KeptReply, Store};
use ostler_domain as d;
use ostler_domain::{RunId, TenantId};
use serde_json::json;

pub(in crate::conformance) fn tenant() -> d::Tenant {
    let id = TenantId::new();
    d::Tenant {
        id,
        name: format!("tenant {id}"),
        created_at: at(1_700_000_000_000_001),
        version: 1,
    }
}

pub(in crate::conformance) fn department(tenant_id: TenantId) -> d::Department {
    let id = d::DepartmentId::new();
    d::Department {
        id,
        tenant_id,
        name: format!("department {id}"),
        created_at: at(1),
        version: 1,
    }
}

pub(in crate::conformance) fn user(tenant_id: TenantId, department_id: Option<d::DepartmentId>) -> d::User {
    let id = d::UserId::new();
    d::User {
        id,
        tenant_id,
        name: format!("user {id}"),
        email: department_id.map(|_| AWKWARD.into()),
        department_id,
        disabled_at: department_id.map(|_| at(9)),
        created_at: at(1),
        version: 1,
    }
}

pub(in crate::conformance) fn role(tenant_id: Option<TenantId>) -> d::Role {
    let id = d::RoleId::new();
    d::Role {
        id,
        tenant_id,
        name: format!("role {id}"),
        permissions: [d::Permission::AuditRead, d::Permission::TenantAdmin]
            .into_iter()
            .collect(),
        created_at: at(1),
        version: 1,
    }
}

pub(in crate::conformance) fn credential(tenant_id: TenantId) -> d::Credential {
    let id = d::CredentialId::new();
    d::Credential {
        id,
        tenant_id,
        kind: d::CredentialKind::SshKey,
        name: format!("credential {id}"),
        ciphertext: "c2VhbGVk".into(),
        nonce: "bm9uY2U=".into(),
        key_id: "0d8f".into(),
        created_at: at(1),
        updated_at: at(2),
        version: 1,
    }
}

pub(in crate::conformance) fn credential_check() -> CredentialCheck {
    CredentialCheck {
        id: CredentialCheck::ID,
        key_id: "0d8f".into(),
        ciphertext: "c2VhbGVk".into(),
        nonce: "bm9uY2U=".into(),
        version: 1,
    }
}

pub(in crate::conformance) fn audit_entry(tenant_id: TenantId, full: bool) -> d::AuditEntry {
    d::AuditEntry {
        id: d::AuditId::new(),
        at: at(4),
        tenant_id,
        actor: "development".into(),
        token_id: full.then(d::TokenId::new),
        action: "project.create".into(),
        kind: "project".into(),
        object: AWKWARD.into(),
        request_id: full.then(|| "r".into()),
        details: either(full, json!({ "name": AWKWARD }), json!(null)),
    }
}

/// A tenant that is there.
pub(in crate::conformance) async fn some_tenant(store: &dyn Store) -> TenantId {
    let tenant = tenant();
    store.commit(vec![Change::insert(&tenant)]).await.unwrap();
    tenant.id
}

pub(in crate::conformance) fn token(tenant_id: TenantId, full: bool) -> d::ApiToken {
    let id = d::TokenId::new();
    d::ApiToken {
        id,
        tenant_id,
        user_id: None,
        name: AWKWARD.into(),
        prefix: "ost_ab".into(),
        hash: format!("hash of {id}"),
        permissions: either(
            full,
            [d::Permission::RunsRead, d::Permission::Admin]
                .into_iter()
                .collect(),
            d::Permissions::default(),
        ),
        created_at: at(2),
        expires_at: full.then_some(at(i64::MAX)),
        last_used_at: full.then_some(at(3)),
        revoked_at: full.then_some(at(-4)),
        version: 1,
    }
}

pub(in crate::conformance) fn kept_reply(tenant_id: TenantId) -> KeptReply {
    let run_id = RunId::new();
    KeptReply {
        id: format!("{run_id}:1"),
        tenant_id,
        run_id,
        stdout: AWKWARD.into(),
        stderr: String::new(),
        code: -1,
        created_at: at(6),
    }
}

pub(in crate::conformance) fn agent_session(tenant_id: TenantId, subject: &str) -> AgentSession {
    AgentSession {
        subject: subject.into(),
        tenant_id,
        agent_session: "0d8f".into(),
        totals: d::Usage {
            input_tokens: 1,
            output_tokens: 1 << 40,
            cache_read_tokens: 3,
            cache_write_tokens: 4,
            cost_usd: 0.125,
        },
        expires_at: at(22),
        version: 1,
    }
}
