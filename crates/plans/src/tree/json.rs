//! JSON with places: `serde_json` reads each level as raw slices of the text, whose offsets are the places.

use super::{Entry, Node, Place, Problem, Value};
use crate::limits;
use serde::Deserializer;
use serde::de::{MapAccess, Visitor};
use serde_json::value::RawValue;
use std::collections::HashSet;
use std::fmt;

pub(super) fn parse(text: &str) -> Result<Node, Vec<Problem>> {
    let raw: &RawValue = serde_json::from_str(text).map_err(|error| vec![syntax(&error)])?;
    let mut problems = Vec::new();
    let node = node(text, raw, 0, &mut problems);
    if problems.is_empty() {
        Ok(node)
    } else {
        Err(problems)
    }
}

fn syntax(error: &serde_json::Error) -> Problem {
    let place = Place::LineColumn(error.line().max(1) as u32, error.column().max(1) as u32);
    Problem::of_text(place, format!("this is not JSON: {}", words(error)))
}

/// The message without the place, which for a part of the text would be a wrong one.
fn words(error: &serde_json::Error) -> String {
    let text = error.to_string();
    text.split(" at line ").next().unwrap_or_default().to_owned()
}

/// The offset of a slice of `text` in it.
fn place(text: &str, part: &str) -> Place {
    Place::Offset(part.as_ptr().addr() - text.as_ptr().addr())
}

fn node(text: &str, raw: &RawValue, depth: usize, problems: &mut Vec<Problem>) -> Node {
    let part = raw.get();
    let place = place(text, part);
    let value = value(text, part, depth, problems).unwrap_or_else(|message| {
        problems.push(Problem::of_text(place, message));
        Value::Null
    });
    Node { place, value }
}

fn value(text: &str, part: &str, depth: usize, problems: &mut Vec<Problem>) -> Result<Value, String> {
    if depth > limits::DEPTH {
        return Err(format!("lists and tables stand more than {} deep", limits::DEPTH));
    }
    // `RawValue` checks the outline only; a bad escape in a string shows here.
    let bad = |error: serde_json::Error| format!("this is not JSON: {}", words(&error));
    Ok(match part.as_bytes().first() {
        Some(b'{') => {
            let entries = serde_json::Deserializer::from_str(part)
                .deserialize_map(Entries)
                .map_err(bad)?;
            let mut table = Vec::with_capacity(entries.len());
            let mut seen = HashSet::new();
            for (raw_key, raw) in entries {
                let at = self::place(text, raw_key.get());
                let key: String = serde_json::from_str(raw_key.get()).map_err(bad)?;
                if !seen.insert(key.clone()) {
                    problems.push(Problem::of_text(
                        at,
                        format!("the key `{key}` stands here a second time"),
                    ));
                    continue;
                }
                table.push(Entry {
                    key,
                    place: at,
                    node: node(text, raw, depth + 1, problems),
                });
            }
            Value::Table(table)
        }
        Some(b'[') => {
            let items: Vec<&RawValue> = serde_json::from_str(part).map_err(bad)?;
            Value::List(
                items
                    .into_iter()
                    .map(|raw| node(text, raw, depth + 1, problems))
                    .collect(),
            )
        }
        Some(b'"') => Value::Text(serde_json::from_str(part).map_err(bad)?),
        Some(b't') => Value::Bool(true),
        Some(b'f') => Value::Bool(false),
        Some(b'n') => Value::Null,
        _ => Value::Number(part.to_owned()),
    })
}

struct Entries;

impl<'de> Visitor<'de> for Entries {
    type Value = Vec<(&'de RawValue, &'de RawValue)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a table")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(entries)
    }
}
