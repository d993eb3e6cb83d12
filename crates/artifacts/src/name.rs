//! Names of artifacts: relative paths that stay below where they begin.

use crate::Reason;

/// Longest path, bytes.
pub(crate) const MAX_PATH: usize = 1024;

/// The path of an entry as it is kept: UTF-8, relative, without `.`, `..` and empty parts.
pub(crate) fn checked(raw: &[u8]) -> Result<String, Reason> {
    let text = std::str::from_utf8(raw).map_err(|_| Reason::NotText)?;
    if text.starts_with('/') {
        return Err(Reason::Absolute);
    }
    let mut parts = Vec::new();
    for part in text.split('/') {
        match part {
            "" | "." => {}
            ".." => return Err(Reason::Outside),
            part => parts.push(part),
        }
    }
    let path = parts.join("/");
    if path.is_empty() || path.len() > MAX_PATH || path.contains('\0') {
        return Err(Reason::Name);
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::path::{Component, Path};

    #[test]
    fn what_leads_elsewhere_is_refused() {
        assert_eq!(checked(b"./out//a.xml").unwrap(), "out/a.xml");
        assert_eq!(checked("ärger.txt".as_bytes()).unwrap(), "ärger.txt");
        assert_eq!(checked(b"..."), Ok("...".to_owned()));
        assert_eq!(checked(b"/etc/passwd"), Err(Reason::Absolute));
        assert_eq!(checked(b"a/../../b"), Err(Reason::Outside));
        assert_eq!(checked(b"a/.."), Err(Reason::Outside));
        assert_eq!(checked(b"a\xff"), Err(Reason::NotText));
        assert_eq!(checked(b"a\0b"), Err(Reason::Name));
        assert_eq!(checked(b""), Err(Reason::Name));
        assert_eq!(checked(b"./"), Err(Reason::Name));
        assert_eq!(checked(&[b'a'; MAX_PATH + 1]), Err(Reason::Name));
    }

    proptest! {
        #[test]
        fn no_name_escapes(raw in proptest::collection::vec(prop_oneof![Just(b'.'), Just(b'/'), any::<u8>()], 0..40)) {
            if let Ok(path) = checked(&raw) {
                prop_assert!(!path.is_empty());
                for part in Path::new(&path).components() {
                    prop_assert!(matches!(part, Component::Normal(_)), "{path:?}");
                }
                prop_assert_eq!(checked(path.as_bytes()), Ok(path.clone()));
            }
        }
    }
}
