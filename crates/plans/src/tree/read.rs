//! From a tree to typed fields, telling every problem and not only the first.
//!
//! serde stops at the first mistake. So what was wrong is noted, taken as not being there, and the tree is read again,
//! until it can be read or enough has been found.

use super::{Entry, Node, Place, Problem, Step, Value, path_text};
use crate::error::did_you_mean;
use crate::limits;
use serde::de::value::StrDeserializer;
use serde::de::{
    self, DeserializeOwned, DeserializeSeed, Deserializer, IntoDeserializer, Unexpected, Visitor,
};
use std::collections::HashSet;
use std::fmt;

/// Name of a newtype that takes numbers as they were written.
pub(crate) const SCALAR: &str = "$ostler::scalar";
/// Name of a newtype that may be a text with `${matrix.…}` in place of its value.
pub(crate) const TEMPLATE: &str = "$ostler::template";

/// How many values are looked at in all rounds together. A small plan is told all its mistakes; a huge one that is full
/// of them does not keep a server busy.
const WORK: usize = 5_000_000;

/// What was found, and whether there may be more.
pub(crate) type Problems = (Vec<Problem>, bool);

/// Reads `T`, or tells everything that hinders it.
pub(crate) fn read<T: DeserializeOwned>(root: &Node) -> Result<T, Problems> {
    let rounds = (WORK / root.size()).clamp(1, 2 * limits::PROBLEMS);
    let mut problems = Vec::new();
    let mut skipped = HashSet::new();
    for _ in 0..rounds {
        let top = Reader {
            node: root,
            path: &Path::Top,
            skipped: &skipped,
        };
        let error = match T::deserialize(top) {
            Ok(value) if problems.is_empty() => return Ok(value),
            Ok(_) => return Err((problems, false)),
            Err(error) => error.at(root, root.place, &Path::Top, &skipped),
        };
        let Some(found) = error.found else {
            return Err((problems, true));
        };
        if !found.follows {
            problems.push(Problem {
                place: found.place,
                path: path_text(&found.path),
                message: error.message,
                suggestion: error.suggestion,
            });
        }
        if problems.len() >= limits::PROBLEMS {
            break;
        }
        if !skipped.insert(found.id) || found.id == id(root) {
            return Err((problems, false));
        }
    }
    Err((problems, true))
}

/// What tells values of one tree apart.
fn id(node: &Node) -> usize {
    std::ptr::from_ref(node).addr()
}

/// Whether a field is missing only because what stands for it was wrong: its value, or its name.
fn replaces(table: &Node, field: &str, skipped: &HashSet<usize>) -> bool {
    let Value::Table(entries) = &table.value else {
        return false;
    };
    entries
        .iter()
        .filter(|entry| skipped.contains(&id(&entry.node)))
        .any(|entry| did_you_mean(&entry.key, [field]).is_some())
}

/// The way to a value, on the stack.
enum Path<'p> {
    Top,
    Key(&'p Path<'p>, &'p str),
    Index(&'p Path<'p>, usize),
}

impl Path<'_> {
    fn steps(&self) -> Vec<Step> {
        let mut steps = Vec::new();
        let mut path = self;
        loop {
            path = match path {
                Path::Top => break,
                Path::Key(up, key) => {
                    steps.push(Step::from(*key));
                    up
                }
                Path::Index(up, index) => {
                    steps.push(Step::Index(*index));
                    up
                }
            };
        }
        steps.reverse();
        steps
    }
}

/// A mistake, and where it is once that is known.
#[derive(Debug)]
struct ReadError {
    message: String,
    suggestion: Option<String>,
    missing: Option<&'static str>,
    found: Option<Found>,
}

#[derive(Debug)]
struct Found {
    id: usize,
    place: Place,
    path: Vec<Step>,
    /// Whether it is there only because of a mistake that was told before.
    follows: bool,
}

impl ReadError {
    fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            suggestion: None,
            missing: None,
            found: None,
        }
    }

    /// Gives the mistake its place, unless it already has one further down.
    fn at(mut self, node: &Node, place: Place, path: &Path<'_>, skipped: &HashSet<usize>) -> Self {
        if self.found.is_none() {
            let follows = self.missing.is_some_and(|field| replaces(node, field, skipped));
            self.found = Some(Found {
                id: id(node),
                place,
                path: path.steps(),
                follows,
            });
        }
        self
    }

    fn unknown(what: &str, name: &str, known: &'static [&'static str]) -> Self {
        let list = || match known {
            [] => None,
            _ => Some(format!("known are {}", known.join(", "))),
        };
        Self {
            suggestion: did_you_mean(name, known.iter().copied()).or_else(list),
            ..Self::new(format!("unknown {what} `{}`", short(name)))
        }
    }
}

fn short(text: &str) -> String {
    let start: String = text.chars().take(60).collect();
    if start.len() < text.len() {
        format!("{start}…")
    } else {
        start
    }
}

/// What stands there, in words.
fn found(unexpected: Unexpected<'_>) -> String {
    match unexpected {
        Unexpected::Str(text) => format!("the text {:?}", short(text)),
        Unexpected::Signed(number) => number.to_string(),
        Unexpected::Unsigned(number) => number.to_string(),
        Unexpected::Float(number) => number.to_string(),
        Unexpected::Bool(value) => value.to_string(),
        Unexpected::Unit | Unexpected::Option => "nothing".to_owned(),
        Unexpected::Seq => "a list".to_owned(),
        Unexpected::Map => "a table".to_owned(),
        other => other.to_string(),
    }
}

/// What serde expects, in the words of these formats.
fn expected(expected: &dyn de::Expected) -> String {
    let text = expected.to_string();
    match text.as_str() {
        "a string" => "a text".to_owned(),
        "a sequence" => "a list".to_owned(),
        "a boolean" => "true or false".to_owned(),
        "a map" => "a table".to_owned(),
        _ if text.starts_with("struct ") => "a table".to_owned(),
        _ => text,
    }
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ReadError {}

impl de::Error for ReadError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::new(message.to_string())
    }

    fn invalid_type(unexpected: Unexpected<'_>, wanted: &dyn de::Expected) -> Self {
        Self::new(format!(
            "expected {}, found {}",
            expected(wanted),
            found(unexpected)
        ))
    }

    fn invalid_value(unexpected: Unexpected<'_>, wanted: &dyn de::Expected) -> Self {
        Self::invalid_type(unexpected, wanted)
    }

    fn unknown_variant(variant: &str, known: &'static [&'static str]) -> Self {
        Self::unknown("value", variant, known)
    }

    fn unknown_field(field: &str, known: &'static [&'static str]) -> Self {
        Self::unknown("field", field, known)
    }

    fn missing_field(field: &'static str) -> Self {
        Self {
            missing: Some(field),
            ..Self::new(format!("the field `{field}` is missing"))
        }
    }
}

#[derive(Clone, Copy)]
struct Reader<'n, 'p> {
    node: &'n Node,
    path: &'p Path<'p>,
    skipped: &'p HashSet<usize>,
}

impl Reader<'_, '_> {
    fn below<'n, 'p>(&self, node: &'n Node, path: &'p Path<'p>) -> Reader<'n, 'p>
    where
        Self: 'p,
    {
        Reader {
            node,
            path,
            skipped: self.skipped,
        }
    }
}

impl<'de> Deserializer<'de> for Reader<'_, '_> {
    type Error = ReadError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        match &self.node.value {
            Value::Null => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(*value),
            Value::Text(text) => visitor.visit_str(text),
            Value::Number(text) => {
                if let Ok(number) = text.parse::<i64>() {
                    visitor.visit_i64(number)
                } else if let Ok(number) = text.parse::<u64>() {
                    visitor.visit_u64(number)
                } else {
                    match text.parse::<f64>() {
                        Ok(number) => visitor.visit_f64(number),
                        Err(_) => Err(ReadError::new(format!("`{}` is not a number", short(text)))),
                    }
                }
            }
            Value::List(items) => visitor.visit_seq(Items {
                reader: self,
                items: items.iter().enumerate(),
            }),
            Value::Table(entries) => visitor.visit_map(Entries {
                reader: self,
                rest: entries.iter(),
                value: None,
            }),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        match self.node.value {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, ReadError> {
        match &self.node.value {
            Value::Number(text) if name == SCALAR => visitor.visit_str(text),
            Value::Text(text) if name == TEMPLATE && text.contains("${matrix.") => visitor.visit_str(text),
            _ => visitor.visit_newtype_struct(self),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        known: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, ReadError> {
        if let Value::Text(text) = &self.node.value {
            let text: StrDeserializer<'_, ReadError> = text.as_str().into_deserializer();
            return visitor.visit_enum(text);
        }
        let what = match &self.node.value {
            Value::Null => "nothing",
            Value::Bool(_) => "true or false",
            Value::Number(text) | Value::Text(text) => text,
            Value::List(_) => "a list",
            Value::Table(_) => "a table",
        };
        Err(ReadError::new(format!(
            "expected one of {}, found {}",
            known.join(", "),
            short(what)
        )))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, ReadError> {
        // serde would also take a list, its items as fields by position.
        match self.node.value {
            Value::List(_) => Err(de::Error::invalid_type(Unexpected::Seq, &"a table")),
            _ => self.deserialize_any(visitor),
        }
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple
        tuple_struct map identifier ignored_any
    }
}

struct Items<'n, 'p> {
    reader: Reader<'n, 'p>,
    items: std::iter::Enumerate<std::slice::Iter<'n, Node>>,
}

impl<'de> de::SeqAccess<'de> for Items<'_, '_> {
    type Error = ReadError;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, ReadError> {
        let Reader { path, skipped, .. } = self.reader;
        let Some((index, node)) = self.items.find(|(_, node)| !skipped.contains(&id(node))) else {
            return Ok(None);
        };
        let path = Path::Index(path, index);
        seed.deserialize(self.reader.below(node, &path))
            .map(Some)
            .map_err(|error| error.at(node, node.place, &path, skipped))
    }
}

struct Entries<'n, 'p> {
    reader: Reader<'n, 'p>,
    rest: std::slice::Iter<'n, Entry>,
    value: Option<&'n Entry>,
}

impl<'de> de::MapAccess<'de> for Entries<'_, '_> {
    type Error = ReadError;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, ReadError> {
        let Reader { path, skipped, .. } = self.reader;
        let Some(entry) = self.rest.find(|entry| !skipped.contains(&id(&entry.node))) else {
            return Ok(None);
        };
        self.value = Some(entry);
        let key: StrDeserializer<'_, ReadError> = entry.key.as_str().into_deserializer();
        seed.deserialize(key)
            .map(Some)
            .map_err(|error| error.at(&entry.node, entry.place, &Path::Key(path, &entry.key), skipped))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, ReadError> {
        let Some(entry) = self.value.take() else {
            return Err(ReadError::new("a value was read before its key"));
        };
        let path = Path::Key(self.reader.path, &entry.key);
        seed.deserialize(self.reader.below(&entry.node, &path))
            .map_err(|error| error.at(&entry.node, entry.node.place, &path, self.reader.skipped))
    }
}
