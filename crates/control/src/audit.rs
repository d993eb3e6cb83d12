//! The audit log: who did what to which object.
//!
//! An entry is written in the same commit as what it tells of, so that neither is there without the other. A use case
//! says [`Control::acting`] and works with the [`Control`] that it gets: whichever commit is its first, be it deep in a
//! function that reconcilers use as well, carries the entry. What is tried again after a lost race is told once. A use
//! case that changes nothing leaves no entry.

use crate::{Caller, Control, Result};
use ostler_domain::{AuditEntry, AuditId, Permission, Run, TenantId, TokenId, User};
use ostler_store::{Change, Filter, Op, StoreExt};
use serde::Serialize;
use std::fmt::Display;
use std::sync::{Arc, Mutex, PoisonError};

/// Most entries of one answer.
const MAX_PAGE: u32 = 1000;

/// Who acts, in the words of the audit log.
pub(crate) struct Actor {
    tenant_id: TenantId,
    name: String,
    token_id: Option<TokenId>,
    request_id: Option<String>,
}

impl From<&Caller> for Actor {
    fn from(caller: &Caller) -> Self {
        let user = caller.user_id.map(|id| id.to_string());
        let token = caller.token_id.map(|id| id.to_string());
        Self {
            tenant_id: caller.tenant_id,
            name: user.or(token).unwrap_or_else(|| "administrator".to_owned()),
            token_id: caller.token_id,
            request_id: caller.request_id.clone(),
        }
    }
}

/// A program in the sandbox of a run.
impl From<&Run> for Actor {
    fn from(run: &Run) -> Self {
        Self {
            tenant_id: run.submitted.tenant_id,
            name: run.submitted.id.to_string(),
            token_id: None,
            request_id: None,
        }
    }
}

/// An entry that waits for the commit that it belongs to.
#[derive(Clone, Default)]
pub(crate) struct Pending(Option<Arc<Mutex<Option<Change>>>>);

impl Pending {
    pub(crate) fn take(&self) -> Option<Change> {
        self.0
            .as_ref()?
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }

    /// The commit did not come about.
    pub(crate) fn put_back(&self, entry: Change) {
        if let Some(place) = &self.0 {
            *place.lock().unwrap_or_else(PoisonError::into_inner) = Some(entry);
        }
    }
}

/// Which entries are wanted.
#[derive(Debug, Clone, Default)]
pub struct AuditQuery {
    /// Done by this user (id or name), service token or run (id).
    pub actor: Option<String>,
    /// Such as `project.create`.
    pub action: Option<String>,
    /// Kind of object, such as `project`.
    pub kind: Option<String>,
    /// Id or name of the object.
    pub object: Option<String>,
    /// Only later ones than this, oldest first; otherwise newest first.
    pub after: Option<AuditId>,
    /// Only earlier ones than this.
    pub before: Option<AuditId>,
    /// At most this many; 100 when absent, 1000 at most.
    pub limit: Option<u32>,
}

impl Control {
    /// A handle whose first commit carries an entry of the audit log: `action` is the kind of object, a dot, and what is
    /// done to it. The details hold no secrets, and no text of people that may hold some.
    pub(crate) fn acting(
        &self,
        actor: impl Into<Actor>,
        action: &'static str,
        object: impl Display,
        details: impl Serialize,
    ) -> Self {
        let entry = Some(self.audit_entry(actor, action, object, details));
        Self {
            pending: Pending(Some(Arc::new(Mutex::new(entry)))),
            ..self.clone()
        }
    }

    /// The entry alone, for what is not written by [`Control::commit`].
    pub(crate) fn audit_entry(
        &self,
        actor: impl Into<Actor>,
        action: &'static str,
        object: impl Display,
        details: impl Serialize,
    ) -> Change {
        let actor = actor.into();
        Change::insert(&AuditEntry {
            id: AuditId::new(),
            at: self.now(),
            tenant_id: actor.tenant_id,
            actor: actor.name,
            token_id: actor.token_id,
            action: action.to_owned(),
            kind: action.split('.').next().unwrap_or_default().to_owned(),
            object: object.to_string(),
            request_id: actor.request_id,
            details: serde_json::to_value(details).unwrap_or_default(),
        })
    }

    /// Writes an entry by itself, before something is done that is no change of the database.
    pub(crate) async fn note_act(
        &self,
        actor: impl Into<Actor>,
        action: &'static str,
        object: impl Display,
        details: impl Serialize,
    ) -> Result<()> {
        self.acting(actor, action, object, details)
            .commit(Vec::new())
            .await
    }

    /// Entries of the tenant's audit log.
    pub async fn audit_log(&self, caller: &Caller, query: AuditQuery) -> Result<Vec<AuditEntry>> {
        caller.require(Permission::AuditRead)?;
        let mut filter = Filter::<AuditEntry>::by("tenant_id", caller.tenant_id);
        if let Some(actor) = query.actor {
            let named = Filter::<User>::by("tenant_id", caller.tenant_id).and("name", Op::Eq, actor.clone());
            let user = self.parts.store.first(named).await?;
            filter = filter.and("actor", Op::Eq, user.map_or(actor, |user| user.id.to_string()));
        }
        for (column, wanted) in [
            ("action", query.action),
            ("kind", query.kind),
            ("object", query.object),
        ] {
            if let Some(wanted) = wanted {
                filter = filter.and(column, Op::Eq, wanted);
            }
        }
        filter = match query.after {
            Some(after) => filter.and("id", Op::Gt, after).order_by("id"),
            None => filter.order_by_desc("id"),
        };
        if let Some(before) = query.before {
            filter = filter.and("id", Op::Lt, before);
        }
        let limit = query.limit.unwrap_or(100).clamp(1, MAX_PAGE);
        Ok(self.parts.store.list(filter.limit(limit)).await?)
    }
}
