//! Users of a tenant.

use super::{checked_name, taken};
use crate::conflict::retry_on_conflict;
use crate::{Caller, Control, ControlError, Result};
use ostler_domain::{DepartmentId, Permission, Role, RoleAssignment, RoleId, TenantId, User, UserId};
use ostler_store::{Change, Filter, StoreExt};
use serde_json::json;

/// A user to make.
#[derive(Debug, Clone, Default)]
pub struct NewUser {
    /// Unique within the tenant.
    pub name: String,
    /// E-mail address.
    pub email: Option<String>,
    /// Department.
    pub department_id: Option<DepartmentId>,
    /// Roles to begin with.
    pub roles: Vec<RoleId>,
}

/// What is to be different about a user; what is absent stays.
#[derive(Debug, Clone, Default)]
pub struct UserChange {
    /// Name.
    pub name: Option<String>,
    /// E-mail address; `Some(None)` takes it away.
    pub email: Option<Option<String>>,
    /// Department; `Some(None)` takes it away.
    pub department_id: Option<Option<DepartmentId>>,
    /// Whether the user's tokens are refused.
    pub disabled: Option<bool>,
}

impl Control {
    /// The tenant's users with their roles, by name.
    pub async fn users(&self, caller: &Caller) -> Result<Vec<(User, Vec<Role>)>> {
        caller.require(Permission::TenantAdmin)?;
        let own = Filter::<User>::by("tenant_id", caller.tenant_id).order_by("name");
        let users = self.parts.store.list(own).await?;
        self.with_roles(caller.tenant_id, users).await
    }

    /// One user with the roles: any for administrators of the tenant, otherwise oneself.
    pub async fn user(&self, caller: &Caller, id: UserId) -> Result<(User, Vec<Role>)> {
        let user = self.user_of(caller.tenant_id, id).await?;
        if caller.user_id != Some(id) {
            caller.require(Permission::TenantAdmin)?;
        }
        let mut found = self.with_roles(caller.tenant_id, vec![user]).await?;
        found.pop().ok_or_else(|| not_found(id))
    }

    /// Makes a user, who can do what the roles allow once there is a token.
    pub async fn create_user(&self, caller: &Caller, new: NewUser) -> Result<(User, Vec<Role>)> {
        caller.require(Permission::TenantAdmin)?;
        let user = User {
            id: UserId::new(),
            tenant_id: caller.tenant_id,
            name: checked_name("user", &new.name)?,
            email: new.email.as_deref().map(checked_email).transpose()?,
            department_id: new.department_id,
            disabled_at: None,
            created_at: self.now(),
            version: 0,
        };
        if let Some(department) = user.department_id {
            self.department_of(user.tenant_id, department).await?;
        }
        let mut roles: Vec<Role> = Vec::new();
        for id in new.roles {
            let role = self.known_role(user.tenant_id, id).await?;
            caller.require_all(&role.permissions)?;
            if roles.iter().all(|known| known.id != id) {
                roles.push(role);
            }
        }
        let mut changes = vec![Change::insert(&user)];
        for role in &roles {
            changes.push(Change::insert(&RoleAssignment {
                user_id: user.id,
                role_id: role.id,
                tenant_id: user.tenant_id,
            }));
        }
        let names: Vec<&str> = roles.iter().map(|role| role.name.as_str()).collect();
        let details = json!({ "name": user.name, "roles": names });
        let by = self.acting(caller, "user.create", user.id, details);
        taken(by.commit(changes).await, "user", &user.name)?;
        Ok((user, roles))
    }

    /// Changes a user. Disabling refuses the user's tokens from the next request on.
    pub async fn change_user(
        &self,
        caller: &Caller,
        id: UserId,
        change: UserChange,
    ) -> Result<(User, Vec<Role>)> {
        let name = change
            .name
            .as_deref()
            .map(|n| checked_name("user", n))
            .transpose()?;
        let email = match &change.email {
            Some(Some(email)) => Some(Some(checked_email(email)?)),
            other => other.clone(),
        };
        let done: Result<User> = retry_on_conflict!({
            let mut user = self.manageable_user(caller, id).await?;
            let mut details = serde_json::Map::new();
            if let Some(name) = &name {
                details.insert("name".into(), json!({ "from": user.name, "to": name }));
                user.name.clone_from(name);
            }
            if let Some(email) = &email {
                details.insert("email".into(), json!({ "from": user.email, "to": email }));
                user.email.clone_from(email);
            }
            if let Some(department) = change.department_id {
                if let Some(department) = department {
                    self.department_of(user.tenant_id, department).await?;
                }
                let moved = json!({ "from": user.department_id, "to": department });
                details.insert("department_id".into(), moved);
                user.department_id = department;
            }
            if let Some(disabled) = change.disabled
                && disabled != user.disabled_at.is_some()
            {
                details.insert("disabled".into(), json!(disabled));
                user.disabled_at = disabled.then(|| self.now());
            }
            if details.is_empty() {
                return Ok(user);
            }
            let by = self.acting(caller, "user.change", id, details);
            by.commit(vec![Change::update(&user)]).await?;
            user.version += 1;
            Ok(user)
        });
        let user = taken(done, "user", name.as_deref().unwrap_or_default())?;
        let mut found = self.with_roles(caller.tenant_id, vec![user]).await?;
        found.pop().ok_or_else(|| not_found(id))
    }

    /// Removes a user with all tokens.
    pub async fn remove_user(&self, caller: &Caller, id: UserId) -> Result<()> {
        let user = self.manageable_user(caller, id).await?;
        let by = self.acting(caller, "user.remove", id, json!({ "name": user.name }));
        by.commit(vec![Change::delete(&user)]).await
    }

    /// A user of the tenant; one of another tenant is not there.
    pub(crate) async fn user_of(&self, tenant: TenantId, id: UserId) -> Result<User> {
        self.owned("user", tenant, id).await
    }

    /// A user whom the caller may manage: as administrator of the tenant, and one who may do no more than the caller, who
    /// could get at the rest by way of that user otherwise.
    pub(super) async fn manageable_user(&self, caller: &Caller, id: UserId) -> Result<User> {
        let user = self.user_of(caller.tenant_id, id).await?;
        caller.require(Permission::TenantAdmin)?;
        for permission in self.role_permissions(user.tenant_id, id).await?.iter() {
            caller.require(permission)?;
        }
        Ok(user)
    }

    async fn with_roles(&self, tenant: TenantId, users: Vec<User>) -> Result<Vec<(User, Vec<Role>)>> {
        let held = self.roles_of_users(tenant, users.iter().map(|u| u.id)).await?;
        let with = users.into_iter().map(|user| {
            let roles = held.iter().filter(|(id, _)| *id == user.id);
            let roles = roles.map(|(_, role)| role.clone()).collect();
            (user, roles)
        });
        Ok(with.collect())
    }
}

fn not_found(id: UserId) -> ControlError {
    ControlError::NotFound {
        what: "user",
        id: id.to_string(),
    }
}

/// An address is only ever checked by writing to it; here only what cannot be one is refused.
fn checked_email(email: &str) -> Result<String> {
    let email = email.trim();
    let plain = email.len() <= 254 && !email.contains(|c: char| c.is_whitespace() || c.is_control());
    let parts = email
        .split_once('@')
        .filter(|(name, host)| !name.is_empty() && !host.is_empty());
    if plain && parts.is_some() {
        return Ok(email.to_owned());
    }
    Err(ControlError::Invalid(format!(
        "`{}` is not an e-mail address",
        email.escape_debug()
    )))
}
