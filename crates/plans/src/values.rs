//! Values of a plan that are more than serde's own: each says in its error what would be right.

use crate::substitute::{Scope, Wrong};
use crate::tree::{Node, Place, SCALAR, TEMPLATE, plain, read};
use serde::de::{DeserializeOwned, Error, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use std::fmt;
use std::marker::PhantomData;

/// A text, or a number or boolean as it was written.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Scalar(pub(crate) String);

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Words;
        impl<'de> Visitor<'de> for Words {
            type Value = Scalar;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text, a number, true or false")
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<Scalar, E> {
                Ok(Scalar(text.to_owned()))
            }
            fn visit_bool<E: Error>(self, value: bool) -> Result<Scalar, E> {
                Ok(Scalar(value.to_string()))
            }
            fn visit_newtype_struct<D: Deserializer<'de>>(self, inner: D) -> Result<Scalar, D::Error> {
                inner.deserialize_any(self)
            }
        }
        deserializer.deserialize_newtype_struct(SCALAR, Words)
    }
}

/// A value that may depend on the matrix: `timeout = "${matrix.timeout}"`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Template<T> {
    Value(T),
    Text(String),
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Template<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Either<T> {
            type Value = Template<T>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value")
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<Template<T>, E> {
                Ok(Template::Text(text.to_owned()))
            }
            fn visit_newtype_struct<D: Deserializer<'de>>(self, inner: D) -> Result<Template<T>, D::Error> {
                T::deserialize(inner).map(Template::Value)
            }
        }
        deserializer.deserialize_newtype_struct(TEMPLATE, Either(PhantomData))
    }
}

impl<T: DeserializeOwned + Clone> Template<T> {
    /// The value for one combination; the text after substitution is read like an unquoted word.
    pub(crate) fn resolve(&self, scope: &Scope<'_>) -> Result<T, Wrong> {
        let text = match self {
            Self::Value(value) => return Ok(value.clone()),
            Self::Text(text) => scope.text(text)?,
        };
        let node = Node {
            place: Place::Offset(0),
            value: plain(&text),
        };
        read(&node).map_err(|(problems, _)| {
            let first = problems.into_iter().next();
            Wrong {
                message: first
                    .as_ref()
                    .map_or_else(|| format!("`{text}` does not fit here"), |p| p.message.clone()),
                suggestion: first.and_then(|p| p.suggestion),
            }
        })
    }
}

/// A whole number from `MIN` to `MAX`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Whole<const MIN: i64, const MAX: i64>(pub(crate) i64);

impl<'de, const MIN: i64, const MAX: i64> Deserialize<'de> for Whole<MIN, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Number<const MIN: i64, const MAX: i64>;
        impl<const MIN: i64, const MAX: i64> Visitor<'_> for Number<MIN, MAX> {
            type Value = Whole<MIN, MAX>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match MAX {
                    i64::MAX => write!(f, "a whole number of at least {MIN}"),
                    _ => write!(f, "a whole number from {MIN} to {MAX}"),
                }
            }
            fn visit_i64<E: Error>(self, number: i64) -> Result<Self::Value, E> {
                if (MIN..=MAX).contains(&number) {
                    Ok(Whole(number))
                } else {
                    Err(E::invalid_value(serde::de::Unexpected::Signed(number), &self))
                }
            }
        }
        deserializer.deserialize_any(Number::<MIN, MAX>)
    }
}

/// A length of time from `MIN` to `MAX` milliseconds: `"90s"`, `"1h30m"`, or a number of seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Period<const MIN: u64, const MAX: u64>(pub(crate) u64);

impl<'de, const MIN: u64, const MAX: u64> Deserialize<'de> for Period<MIN, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Time<const MIN: u64, const MAX: u64>;
        impl<const MIN: u64, const MAX: u64> Time<MIN, MAX> {
            fn check<E: Error>(
                &self,
                ms: Option<u64>,
                found: serde::de::Unexpected<'_>,
            ) -> Result<Period<MIN, MAX>, E> {
                match ms {
                    Some(ms) if (MIN..=MAX).contains(&ms) => Ok(Period(ms)),
                    _ => Err(E::invalid_value(found, self)),
                }
            }
        }
        impl<const MIN: u64, const MAX: u64> Visitor<'_> for Time<MIN, MAX> {
            type Value = Period<MIN, MAX>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let (least, most) = (period_text(MIN), period_text(MAX));
                write!(
                    f,
                    "a time from {least} to {most} such as \"90s\", \"5m\" or a number of seconds"
                )
            }
            fn visit_i64<E: Error>(self, number: i64) -> Result<Self::Value, E> {
                let ms = u64::try_from(number).ok().and_then(|s| s.checked_mul(1000));
                self.check(ms, serde::de::Unexpected::Signed(number))
            }
            fn visit_f64<E: Error>(self, number: f64) -> Result<Self::Value, E> {
                let ms = std::time::Duration::try_from_secs_f64(number)
                    .ok()
                    .and_then(|d| u64::try_from(d.as_millis()).ok());
                self.check(ms, serde::de::Unexpected::Float(number))
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
                self.check(milliseconds(text), serde::de::Unexpected::Str(text))
            }
        }
        deserializer.deserialize_any(Time::<MIN, MAX>)
    }
}

const UNITS: &[(&str, u64)] = &[
    ("ms", 1),
    ("s", 1000),
    ("m", 60_000),
    ("h", 3_600_000),
    ("d", 86_400_000),
];

fn period_text(ms: u64) -> String {
    let (unit, size) = UNITS
        .iter()
        .rev()
        .find(|(_, size)| ms >= *size && ms.is_multiple_of(*size))
        .unwrap_or(&("s", 1000));
    format!("{}{unit}", ms / size)
}

/// `1h30m` and the like: whole numbers with units, nothing between them.
fn milliseconds(text: &str) -> Option<u64> {
    let mut rest = text.trim();
    if rest.is_empty() {
        return None;
    }
    let mut sum = 0_u64;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let number: u64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let end = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let (_, size) = UNITS.iter().find(|(unit, _)| *unit == &rest[..end])?;
        sum = sum.checked_add(number.checked_mul(*size)?)?;
        rest = &rest[end..];
    }
    Some(sum)
}

/// A number of bytes: a number, or a text such as `"10MiB"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bytes(pub(crate) u64);

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Size;
        impl Visitor<'_> for Size {
            type Value = Bytes;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a size such as \"10MiB\", \"500kB\" or a number of bytes")
            }
            fn visit_i64<E: Error>(self, number: i64) -> Result<Bytes, E> {
                u64::try_from(number)
                    .map(Bytes)
                    .map_err(|_| E::invalid_value(serde::de::Unexpected::Signed(number), &self))
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<Bytes, E> {
                bytes(text)
                    .map(Bytes)
                    .ok_or_else(|| E::invalid_value(serde::de::Unexpected::Str(text), &self))
            }
        }
        deserializer.deserialize_any(Size)
    }
}

fn bytes(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..digits].parse().ok()?;
    let unit: u64 = match text[digits..].trim_start() {
        "" | "B" => 1,
        "kB" => 1000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return None,
    };
    // What databases and JSON readers can hold.
    number.checked_mul(unit).filter(|n| i64::try_from(*n).is_ok())
}

/// A text, or a list of texts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum TextOrList {
    Text(String),
    List(Vec<String>),
}

impl<'de> Deserialize<'de> for TextOrList {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = TextOrList;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text or a list of texts")
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<TextOrList, E> {
                Ok(TextOrList::Text(text.to_owned()))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<TextOrList, A::Error> {
                let mut list = Vec::new();
                while let Some(Scalar(text)) = seq.next_element()? {
                    list.push(text);
                }
                Ok(TextOrList::List(list))
            }
        }
        deserializer.deserialize_any(Either)
    }
}

/// A table of scalars in the order of the text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Pairs(pub(crate) Vec<(String, String)>);

impl<'de> Deserialize<'de> for Pairs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Table;
        impl<'de> Visitor<'de> for Table {
            type Value = Pairs;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a table")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pairs, A::Error> {
                let mut pairs = Vec::new();
                while let Some((key, Scalar(value))) = map.next_entry()? {
                    pairs.push((key, value));
                }
                Ok(Pairs(pairs))
            }
        }
        deserializer.deserialize_map(Table)
    }
}
