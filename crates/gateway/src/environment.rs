//! Which variables of the server's environment may be seen in a sandbox.

/// Variables that hold keys of model and forge APIs. They never enter a sandbox, whatever is configured.
pub const NEVER_FORWARDED: [&str; 5] = [
    "ANTHROPIC_API_KEY",
    "OPENAI_API_KEY",
    "GITHUB_TOKEN",
    "FACTORY_API_KEY",
    "GEMINI_API_KEY",
];

/// Only variables whose names begin like this are forwarded.
pub const FORWARDED_PREFIXES: [&str; 4] = ["ANTHROPIC_", "OSTLER_", "AGENTCHAT_", "CLAUDE_CODE_"];

/// Words in a name that announce a secret.
const SECRET_WORDS: [&str; 9] = [
    "KEY",
    "KEYS",
    "TOKEN",
    "SECRET",
    "SECRETS",
    "PASSWORD",
    "PASSWD",
    "CREDENTIAL",
    "CREDENTIALS",
];

/// Beginnings of values that are keys whatever their variable is called.
const SECRET_VALUES: [&str; 10] = [
    "sk-",
    "sk_",
    "ghp_",
    "gho_",
    "ghs_",
    "ghu_",
    "github_pat_",
    "AIza",
    "fk-",
    "eyJ",
];

/// The variables that may be forwarded into a sandbox: those with an allowed prefix, without known keys and without
/// what looks like a secret by its name, by its value, or by a password in a URL.
///
/// Names are compared in any case. A harmless variable that looks like a secret is lost; that is meant.
pub fn forwardable_env(
    variables: impl IntoIterator<Item = (String, String)>,
) -> impl Iterator<Item = (String, String)> {
    variables
        .into_iter()
        .filter(|(name, value)| is_forwardable(name, value))
}

fn is_forwardable(name: &str, value: &str) -> bool {
    let upper = name.to_ascii_uppercase();
    FORWARDED_PREFIXES.iter().any(|prefix| upper.starts_with(prefix))
        && !NEVER_FORWARDED.contains(&upper.as_str())
        && !name_of_secret(&upper)
        && !looks_like_secret(value)
}

/// `MAX_OUTPUT_TOKENS` counts tokens and is none; so the words are compared whole and its plural is not among them.
fn name_of_secret(upper: &str) -> bool {
    let apart = upper
        .split(|c: char| !c.is_ascii_alphanumeric())
        .any(|word| SECRET_WORDS.contains(&word));
    apart
        || [
            "APIKEY",
            "AUTHTOKEN",
            "ACCESSTOKEN",
            "CUSTOM_HEADERS",
            "AUTHORIZATION",
            "COOKIE",
        ]
        .iter()
        .any(|x| upper.contains(x))
}

fn looks_like_secret(value: &str) -> bool {
    let value = value.trim();
    SECRET_VALUES
        .iter()
        .any(|prefix| value.contains(prefix) && is_start_of_word(value, prefix))
        || value.contains("PRIVATE KEY-----")
        || value.to_ascii_lowercase().contains("bearer ")
        || has_url_password(value)
        || value
            .split(|c: char| c.is_whitespace() || matches!(c, '=' | ',' | ';' | '"'))
            .any(is_random)
}

fn is_start_of_word(value: &str, prefix: &str) -> bool {
    value
        .match_indices(prefix)
        .any(|(at, _)| !value[..at].ends_with(|c: char| c.is_ascii_alphanumeric()))
}

/// `scheme://user:password@host`.
fn has_url_password(value: &str) -> bool {
    value.split("://").skip(1).any(|rest| {
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        authority
            .rsplit_once('@')
            .is_some_and(|(user, _)| user.contains(':'))
    })
}

/// A word of at least 32 characters, with digits and both cases or nothing but hexadecimal digits, as keys have.
fn is_random(word: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '+' | '.');
    if word.len() < 32 || !word.chars().all(plain) {
        return false;
    }
    let digits = word.chars().filter(char::is_ascii_digit).count();
    let mixed = word.chars().any(|c| c.is_ascii_lowercase()) && word.chars().any(|c| c.is_ascii_uppercase());
    // An id with dashes (UUID) names something, and is no key.
    let hex = word.chars().all(|c| c.is_ascii_hexdigit());
    digits > 0 && (mixed || hex)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn passes(name: &str, value: &str) -> bool {
        forwardable_env([(name.to_owned(), value.to_owned())])
            .next()
            .is_some()
    }

    #[test]
    fn settings_pass() {
        for (name, value) in [
            ("ANTHROPIC_BASE_URL", "http://127.0.0.1:7070/gateway/anthropic"),
            ("ANTHROPIC_MODEL", "claude-opus-5-5"),
            ("CLAUDE_CODE_MAX_OUTPUT_TOKENS", "64000"),
            ("OSTLER_RUN_ID", "01890c5e-7b3a-7cc1-8d0f-1a2b3c4d5e6f"),
            ("AGENTCHAT_ROOM", "build"),
            (
                "OSTLER_WORKSPACE",
                "/workspace/a-rather-long-directory-name-for-a-project",
            ),
        ] {
            assert!(passes(name, value), "{name}");
        }
    }

    #[test]
    fn the_five_keys_and_their_likes_do_not() {
        for name in NEVER_FORWARDED {
            assert!(!passes(name, "x") && !passes(&name.to_lowercase(), "x"), "{name}");
        }
        for (name, value) in [
            ("PATH", "/usr/bin"),
            ("AWS_REGION", "x"),
            ("ANTHROPIC_AUTH_TOKEN", "x"),
            ("CLAUDE_CODE_OAUTH_TOKEN", "x"),
            ("OSTLER_SECRET_KEY", "x"),
            ("OSTLER_DB_PASSWORD", "x"),
            ("ANTHROPIC_CUSTOM_HEADERS", "x"),
            ("OSTLER_DATABASE_URL", "postgres://ostler:hunter2@db/ostler"),
            ("OSTLER_NOTE", "use sk-ant-api03-abc"),
            ("OSTLER_NOTE", "ghp_0123456789"),
            ("OSTLER_NOTE", "Bearer abc"),
            ("OSTLER_NOTE", "-----BEGIN OPENSSH PRIVATE KEY-----"),
            (
                "OSTLER_NOTE",
                "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
            ),
            ("OSTLER_NOTE", "x=Zm9vYmFyMTIzNDU2Nzg5MGFiY2RlZmdoaWprbG1u"),
        ] {
            assert!(!passes(name, value), "{name}={value}");
        }
    }

    #[test]
    fn a_word_that_only_contains_a_prefix_is_no_key() {
        assert!(passes("OSTLER_NOTE", "ask-me task-list"));
    }

    proptest! {
        #[test]
        fn nothing_without_an_allowed_prefix(name in "[A-Z_]{1,16}", value in ".*") {
            let allowed = FORWARDED_PREFIXES.iter().any(|prefix| name.starts_with(prefix));
            prop_assert!(allowed || !passes(&name, &value));
        }
    }
}
