//! Permissions: what a token may do.

use crate::state::text_enum;
use std::collections::BTreeSet;

text_enum! {
    /// One permission. `admin:*` includes all others.
    Permission {
        /// See a tenant's own sandboxes.
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
        /// See every sandbox and pool (the operator's view).
        FleetRead = "fleet:read",
        /// Change pools and servers.
        FleetWrite = "fleet:write",
        /// Everything, in every tenant.
        Admin = "admin:*",
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

    /// Whether `permission` is in the set, directly or through `admin:*`.
    pub fn allow(&self, permission: Permission) -> bool {
        self.0.contains(&Permission::Admin) || self.0.contains(&permission)
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
