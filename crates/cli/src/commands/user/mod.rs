//! `ostler user`.

super::noun!(User {
    /// Make a user; prints the id.
    Create(create),
    /// List the users, by name.
    List(list),
    /// Show a user.
    Show(show),
    /// Change a user's name, address or department.
    Change(change),
    /// Refuse a user's tokens from now on.
    Disable(disable),
    /// Accept a user's tokens again.
    Enable(enable),
    /// Remove a user with all tokens.
    Remove(remove),
});
