//! Names derived from titles.

/// Lower-case ASCII letters and digits of `title`, words joined by single hyphens, at most `max` characters.
pub fn slug(title: &str, max: usize) -> String {
    let mut out = String::new();
    for c in title.chars() {
        if c.is_ascii_alphanumeric() {
            out.push(c.to_ascii_lowercase());
        } else if !out.is_empty() && !out.ends_with('-') {
            out.push('-');
        }
        if out.len() >= max {
            break;
        }
    }
    out.trim_end_matches('-').to_owned()
}

/// The branch of a subtask: `iv-<number>-<slug of the title>`, always a valid git reference name.
pub fn branch_name(number: i64, title: &str) -> String {
    let slug = slug(title, 48);
    if slug.is_empty() {
        format!("iv-{number}")
    } else {
        format!("iv-{number}-{slug}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn readable() {
        assert_eq!(
            branch_name(7, "Add the `--json` flag (CLI)!"),
            "iv-7-add-the-json-flag-cli"
        );
        assert_eq!(branch_name(8, "日本"), "iv-8");
    }

    proptest! {
        #[test]
        fn always_a_valid_reference(title in ".*") {
            let name = branch_name(1, &title);
            prop_assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'));
            prop_assert!(!name.ends_with('-') && name.len() <= 56);
        }
    }
}
