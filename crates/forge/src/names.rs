//! Names that go to git: checked here, so that a refusal is a sentence and not an exit code.

use crate::error::{ForgeError, Result};

fn invalid(value: &str, reason: &str) -> ForgeError {
    ForgeError::InvalidName {
        what: "branch name",
        value: value.to_owned(),
        reason: reason.to_owned(),
    }
}

/// Checks a branch name by git's rules for references (git-check-ref-format), and that it is no option.
///
/// # Errors
/// [`ForgeError::InvalidName`] with the rule that it breaks.
pub fn check_branch(name: &str) -> Result<()> {
    if name.is_empty() {
        return Err(invalid(name, "it is empty"));
    }
    if name.len() > 200 {
        return Err(invalid(name, "it has more than 200 bytes"));
    }
    if name == "HEAD" || name == "@" || name.starts_with("refs/") {
        return Err(invalid(name, "git gives that name another meaning"));
    }
    if name.starts_with('-') {
        return Err(invalid(name, "it starts with `-`"));
    }
    if let Some(c) = name
        .chars()
        .find(|c| c.is_control() || matches!(c, ' ' | '~' | '^' | ':' | '?' | '*' | '[' | '\\' | '\u{7f}'))
    {
        return Err(invalid(name, &format!("it contains {c:?}")));
    }
    if name.contains("..") || name.contains("@{") || name.ends_with('.') {
        return Err(invalid(name, "it contains `..` or `@{`, or ends with `.`"));
    }
    for part in name.split('/') {
        let dot = part.starts_with('.');
        let lock = part.len() >= 5
            && part.is_char_boundary(part.len() - 5)
            && part[part.len() - 5..].eq_ignore_ascii_case(".lock");
        if part.is_empty() || dot || lock {
            return Err(invalid(
                name,
                "a part between slashes is empty, starts with `.` or ends with `.lock`",
            ));
        }
    }
    Ok(())
}

/// `refs/heads/<name>`, if the name is valid.
pub(crate) fn branch_ref(name: &str) -> Result<String> {
    check_branch(name)?;
    Ok(format!("refs/heads/{name}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn usual_names_pass_and_odd_ones_do_not() {
        for good in ["main", "iv-1-x", "feature/a.b", "v1@2", "日本"] {
            check_branch(good).unwrap();
        }
        for bad in [
            "",
            "-x",
            "HEAD",
            "@",
            "refs/heads/a",
            "a b",
            "a..b",
            "a/",
            "/a",
            "a//b",
            ".a",
            "a.lock",
            "a.lock/b",
            "a@{1}",
            "a~1",
            "a^",
            "a:b",
            "a?",
            "a*",
            "a[",
            "a\\b",
            "a\n",
            "a.",
        ] {
            assert!(check_branch(bad).is_err(), "{bad:?}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]

        /// Git is the judge: what passes here, passes there.
        #[test]
        fn git_agrees(name in "[a-z@./{~^: *-]{1,8}") {
            if check_branch(&name).is_ok() {
                let status = std::process::Command::new("git")
                    .args(["check-ref-format", &format!("refs/heads/{name}")])
                    .status()
                    .unwrap();
                prop_assert!(status.success(), "{name:?}");
            }
        }
    }
}
