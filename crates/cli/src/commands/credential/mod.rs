//! `ostler credential`.

super::noun!(Credential {
    /// Store a secret that standard input holds; prints its id.
    Set(set),
    /// List the credentials; their values are never shown.
    List(list),
    /// Remove a credential.
    Remove(remove),
    /// Seal all credentials of all tenants with a new key.
    RotateKey(rotate_key),
});
