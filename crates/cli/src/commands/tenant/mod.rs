//! `ostler tenant`.

super::noun!(Tenant {
    /// Make a tenant; prints its id.
    Create(create),
    /// List the tenants, by name.
    List(list),
    /// Show a tenant.
    Show(show),
    /// Give a tenant another name.
    Rename(rename),
    /// Remove a tenant that has no projects, agents or runs, with its users, roles, tokens and credentials.
    Remove(remove),
});
