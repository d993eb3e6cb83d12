//! Credentials for the network, handed to git without touching an argument, a file or a configuration.

use std::fmt;

/// A user name and a secret (password or token) for one server.
///
/// Git gets it from a credential helper that is a line of shell in git's arguments; the line names two environment
/// variables, and only the environment of that one git process has their values. Printing one shows no secret.
#[derive(Clone)]
pub struct Credential {
    username: String,
    secret: String,
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credential")
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}

pub(super) const USERNAME_VARIABLE: &str = "OSTLER_GIT_USERNAME";
pub(super) const SECRET_VARIABLE: &str = "OSTLER_GIT_SECRET";

/// `printf` is a builtin of every sh, so the values become no argument of any process either.
const HELPER: &str = r#"!f() { test "$1" = get && printf 'username=%s\npassword=%s\n' "$OSTLER_GIT_USERNAME" "$OSTLER_GIT_SECRET"; }; f"#;

impl Credential {
    /// For GitHub tokens the user name is `x-access-token`.
    ///
    /// Line breaks and NUL, which the helper protocol cannot carry, are left out.
    pub fn new(username: impl Into<String>, secret: impl Into<String>) -> Self {
        let clean = |text: String| text.replace(['\n', '\r', '\0'], "");
        Self {
            username: clean(username.into()),
            secret: clean(secret.into()),
        }
    }

    pub(super) fn environment(&self) -> [(&'static str, &str); 2] {
        [
            (USERNAME_VARIABLE, &self.username),
            (SECRET_VARIABLE, &self.secret),
        ]
    }

    /// The configuration that makes git ask the helper for `origin` (`https://host[:port]`) and for no other server,
    /// not even one that a redirect leads to.
    pub(super) fn configuration(origin: &str) -> String {
        format!("credential.{origin}.helper={HELPER}")
    }

    /// `text` without the secret.
    pub(super) fn redact(&self, text: &str) -> String {
        if self.secret.is_empty() {
            return text.to_owned();
        }
        text.replace(&self.secret, "***")
    }
}
