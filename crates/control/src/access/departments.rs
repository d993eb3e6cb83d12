//! Departments of a tenant.

use super::{checked_name, in_use, taken};
use crate::conflict::retry_on_conflict;
use crate::{Caller, Control, ControlError, Result};
use ostler_domain::{Department, DepartmentId, Permission, Sandbox, SandboxStatus, TenantId};
use ostler_store::{Change, Filter, Op, StoreExt};
use serde_json::json;

impl Control {
    /// The tenant's departments, by name. Whoever may see agents may see what they belong to.
    pub async fn departments(&self, caller: &Caller) -> Result<Vec<Department>> {
        caller.require(Permission::AgentsRead)?;
        let own = Filter::by("tenant_id", caller.tenant_id).order_by("name");
        Ok(self.parts.store.list(own).await?)
    }

    /// Makes a department.
    pub async fn create_department(&self, caller: &Caller, name: &str) -> Result<Department> {
        caller.require(Permission::TenantAdmin)?;
        let department = Department {
            id: DepartmentId::new(),
            tenant_id: caller.tenant_id,
            name: checked_name("department", name)?,
            created_at: self.now(),
            version: 0,
        };
        let details = json!({ "name": department.name });
        let by = self.acting(caller, "department.create", department.id, details);
        taken(
            by.commit(vec![Change::insert(&department)]).await,
            "department",
            &department.name,
        )?;
        Ok(department)
    }

    /// Gives a department another name.
    pub async fn rename_department(
        &self,
        caller: &Caller,
        id: DepartmentId,
        name: &str,
    ) -> Result<Department> {
        let name = checked_name("department", name)?;
        let done = retry_on_conflict!({
            let mut department = self.department_of(caller.tenant_id, id).await?;
            caller.require(Permission::TenantAdmin)?;
            let details = json!({ "from": department.name, "to": name });
            department.name.clone_from(&name);
            let by = self.acting(caller, "department.rename", id, details);
            by.commit(vec![Change::update(&department)]).await?;
            department.version += 1;
            Ok(department)
        });
        taken(done, "department", &name)
    }

    /// Removes a department that no user and no agent is in.
    pub async fn remove_department(&self, caller: &Caller, id: DepartmentId) -> Result<()> {
        let department = self.department_of(caller.tenant_id, id).await?;
        caller.require(Permission::TenantAdmin)?;
        let held = Filter::<Sandbox>::by("department_id", id).and("status", Op::Ne, SandboxStatus::Destroyed);
        if let Some(agent) = self.parts.store.first(held).await? {
            return Err(ControlError::Conflict(format!(
                "the agent {} belongs to the department; end it first",
                agent.id
            )));
        }
        let by = self.acting(
            caller,
            "department.remove",
            id,
            json!({ "name": department.name }),
        );
        in_use(
            by.commit(vec![Change::delete(&department)]).await,
            "users belong to the department; move them first",
        )
    }

    /// A department of the tenant; one of another tenant is not there.
    pub(crate) async fn department_of(&self, tenant: TenantId, id: DepartmentId) -> Result<Department> {
        self.owned("department", tenant, id).await
    }
}
