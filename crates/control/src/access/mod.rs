//! Who asks; tenants with their departments, users and roles; API tokens.
//!
//! Every administration of a tenant needs `tenant:admin`, and nobody can hand out, or get at by way of another user, what
//! they may not do themselves. Permissions of the platform (`fleet:*`, `admin:*`) hold in the default tenant only.

mod departments;
mod roles;
mod tenants;
mod tokens;
mod users;

pub use tokens::{NewSecret, NewToken};
pub use users::{NewUser, UserChange};

use crate::{Control, ControlError, Result};
use ostler_domain::{Permission, Permissions, Role, Tenant, TenantId, TokenId, UserId};
use ostler_store::{Change, Filter, StoreError, StoreExt};

/// Who asks: the tenant in whose name, and what is allowed.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The tenant that is acted in.
    pub tenant_id: TenantId,
    /// The user; none for service tokens and for the local administrator.
    pub user_id: Option<UserId>,
    /// The token; none for the local administrator.
    pub token_id: Option<TokenId>,
    /// What is allowed. `admin:*` is only ever held by administrators of the platform.
    pub permissions: Permissions,
    /// The HTTP request, for the audit log.
    pub request_id: Option<String>,
}

impl Caller {
    /// The local administrator: everybody in development mode, and the server itself.
    pub fn administrator() -> Self {
        Self {
            tenant_id: TenantId::DEFAULT,
            user_id: None,
            token_id: None,
            permissions: Permissions::all(),
            request_id: None,
        }
    }

    /// Fails without the permission.
    pub fn require(&self, permission: Permission) -> Result<()> {
        if self.permissions.allow(permission) {
            Ok(())
        } else {
            Err(ControlError::Forbidden(permission))
        }
    }

    /// Fails unless the caller could do all of this, and the tenant may hold it.
    fn require_all(&self, permissions: &Permissions) -> Result<()> {
        for permission in permissions.iter() {
            self.require(permission)?;
            if permission.is_of_platform() && self.tenant_id != TenantId::DEFAULT {
                return Err(ControlError::Unprocessable(format!(
                    "{permission} is a permission of the platform, which only its own tenant, `default`, can give"
                )));
            }
        }
        Ok(())
    }
}

impl Control {
    /// Makes the default tenant if it is missing, and the built-in roles what this program has them be; to be called at
    /// start.
    pub async fn ensure_default_tenant(&self) -> Result<()> {
        let tenant = Tenant {
            id: TenantId::DEFAULT,
            name: "default".into(),
            created_at: self.now(),
            version: 0,
        };
        self.insert_if_absent(Change::insert(&tenant)).await?;
        for role in Role::built_in(self.now()) {
            let Some(known) = self.parts.store.get::<Role, _>(role.id).await? else {
                self.insert_if_absent(Change::insert(&role)).await?;
                continue;
            };
            if known.permissions != role.permissions || known.name != role.name {
                let role = Role {
                    created_at: known.created_at,
                    version: known.version,
                    ..role
                };
                match self.commit(vec![Change::update(&role)]).await {
                    // Another server starts at the same time.
                    Err(ControlError::Store(StoreError::Conflict { .. })) => {}
                    other => other?,
                }
            }
        }
        Ok(())
    }

    async fn insert_if_absent(&self, change: Change) -> Result<()> {
        match self.commit(vec![change]).await {
            Err(ControlError::Store(StoreError::Duplicate { .. })) => Ok(()),
            other => other,
        }
    }

    /// The caller, acting in another tenant, by its id or name. Only for administrators of the platform: whether there is
    /// such a tenant is told to nobody else.
    pub async fn enter_tenant(&self, caller: Caller, tenant: &str) -> Result<Caller> {
        caller.require(Permission::Admin)?;
        let filter = match tenant.parse::<TenantId>() {
            Ok(id) => Filter::<Tenant>::by("id", id),
            Err(_) => Filter::by("name", tenant.to_owned()),
        };
        let tenant = self.parts.store.first(filter).await?;
        let tenant = tenant.ok_or_else(|| ControlError::NotFound {
            what: "tenant",
            id: "of the header Ostler-Tenant".to_owned(),
        })?;
        Ok(Caller {
            tenant_id: tenant.id,
            ..caller
        })
    }
}

/// A name as people give it, without what would break a list.
fn checked_name(what: &str, name: &str) -> Result<String> {
    let name = name.trim();
    if name.is_empty() || name.chars().count() > 100 || name.contains(char::is_control) {
        return Err(ControlError::Invalid(format!(
            "a {what} needs a name of 1 to 100 characters on one line"
        )));
    }
    Ok(name.to_owned())
}

/// A taken name in the words of people.
fn taken<T>(done: Result<T>, what: &str, name: &str) -> Result<T> {
    match done {
        Err(ControlError::Store(StoreError::Duplicate { columns, .. })) if columns.contains("name") => Err(
            ControlError::Conflict(format!("there is a {what} with the name {name} already")),
        ),
        other => other,
    }
}

/// Something that others still refer to.
fn in_use(done: Result<()>, message: &str) -> Result<()> {
    match done {
        Err(ControlError::Store(StoreError::Reference { .. })) => {
            Err(ControlError::Conflict(message.to_owned()))
        }
        other => other,
    }
}
