//! YAML 1.2 (core schema) with places.
//!
//! Built from the parser's events and not through its own tree: aliases are copied here, within a budget, so that a
//! few lines of nested aliases cannot fill the memory.

use super::{Entry, Node, Place, Problem, Value};
use crate::limits;
use saphyr_parser::{Event, Marker, Parser, ScalarStyle, Span, StrInput, Tag};
use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

/// What copies of anchored values may add up to, bytes.
const COPIES: usize = 64 << 20;

pub(super) fn parse(text: &str) -> Result<Node, Vec<Problem>> {
    let mut builder = Builder {
        events: Parser::new_from_str(text),
        anchors: HashMap::new(),
        copied: 0,
        duplicates: Vec::new(),
    };
    let root = builder.document().map_err(|problem| vec![problem])?;
    if builder.duplicates.is_empty() {
        Ok(root)
    } else {
        Err(builder.duplicates)
    }
}

fn place(marker: Marker) -> Place {
    Place::LineColumn(marker.line().max(1) as u32, marker.col() as u32 + 1)
}

fn problem(marker: Marker, message: impl Into<String>) -> Problem {
    Problem::of_text(place(marker), message)
}

struct Builder<'t> {
    events: Parser<'t, StrInput<'t>>,
    anchors: HashMap<usize, Node>,
    copied: usize,
    duplicates: Vec<Problem>,
}

impl<'t> Builder<'t> {
    fn next(&mut self) -> Result<(Event<'t>, Span), Problem> {
        match self.events.next_event() {
            Some(Ok(next)) => Ok(next),
            Some(Err(error)) => Err(problem(
                *error.marker(),
                format!("this is not YAML: {}", error.info()),
            )),
            None => Ok((Event::StreamEnd, Span::default())),
        }
    }

    fn document(&mut self) -> Result<Node, Problem> {
        let mut root = None;
        loop {
            let (event, span) = self.next()?;
            match event {
                Event::StreamEnd => break,
                Event::StreamStart | Event::DocumentStart(_) | Event::DocumentEnd | Event::Nothing => {}
                _ if root.is_some() => {
                    return Err(problem(
                        span.start,
                        "a second document begins here; a plan is one document",
                    ));
                }
                event => root = Some(self.node(event, span, 0)?),
            }
        }
        Ok(root.unwrap_or(Node {
            place: Place::LineColumn(1, 1),
            value: Value::Null,
        }))
    }

    fn node(&mut self, event: Event<'t>, span: Span, depth: usize) -> Result<Node, Problem> {
        let start = span.start;
        if depth > limits::DEPTH {
            return Err(problem(
                start,
                format!("lists and tables stand more than {} deep", limits::DEPTH),
            ));
        }
        let (value, anchor) = match event {
            Event::Scalar(text, style, anchor, tag) => (scalar(text, style, tag, start)?, anchor),
            Event::SequenceStart(anchor, tag) => {
                core_only(tag.as_deref(), start)?;
                (self.list(depth)?, anchor)
            }
            Event::MappingStart(anchor, tag) => {
                core_only(tag.as_deref(), start)?;
                (self.table(depth)?, anchor)
            }
            Event::Alias(anchor) => {
                let Some(node) = self.anchors.get(&anchor) else {
                    return Err(problem(start, "the alias stands inside the value that it names"));
                };
                let (size, levels) = measure(node);
                if depth + levels > limits::DEPTH {
                    return Err(problem(
                        start,
                        format!("lists and tables stand more than {} deep", limits::DEPTH),
                    ));
                }
                let mut copy = node.clone();
                copy.place = place(start);
                self.charge(size, start)?;
                return Ok(copy);
            }
            _ => return Err(problem(start, "this is not YAML: a value is missing")),
        };
        let node = Node {
            place: place(start),
            value,
        };
        if anchor != 0 {
            self.charge(measure(&node).0, start)?;
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }

    fn charge(&mut self, size: usize, at: Marker) -> Result<(), Problem> {
        self.copied += size;
        if self.copied > COPIES {
            return Err(problem(
                at,
                format!(
                    "aliases stand for more than {} MiB of values; use a matrix or `defaults` instead",
                    COPIES >> 20
                ),
            ));
        }
        Ok(())
    }

    fn list(&mut self, depth: usize) -> Result<Value, Problem> {
        let mut items = Vec::new();
        loop {
            let (event, span) = self.next()?;
            if matches!(event, Event::SequenceEnd | Event::StreamEnd) {
                return Ok(Value::List(items));
            }
            items.push(self.node(event, span, depth + 1)?);
        }
    }

    fn table(&mut self, depth: usize) -> Result<Value, Problem> {
        let mut entries: Vec<Entry> = Vec::new();
        let mut seen = HashSet::new();
        loop {
            let (event, span) = self.next()?;
            let key = match event {
                Event::MappingEnd | Event::StreamEnd => return Ok(Value::Table(entries)),
                Event::Scalar(text, ScalarStyle::Plain, ..) if text == "<<" => {
                    return Err(problem(
                        span.start,
                        "merge keys (`<<`) are not part of YAML 1.2; put what tests share into `defaults`",
                    ));
                }
                Event::Scalar(text, _, 0, _) => text.into_owned(),
                _ => return Err(problem(span.start, "a key must be plain text")),
            };
            let (event, value_span) = self.next()?;
            let node = self.node(event, value_span, depth + 1)?;
            if seen.insert(key.clone()) {
                entries.push(Entry {
                    key,
                    place: place(span.start),
                    node,
                });
            } else {
                self.duplicates.push(problem(
                    span.start,
                    format!("the key `{key}` stands here a second time"),
                ));
            }
        }
    }
}

/// About the memory that a value takes, and how deep it is.
fn measure(node: &Node) -> (usize, usize) {
    let below = |parts: &mut dyn Iterator<Item = (usize, usize)>| {
        parts.fold((64, 1), |(size, levels), (s, l)| (size + s, levels.max(l + 1)))
    };
    match &node.value {
        Value::Null | Value::Bool(_) => (64, 0),
        Value::Number(text) | Value::Text(text) => (64 + text.len(), 0),
        Value::List(items) => below(&mut items.iter().map(measure)),
        Value::Table(entries) => below(&mut entries.iter().map(|entry| {
            let (size, levels) = measure(&entry.node);
            (size + entry.key.len() + 64, levels)
        })),
    }
}

fn core_only(tag: Option<&Tag>, at: Marker) -> Result<(), Problem> {
    match tag {
        Some(tag) if !tag.is_yaml_core_schema() => Err(problem(
            at,
            format!("tags such as `{}{}` mean nothing here", tag.handle, tag.suffix),
        )),
        _ => Ok(()),
    }
}

fn scalar(
    text: Cow<'_, str>,
    style: ScalarStyle,
    tag: Option<Cow<'_, Tag>>,
    at: Marker,
) -> Result<Value, Problem> {
    core_only(tag.as_deref(), at)?;
    let is_text = tag.is_some_and(|tag| tag.suffix == "str");
    Ok(if is_text || style != ScalarStyle::Plain {
        Value::Text(text.into_owned())
    } else {
        plain(&text)
    })
}

/// What an unquoted word means.
pub(crate) fn plain(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => Value::Null,
        "true" | "True" | "TRUE" => Value::Bool(true),
        "false" | "False" | "FALSE" => Value::Bool(false),
        _ => {
            let other = text
                .strip_prefix("0x")
                .map(|digits| (digits, 16))
                .or_else(|| text.strip_prefix("0o").map(|digits| (digits, 8)));
            match other.map(|(digits, radix)| u64::from_str_radix(digits.trim_start_matches('+'), radix)) {
                Some(Ok(number)) => Value::Number(number.to_string()),
                _ if is_number(text) => Value::Number(text.to_owned()),
                _ => Value::Text(text.to_owned()),
            }
        }
    }
}

/// `[-+]? ( [0-9]+ ( . [0-9]* )? | . [0-9]+ ) ( [eE] [-+]? [0-9]+ )?`
fn is_number(text: &str) -> bool {
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    let (number, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((number, exponent)) => (number, exponent.strip_prefix(['-', '+']).unwrap_or(exponent)),
        None => (unsigned, "0"),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    digits(whole)
        && digits(fraction)
        && !(whole.is_empty() && fraction.is_empty())
        && !exponent.is_empty()
        && digits(exponent)
}
