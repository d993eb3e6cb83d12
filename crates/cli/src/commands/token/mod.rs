//! `ostler token`.

super::noun!(Token {
    /// Create a token; its secret is printed only now.
    Create(create),
    /// List the tokens, newest first.
    List(list),
    /// Revoke a token.
    Revoke(revoke),
});
