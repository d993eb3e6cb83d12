//! Tenants and departments.

use crate::Time;
use ostler_domain::{Department, DepartmentId, Tenant, TenantId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Makes something that has only a name, or gives it another one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Named {
    /// The name.
    pub name: String,
}

/// A tenant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TenantView {
    /// Id.
    #[schema(value_type = String)]
    pub id: TenantId,
    /// Name.
    pub name: String,
    /// When it was made.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Time,
}

impl From<Tenant> for TenantView {
    fn from(t: Tenant) -> Self {
        Self {
            id: t.id,
            name: t.name,
            created_at: t.created_at.into(),
        }
    }
}

/// A department of a tenant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DepartmentView {
    /// Id.
    #[schema(value_type = String)]
    pub id: DepartmentId,
    /// Name.
    pub name: String,
    /// When it was made.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Time,
}

impl From<Department> for DepartmentView {
    fn from(d: Department) -> Self {
        Self {
            id: d.id,
            name: d.name,
            created_at: d.created_at.into(),
        }
    }
}
