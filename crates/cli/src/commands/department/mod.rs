//! `ostler department`.

super::noun!(Department {
    /// Make a department; prints its id.
    Create(create),
    /// List the departments, by name.
    List(list),
    /// Give a department another name.
    Rename(rename),
    /// Remove a department that no user and no agent is in.
    Remove(remove),
});
