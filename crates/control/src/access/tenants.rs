//! Tenants: made, renamed and removed by administrators of the platform.

use super::{in_use, taken};
use crate::conflict::retry_on_conflict;
use crate::{Caller, Control, ControlError, Result};
use ostler_domain::{Permission, Project, RunStatus, Sandbox, SandboxStatus, Tenant, TenantId, slug};
use ostler_store::{Change, Filter, Op, RunFilter, StoreExt};
use serde_json::json;

impl Control {
    /// All tenants, by name.
    pub async fn tenants(&self, caller: &Caller) -> Result<Vec<Tenant>> {
        caller.require(Permission::Admin)?;
        Ok(self.parts.store.list(Filter::all().order_by("name")).await?)
    }

    /// One tenant: one's own, or for administrators of the platform any.
    pub async fn tenant(&self, caller: &Caller, id: TenantId) -> Result<Tenant> {
        let tenant = self.visible_tenant(caller, id).await?;
        caller.require(Permission::TenantAdmin)?;
        Ok(tenant)
    }

    /// Makes a tenant.
    pub async fn create_tenant(&self, caller: &Caller, name: &str) -> Result<Tenant> {
        caller.require(Permission::Admin)?;
        check_tenant_name(name)?;
        let tenant = Tenant {
            id: TenantId::new(),
            name: name.to_owned(),
            created_at: self.now(),
            version: 0,
        };
        let by = self.acting(caller, "tenant.create", tenant.id, json!({ "name": name }));
        taken(by.commit(vec![Change::insert(&tenant)]).await, "tenant", name)?;
        Ok(tenant)
    }

    /// Gives a tenant another name.
    pub async fn rename_tenant(&self, caller: &Caller, id: TenantId, name: &str) -> Result<Tenant> {
        check_tenant_name(name)?;
        let done = retry_on_conflict!({
            let mut tenant = self.visible_tenant(caller, id).await?;
            caller.require(Permission::Admin)?;
            let details = json!({ "from": tenant.name, "to": name });
            name.clone_into(&mut tenant.name);
            let by = self.acting(caller, "tenant.rename", id, details);
            by.commit(vec![Change::update(&tenant)]).await?;
            tenant.version += 1;
            Ok(tenant)
        });
        taken(done, "tenant", name)
    }

    /// Removes a tenant with its users, roles, tokens and credentials. Refused while it has projects, agents or runs.
    pub async fn remove_tenant(&self, caller: &Caller, id: TenantId) -> Result<()> {
        let tenant = self.visible_tenant(caller, id).await?;
        caller.require(Permission::Admin)?;
        if id == TenantId::DEFAULT {
            return Err(ControlError::Conflict(
                "the default tenant is the platform's own and stays".into(),
            ));
        }
        let projects = Filter::<Project>::by("tenant_id", id).limit(1);
        if let Some(project) = self.parts.store.first(projects).await? {
            return Err(ControlError::Conflict(format!(
                "the tenant has projects ({}); remove them first",
                project.name
            )));
        }
        for status in [RunStatus::Queued, RunStatus::Running] {
            let live = RunFilter {
                tenant_id: Some(id),
                status: Some(status),
                limit: 1,
                ..RunFilter::default()
            };
            if let Some(run) = self.parts.store.runs(live).await?.first() {
                return Err(ControlError::Conflict(format!(
                    "the run {} of this tenant is {status}; cancel it first",
                    run.submitted.id
                )));
            }
        }
        let sandboxes: Vec<Sandbox> = self.parts.store.list(Filter::by("tenant_id", id)).await?;
        if let Some(live) = sandboxes.iter().find(|s| s.status != SandboxStatus::Destroyed) {
            return Err(ControlError::Conflict(format!(
                "the tenant holds the sandbox {}; end it first",
                live.id
            )));
        }
        self.remove_artifacts_of(id).await?;
        let mut changes: Vec<Change> = sandboxes.iter().map(Change::delete).collect();
        changes.push(Change::delete(&tenant));
        let by = self.acting(caller, "tenant.remove", id, json!({ "name": tenant.name }));
        in_use(
            by.commit(changes).await,
            "something was given to the tenant in the meantime; look what it has, and try again",
        )
    }

    /// A tenant as far as the caller may know of it.
    async fn visible_tenant(&self, caller: &Caller, id: TenantId) -> Result<Tenant> {
        let known = caller.tenant_id == id || caller.permissions.allow(Permission::Admin);
        let tenant = if known {
            let filter = Filter::<Tenant>::all().and("id", Op::Eq, id);
            self.parts.store.first(filter).await?
        } else {
            None
        };
        tenant.ok_or_else(|| ControlError::NotFound {
            what: "tenant",
            id: id.to_string(),
        })
    }
}

/// Tenants are named in a header and in addresses.
fn check_tenant_name(name: &str) -> Result<()> {
    if name.is_empty() || slug(name, 60) != name {
        return Err(ControlError::Invalid(
            "a tenant's name is 1 to 60 lower-case letters, digits and single hyphens".into(),
        ));
    }
    Ok(())
}
