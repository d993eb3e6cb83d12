//! Permissions: what a caller may do.

use crate::state::text_enum;
use std::collections::BTreeSet;

text_enum! {
    /// One permission. `tenant:admin` includes all others of its tenant, `admin:*` simply all.
    Permission {
        /// See a tenant's own sandboxes and its departments.
        AgentsRead = "agents:read",
        /// Provision, use and destroy a tenant's own sandboxes.
        AgentsWrite = "agents:write",
        /// See projects, tasks, subtasks, merge requests and issues.
        ProjectsRead = "projects:read",
        /// Change them.
        ProjectsWrite = "projects:write",
        /// See runs and their logs.
        RunsRead = "runs:read",
        /// Submit and cancel runs.
        RunsWrite = "runs:write",
        /// Submit test plans.
        TestsWrite = "tests:write",
        /// See who did what.
        AuditRead = "audit:read",
        /// Everything within one's own tenant: its users, roles, tokens and credentials too.
        TenantAdmin = "tenant:admin",
        /// See every sandbox and pool (the operator's view). Only in the platform's own tenant.
        FleetRead = "fleet:read",
        /// Change pools and servers. Only in the platform's own tenant.
        FleetWrite = "fleet:write",
        /// Everything, in every tenant. Only in the platform's own tenant.
        Admin = "admin:*",
    }
}

impl Permission {
    /// Whether it reaches beyond one tenant, so that only the platform's own tenant can hold it.
    pub fn is_of_platform(self) -> bool {
        matches!(self, Self::FleetRead | Self::FleetWrite | Self::Admin)
    }
}

/// A set of permissions.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct Permissions(BTreeSet<Permission>);

impl Permissions {
    /// The set that includes everything.
    pub fn all() -> Self {
        Self::from_iter([Permission::Admin])
    }

    /// Whether `permission` is in the set, directly or through one that includes it.
    pub fn allow(&self, permission: Permission) -> bool {
        self.0.contains(&Permission::Admin)
            || self.0.contains(&permission)
            || (!permission.is_of_platform() && self.0.contains(&Permission::TenantAdmin))
    }

    /// What both sets allow.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        let both = Permission::ALL.iter().copied();
        both.filter(|p| self.allow(*p) && other.allow(*p))
            .collect::<Self>()
            .shortened()
    }

    /// What of it holds outside the platform's own tenant.
    #[must_use]
    pub fn within_tenant(&self) -> Self {
        let held = Permission::ALL.iter().copied();
        held.filter(|p| self.allow(*p) && !p.is_of_platform())
            .collect::<Self>()
            .shortened()
    }

    /// The same, without those that another one includes.
    fn shortened(mut self) -> Self {
        if self.0.contains(&Permission::Admin) {
            return Self::all();
        }
        if self.0.contains(&Permission::TenantAdmin) {
            self.0
                .retain(|p| p.is_of_platform() || *p == Permission::TenantAdmin);
        }
        self
    }

    /// The members, in order.
    pub fn iter(&self) -> impl Iterator<Item = Permission> + '_ {
        self.0.iter().copied()
    }
}

impl FromIterator<Permission> for Permissions {
    fn from_iter<I: IntoIterator<Item = Permission>>(iter: I) -> Self {
        Self(iter.into_iter().collect())
    }
}

impl Extend<Permission> for Permissions {
    fn extend<I: IntoIterator<Item = Permission>>(&mut self, iter: I) {
        self.0.extend(iter);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_set() -> impl Strategy<Value = Permissions> {
        proptest::collection::vec(0..Permission::ALL.len(), 0..6)
            .prop_map(|picks| picks.into_iter().map(|at| Permission::ALL[at]).collect())
    }

    proptest! {
        #[test]
        fn an_intersection_allows_what_both_allow(a in any_set(), b in any_set()) {
            let both = a.and(&b);
            for permission in Permission::ALL {
                prop_assert_eq!(both.allow(*permission), a.allow(*permission) && b.allow(*permission));
            }
        }

        #[test]
        fn nothing_of_the_platform_is_left_within_a_tenant(set in any_set()) {
            let left = set.within_tenant();
            for permission in Permission::ALL {
                let wanted = set.allow(*permission) && !permission.is_of_platform();
                prop_assert_eq!(left.allow(*permission), wanted);
            }
        }
    }

    #[test]
    fn an_administrator_of_a_tenant_is_none_of_the_platform() {
        let set = Permissions::from_iter([Permission::TenantAdmin]);
        assert!(set.allow(Permission::ProjectsWrite) && set.allow(Permission::AuditRead));
        assert!(!set.allow(Permission::FleetRead) && !set.allow(Permission::Admin));
    }
}
