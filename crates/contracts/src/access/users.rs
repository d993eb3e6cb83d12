//! Users and roles.

use crate::Time;
use ostler_domain::{DepartmentId, Permission, Role, RoleId, User, UserId};
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;

/// Makes a user.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateUser {
    /// Name, unique within the tenant.
    pub name: String,
    /// E-mail address.
    #[serde(default)]
    pub email: Option<String>,
    /// Department.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub department_id: Option<DepartmentId>,
    /// Roles to begin with.
    #[serde(default)]
    #[schema(value_type = Vec<String>)]
    pub roles: Vec<RoleId>,
}

/// Changes a user; what is absent stays, what is null is taken away.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ChangeUser {
    /// Name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// E-mail address.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub email: Option<Option<String>>,
    /// Department.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub department_id: Option<Option<DepartmentId>>,
    /// Whether the user's tokens are refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disabled: Option<bool>,
}

/// A field that is there, be it null.
fn given<'de, T: Deserialize<'de>, D: Deserializer<'de>>(from: D) -> Result<Option<T>, D::Error> {
    T::deserialize(from).map(Some)
}

/// A user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct UserView {
    /// Id.
    #[schema(value_type = String)]
    pub id: UserId,
    /// Name.
    pub name: String,
    /// E-mail address.
    pub email: Option<String>,
    /// Department.
    #[schema(value_type = Option<String>)]
    pub department_id: Option<DepartmentId>,
    /// The names of the roles.
    pub roles: Vec<String>,
    /// Since when the user's tokens are refused.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub disabled_at: Option<Time>,
    /// When it was made.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Time,
}

impl UserView {
    /// With the user's roles.
    pub fn new(user: User, roles: &[Role]) -> Self {
        Self {
            id: user.id,
            name: user.name,
            email: user.email,
            department_id: user.department_id,
            roles: roles.iter().map(|role| role.name.clone()).collect(),
            disabled_at: user.disabled_at.map(Into::into),
            created_at: user.created_at.into(),
        }
    }
}

/// Makes a role.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateRole {
    /// Name, unique within the tenant.
    pub name: String,
    /// What it allows.
    #[schema(value_type = Vec<String>)]
    pub permissions: Vec<Permission>,
}

/// Changes what a role allows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SetRole {
    /// What it allows from now on.
    #[schema(value_type = Vec<String>)]
    pub permissions: Vec<Permission>,
}

/// A role.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RoleView {
    /// Id.
    #[schema(value_type = String)]
    pub id: RoleId,
    /// Name.
    pub name: String,
    /// Whether Ostler brings it along, for all tenants; then it cannot be changed.
    pub built_in: bool,
    /// What it allows.
    #[schema(value_type = Vec<String>)]
    pub permissions: Vec<Permission>,
}

impl From<Role> for RoleView {
    fn from(r: Role) -> Self {
        Self {
            id: r.id,
            name: r.name,
            built_in: r.tenant_id.is_none(),
            permissions: r.permissions.iter().collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_absent_stays_and_what_is_null_goes() {
        let change: ChangeUser = serde_json::from_str(r#"{"email": null}"#).unwrap();
        assert_eq!((change.email, change.department_id), (Some(None), None));
        let change = ChangeUser {
            email: Some(None),
            disabled: Some(true),
            ..ChangeUser::default()
        };
        let text = serde_json::to_string(&change).unwrap();
        assert_eq!(text, r#"{"email":null,"disabled":true}"#);
    }
}
