//! Versions of Firecracker, and what is broken in which.

use std::fmt;

/// A version as Firecracker tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Version(u32, u32, u32);

impl Version {
    /// The first thing in a text that looks like a version: `Firecracker v1.13.0`, `1.17.0-dev`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        text.split_ascii_whitespace().find_map(|word| {
            let number = word.strip_prefix('v').unwrap_or(word);
            let number = number.split(['-', '+']).next()?;
            let mut parts = number.split('.').map(str::parse::<u32>);
            match (parts.next()?, parts.next()?, parts.next()?) {
                (Ok(major), Ok(minor), Ok(patch)) => Some(Self(major, minor, patch)),
                _ => None,
            }
        })
    }

    /// Why snapshots of this version cannot be used.
    pub(crate) fn refuses_snapshots(self) -> Option<String> {
        (self == Self(1, 16, 0)).then(|| {
            "Firecracker 1.16.0 loses the connection to the guest of a restored machine: use another version"
                .to_owned()
        })
    }

    /// Why machines of this version cannot be paused.
    pub(crate) fn refuses_pause(self) -> Option<String> {
        (Self(1, 16, 0)..=Self(1, 16, 1)).contains(&self).then(|| {
            format!(
                "Firecracker {self} makes no new connection to the guest of a machine that was paused: use another \
                 version"
            )
        })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_and_the_broken_ones_known() {
        let of = |text: &str| Version::parse(text).unwrap();
        assert_eq!(of("Firecracker v1.13.1\n\nmore"), Version(1, 13, 1));
        assert_eq!(of("1.17.0-dev"), Version(1, 17, 0));
        assert_eq!(Version::parse("Firecracker"), None);
        assert_eq!(Version::parse("v1.16"), None);
        assert!(of("1.16.0").refuses_snapshots().is_some());
        assert!(of("1.16.1").refuses_snapshots().is_none());
        for (text, broken) in [
            ("1.15.9", false),
            ("1.16.0", true),
            ("1.16.1", true),
            ("1.16.2", false),
        ] {
            assert_eq!(of(text).refuses_pause().is_some(), broken, "{text}");
        }
    }
}
