//! Roles, and who has them.

use super::{checked_name, in_use, taken};
use crate::conflict::retry_on_conflict;
use crate::{Caller, Control, ControlError, Result};
use ostler_domain::{Permission, Permissions, Role, RoleAssignment, RoleId, TenantId, UserId};
use ostler_store::{Change, Filter, Op, StoreError, StoreExt};
use serde_json::json;

impl Control {
    /// The roles that the tenant can give: its own and the built-in ones, by name.
    pub async fn roles(&self, caller: &Caller) -> Result<Vec<Role>> {
        caller.require(Permission::TenantAdmin)?;
        self.roles_of(caller.tenant_id).await
    }

    async fn roles_of(&self, tenant: TenantId) -> Result<Vec<Role>> {
        let mut roles: Vec<Role> = self
            .parts
            .store
            .list(Filter::by("tenant_id", None::<TenantId>))
            .await?;
        roles.extend(self.parts.store.list(Filter::by("tenant_id", tenant)).await?);
        roles.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(roles)
    }

    /// Makes a role.
    pub async fn create_role(&self, caller: &Caller, name: &str, permissions: Permissions) -> Result<Role> {
        caller.require(Permission::TenantAdmin)?;
        caller.require_all(&permissions)?;
        let role = Role {
            id: RoleId::new(),
            tenant_id: Some(caller.tenant_id),
            name: checked_name("role", name)?,
            permissions,
            created_at: self.now(),
            version: 0,
        };
        if Role::built_in(self.now())
            .iter()
            .any(|known| known.name == role.name)
        {
            return Err(ControlError::Conflict(format!(
                "{} is a built-in role",
                role.name
            )));
        }
        let by = self.acting(caller, "role.create", role.id, described(&role));
        taken(by.commit(vec![Change::insert(&role)]).await, "role", &role.name)?;
        Ok(role)
    }

    /// Changes what a role of the tenant allows, which holds for whoever has it from the next request on.
    pub async fn set_role(&self, caller: &Caller, id: RoleId, permissions: Permissions) -> Result<Role> {
        retry_on_conflict!({
            let mut role = self.own_role(caller, id).await?;
            caller.require_all(&permissions)?;
            role.permissions = permissions.clone();
            let by = self.acting(caller, "role.set", id, described(&role));
            by.commit(vec![Change::update(&role)]).await?;
            role.version += 1;
            Ok(role)
        })
    }

    /// Removes a role of the tenant that nobody has.
    pub async fn remove_role(&self, caller: &Caller, id: RoleId) -> Result<()> {
        let role = self.own_role(caller, id).await?;
        let by = self.acting(caller, "role.remove", id, described(&role));
        in_use(
            by.commit(vec![Change::delete(&role)]).await,
            "users have the role; take it from them first",
        )
    }

    /// Gives a user a role. Repeating it changes nothing.
    pub async fn assign_role(&self, caller: &Caller, user: UserId, role: RoleId) -> Result<()> {
        let user = self.manageable_user(caller, user).await?;
        let role = self.known_role(caller.tenant_id, role).await?;
        caller.require_all(&role.permissions)?;
        let assignment = RoleAssignment {
            user_id: user.id,
            role_id: role.id,
            tenant_id: user.tenant_id,
        };
        let by = self.acting(caller, "user.assign_role", user.id, described(&role));
        match by.commit(vec![Change::insert(&assignment)]).await {
            Err(ControlError::Store(StoreError::Duplicate { .. })) => Ok(()),
            other => other,
        }
    }

    /// Takes a role from a user, which holds for the user's tokens from the next request on. Repeating it changes nothing.
    pub async fn unassign_role(&self, caller: &Caller, user: UserId, role: RoleId) -> Result<()> {
        let user = self.manageable_user(caller, user).await?;
        let role = self.known_role(caller.tenant_id, role).await?;
        let assignment = Filter::<RoleAssignment>::by("user_id", user.id).and("role_id", Op::Eq, role.id);
        let Some(assignment) = self.parts.store.first(assignment).await? else {
            return Ok(());
        };
        let by = self.acting(caller, "user.unassign_role", user.id, described(&role));
        by.commit(vec![Change::delete(&assignment)]).await
    }

    /// The roles of users, by user.
    pub(super) async fn roles_of_users(
        &self,
        tenant: TenantId,
        users: impl IntoIterator<Item = UserId>,
    ) -> Result<Vec<(UserId, Role)>> {
        let held = Filter::<RoleAssignment>::all().within("user_id", users);
        let held = self.parts.store.list(held).await?;
        if held.is_empty() {
            return Ok(Vec::new());
        }
        let ids: std::collections::BTreeSet<RoleId> = held.iter().map(|h| h.role_id).collect();
        let roles: Vec<Role> = self.parts.store.list(Filter::all().within("id", ids)).await?;
        let mut found = Vec::new();
        for assignment in held {
            let role = roles.iter().find(|role| role.id == assignment.role_id);
            // One of another tenant would be an error of ours, and must not have any effect.
            if let Some(role) = role.filter(|r| r.tenant_id.is_none_or(|owner| owner == tenant)) {
                found.push((assignment.user_id, role.clone()));
            }
        }
        Ok(found)
    }

    /// What a user's roles allow at present.
    pub(super) async fn role_permissions(&self, tenant: TenantId, user: UserId) -> Result<Permissions> {
        let mut all = Permissions::default();
        for (_, role) in self.roles_of_users(tenant, [user]).await? {
            all.extend(role.permissions.iter());
        }
        Ok(all)
    }

    /// A role that the tenant can give.
    pub(super) async fn known_role(&self, tenant: TenantId, id: RoleId) -> Result<Role> {
        let role: Option<Role> = self.parts.store.get(id).await?;
        role.filter(|role| role.tenant_id.is_none_or(|owner| owner == tenant))
            .ok_or_else(|| ControlError::NotFound {
                what: "role",
                id: id.to_string(),
            })
    }

    /// A role that the tenant can change.
    async fn own_role(&self, caller: &Caller, id: RoleId) -> Result<Role> {
        let role = self.known_role(caller.tenant_id, id).await?;
        caller.require(Permission::TenantAdmin)?;
        if role.tenant_id.is_none() {
            return Err(ControlError::Conflict(format!(
                "{} is a built-in role and stays as it is; make one of your own",
                role.name
            )));
        }
        Ok(role)
    }
}

fn described(role: &Role) -> serde_json::Value {
    json!({ "role": role.id, "name": role.name, "permissions": role.permissions })
}
