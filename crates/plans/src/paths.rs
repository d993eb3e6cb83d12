//! Globs of files that a test leaves: they may not lead out of the workspace.
//!
//! What a symbolic link does can only be seen when files are collected; here is what the text alone gives away.

use crate::substitute::Wrong;

/// Checks a glob.
pub(crate) fn check_glob(glob: &str) -> Result<(), Wrong> {
    if glob.is_empty() {
        return Err(Wrong::new("a glob is empty"));
    }
    if glob.contains(['\0', '\n', '\r']) {
        return Err(Wrong::new(format!(
            "the glob {glob:?} contains a control character"
        )));
    }
    // Alternatives such as `{..,a}/x` hide a component, too.
    let mut parts = glob.split(['/', '\\', '{', '}', ',']);
    if parts.any(|part| part == "..") {
        return Err(Wrong {
            message: format!("the glob `{glob}` leads out of the workspace"),
            suggestion: Some("remove `..`; only files of the workspace are collected".to_owned()),
        });
    }
    let bare = glob.trim_start_matches(['{', '[', '(']);
    if bare.starts_with('/') || glob.contains("{/") || glob.contains(",/") {
        return Err(Wrong {
            message: format!("the glob `{glob}` is absolute"),
            suggestion: Some("write it relative to the workspace".to_owned()),
        });
    }
    balanced(glob)
}

/// Every `[` and `{` must be closed.
fn balanced(glob: &str) -> Result<(), Wrong> {
    let mut open = Vec::new();
    let mut chars = glob.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => {
                chars.next();
            }
            '[' if open.last() != Some(&']') => open.push(']'),
            '{' if open.last() != Some(&']') => open.push('}'),
            ']' | '}' if open.last() == Some(&c) => {
                open.pop();
            }
            _ => {}
        }
    }
    match open.last() {
        Some(missing) => Err(Wrong::new(format!("the glob `{glob}` lacks a `{missing}`"))),
        None => Ok(()),
    }
}
