//! `ostler role`.

super::noun!(Role {
    /// Make a role; prints its id.
    Create(create),
    /// List the roles, built-in ones included.
    List(list),
    /// Change what a role allows, at once for everybody who has it.
    Set(set),
    /// Remove a role that nobody has.
    Remove(remove),
    /// Give a user a role.
    Assign(assign),
    /// Take a role from a user, at once for all tokens of that user.
    Unassign(unassign),
});
