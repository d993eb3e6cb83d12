//! `ostler audit`.

super::noun!(Audit {
    /// List what was done and by whom, newest first.
    List(list),
});
