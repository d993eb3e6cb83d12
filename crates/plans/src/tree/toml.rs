//! TOML with places.

use super::{Entry, Node, Place, Problem, Value};
use crate::limits;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

pub(super) fn parse(text: &str) -> Result<Node, Vec<Problem>> {
    let (table, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        return Err(errors
            .iter()
            .map(|error| {
                let place = Place::Offset(error.span().map_or(0, |span| span.start));
                let message = error.message().lines().collect::<Vec<_>>().join(", ");
                Problem::of_text(place, format!("this is not TOML: {message}"))
            })
            .collect());
    }
    let place = Place::Offset(0);
    let value = self::table(table.get_ref(), 0).map_err(|problem| vec![problem])?;
    Ok(Node { place, value })
}

fn table(table: &DeTable<'_>, depth: usize) -> Result<Value, Problem> {
    let mut entries = Vec::with_capacity(table.len());
    for (key, value) in table {
        entries.push((
            key.span().start,
            Entry {
                key: key.get_ref().to_string(),
                place: Place::Offset(key.span().start),
                node: node(value, depth + 1)?,
            },
        ));
    }
    // The parser sorts keys by name; the order of the text matters for the axes of a matrix.
    entries.sort_by_key(|(start, _)| *start);
    Ok(Value::Table(
        entries.into_iter().map(|(_, entry)| entry).collect(),
    ))
}

fn node(value: &Spanned<DeValue<'_>>, depth: usize) -> Result<Node, Problem> {
    let place = Place::Offset(value.span().start);
    if depth > limits::DEPTH {
        return Err(Problem::of_text(
            place,
            format!("lists and tables stand more than {} deep", limits::DEPTH),
        ));
    }
    let value = match value.get_ref() {
        DeValue::String(text) => Value::Text(text.to_string()),
        DeValue::Integer(number) if number.radix() == 10 => Value::Number(number.as_str().to_owned()),
        DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
            Ok(number) => Value::Number(number.to_string()),
            Err(_) => {
                return Err(Problem::of_text(
                    place,
                    "this is not TOML: the number does not fit 64 bits",
                ));
            }
        },
        DeValue::Float(number) => Value::Number(number.as_str().to_owned()),
        DeValue::Boolean(value) => Value::Bool(*value),
        DeValue::Datetime(time) => Value::Text(time.to_string()),
        DeValue::Array(items) => Value::List(
            items
                .iter()
                .map(|item| node(item, depth + 1))
                .collect::<Result<_, _>>()?,
        ),
        DeValue::Table(inner) => table(inner, depth)?,
    };
    Ok(Node { place, value })
}
