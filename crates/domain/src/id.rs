//! Typed ids: a readable prefix and a time-ordered 128-bit value.
//!
//! The text form is `<prefix>_<26 characters>`: the UUIDv7 (RFC 9562) in Crockford's base 32, lower case, most
//! significant bits first, so that the order of texts is the order of creation.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::str::FromStr;
use uuid::Uuid;

const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
const TEXT_LEN: usize = 26;

/// A text that is not an id of the expected kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a {kind} id: expected `{prefix}_` and {TEXT_LEN} characters")]
pub struct ParseIdError {
    kind: &'static str,
    prefix: &'static str,
    text: String,
}

fn encode(value: u128) -> [u8; TEXT_LEN] {
    std::array::from_fn(|i| ALPHABET[((value >> (5 * (TEXT_LEN - 1 - i))) & 31) as usize])
}

fn decode(text: &str) -> Option<u128> {
    if text.len() != TEXT_LEN || text.as_bytes()[0] > b'7' {
        return None;
    }
    text.bytes().try_fold(0u128, |value, byte| {
        let digit = ALPHABET.iter().position(|c| *c == byte)?;
        Some((value << 5) | digit as u128)
    })
}

macro_rules! typed_ids {
    ($($(#[$doc:meta])* $name:ident = $prefix:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Uuid);

        impl $name {
            /// What the text form starts with, without the underscore.
            pub const PREFIX: &'static str = $prefix;

            /// A new id, later in order than those made before it by this process.
            #[allow(clippy::new_without_default)]
            pub fn new() -> Self {
                Self(Uuid::now_v7())
            }

            /// The id with exactly this value; for tests and for well-known ids.
            pub const fn from_u128(value: u128) -> Self {
                Self(Uuid::from_u128(value))
            }

            /// The value of [`Self::from_u128`].
            pub const fn as_u128(self) -> u128 {
                self.0.as_u128()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let text = encode(self.0.as_u128());
                f.write_str(concat!($prefix, "_"))?;
                f.write_str(std::str::from_utf8(&text).map_err(|_| fmt::Error)?)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;
            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                text.strip_prefix(concat!($prefix, "_"))
                    .and_then(decode)
                    .map(|value| Self(Uuid::from_u128(value)))
                    .ok_or_else(|| ParseIdError { kind: stringify!($name), prefix: $prefix, text: text.to_owned() })
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    )*};
}

typed_ids! {
    /// A tenant: the owner of rows, invisible to other tenants.
    TenantId = "ten";
    /// A department of a tenant.
    DepartmentId = "dep";
    /// A user: a person of a tenant.
    UserId = "usr";
    /// A role: a named set of permissions.
    RoleId = "rol";
    /// A stored credential (not its value).
    CredentialId = "crd";
    /// An entry of the audit log.
    AuditId = "aud";
    /// An API token (not its secret).
    TokenId = "tok";
    /// A project: one repository that Ostler works on.
    ProjectId = "prj";
    /// A task: one wish of a person.
    TaskId = "tsk";
    /// A subtask: a piece of a task that one agent does on one branch.
    SubtaskId = "sub";
    /// A plan of tests.
    PlanId = "pln";
    /// A file that a test left.
    ArtifactId = "art";
    /// A merge request kept by Ostler.
    MergeRequestId = "mrq";
    /// A run: one unit of execution, whatever its kind.
    RunId = "run";
    /// A sandbox, warm or held.
    SandboxId = "sbx";
    /// One `ostler serve` process family: the same data directory keeps its id across restarts.
    ServerId = "srv";
    /// A conversation of an agent with its model that can be resumed.
    SessionId = "ses";
}

impl TenantId {
    /// The tenant that exists from the first start, and is the platform's own.
    pub const DEFAULT: Self = Self::from_u128(Self::DEFAULT_VALUE);

    /// The value of [`Self::DEFAULT`], from which other well-known ids are counted on.
    pub(crate) const DEFAULT_VALUE: u128 = 0x0190_0000_0000_7000_8000_0000_0000_0001;
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn text_form_round_trips_and_keeps_order(a: u128, b: u128) {
            let (x, y) = (RunId::from_u128(a), RunId::from_u128(b));
            prop_assert_eq!(x.to_string().parse::<RunId>().unwrap(), x);
            prop_assert_eq!(x.cmp(&y), x.to_string().cmp(&y.to_string()));
        }

        #[test]
        fn no_text_panics(text in ".*") {
            let _ = text.parse::<RunId>();
        }
    }

    #[test]
    fn another_kind_is_refused() {
        let error = TaskId::new().to_string().parse::<RunId>().unwrap_err();
        assert!(error.to_string().contains("expected `run_`"), "{error}");
    }
}
