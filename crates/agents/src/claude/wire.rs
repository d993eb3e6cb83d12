//! The JSON that Claude Code prints, read field by field.
//!
//! Every field is optional and read on its own: a field that a later version renames or retypes must not cost the
//! others. Fields are kept as text until they are wanted, so a line of any shape costs no more than its length.

use crate::MAX_EVENT_TEXT;
use crate::event::clip;
use ostler_domain::Usage;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_json::value::RawValue;
use std::collections::BTreeMap;

/// A field as it stands in the line.
pub(super) type Field<'a> = Option<&'a RawValue>;

/// `field` as a `T`, if it is one.
pub(super) fn get<T: DeserializeOwned>(field: Field<'_>) -> Option<T> {
    serde_json::from_str(field?.get()).ok()
}

/// `field` as an object or array whose parts are kept as text.
pub(super) fn view<'a, T: Deserialize<'a>>(field: Field<'a>) -> Option<T> {
    serde_json::from_str(field?.get()).ok()
}

/// `field` as a text, empty if it is none.
pub(super) fn text(field: Field<'_>) -> String {
    get(field).unwrap_or_default()
}

/// One line.
#[derive(Deserialize)]
pub(super) struct Line<'a> {
    #[serde(borrow, rename = "type")]
    pub(super) kind: Field<'a>,
    #[serde(borrow)]
    pub(super) subtype: Field<'a>,
    #[serde(borrow)]
    pub(super) session_id: Field<'a>,
    #[serde(borrow)]
    pub(super) model: Field<'a>,
    #[serde(borrow)]
    pub(super) message: Field<'a>,
    #[serde(borrow)]
    pub(super) parent_tool_use_id: Field<'a>,
    #[serde(borrow)]
    pub(super) tool_name: Field<'a>,
    #[serde(borrow)]
    pub(super) attempt: Field<'a>,
    #[serde(borrow)]
    pub(super) max_retries: Field<'a>,
    #[serde(borrow)]
    pub(super) retry_delay_ms: Field<'a>,
    #[serde(borrow)]
    pub(super) error_status: Field<'a>,
    #[serde(borrow)]
    pub(super) error: Field<'a>,
    #[serde(borrow)]
    pub(super) is_error: Field<'a>,
    #[serde(borrow)]
    pub(super) api_error_status: Field<'a>,
    #[serde(borrow)]
    pub(super) errors: Field<'a>,
    #[serde(borrow)]
    pub(super) result: Field<'a>,
    #[serde(borrow)]
    pub(super) permission_denials: Field<'a>,
    #[serde(borrow)]
    pub(super) usage: Field<'a>,
    #[serde(borrow)]
    pub(super) total_cost_usd: Field<'a>,
    #[serde(borrow, rename = "modelUsage")]
    pub(super) model_usage: Field<'a>,
    #[serde(borrow)]
    pub(super) model_usage_since_last_result: Field<'a>,
}

/// What an `assistant` or `user` line carries.
#[derive(Deserialize)]
pub(super) struct Message<'a> {
    #[serde(borrow)]
    pub(super) id: Field<'a>,
    #[serde(borrow)]
    pub(super) content: Field<'a>,
    #[serde(borrow)]
    pub(super) usage: Field<'a>,
}

/// A part of a message.
#[derive(Deserialize)]
pub(super) struct Block<'a> {
    #[serde(borrow, rename = "type")]
    pub(super) kind: Field<'a>,
    #[serde(borrow)]
    pub(super) text: Field<'a>,
    #[serde(borrow)]
    pub(super) thinking: Field<'a>,
    #[serde(borrow)]
    pub(super) id: Field<'a>,
    #[serde(borrow)]
    pub(super) name: Field<'a>,
    #[serde(borrow)]
    pub(super) input: Field<'a>,
    #[serde(borrow)]
    pub(super) tool_use_id: Field<'a>,
    #[serde(borrow)]
    pub(super) content: Field<'a>,
    #[serde(borrow)]
    pub(super) is_error: Field<'a>,
}

/// Token counts, in the spelling of the API or of `modelUsage`.
#[derive(Deserialize)]
struct Counts<'a> {
    #[serde(borrow, rename = "input_tokens", alias = "inputTokens")]
    input: Field<'a>,
    #[serde(borrow, rename = "output_tokens", alias = "outputTokens")]
    output: Field<'a>,
    #[serde(borrow, rename = "cache_read_input_tokens", alias = "cacheReadInputTokens")]
    cache_read: Field<'a>,
    #[serde(
        borrow,
        rename = "cache_creation_input_tokens",
        alias = "cacheCreationInputTokens"
    )]
    cache_write: Field<'a>,
    #[serde(borrow, rename = "costUSD")]
    cost: Field<'a>,
}

impl Counts<'_> {
    fn usage(&self) -> Usage {
        Usage {
            input_tokens: get(self.input).unwrap_or(0),
            output_tokens: get(self.output).unwrap_or(0),
            cache_read_tokens: get(self.cache_read).unwrap_or(0),
            cache_write_tokens: get(self.cache_write).unwrap_or(0),
            cost_usd: money(self.cost),
        }
    }
}

/// A `usage` object; it has no money in it.
pub(super) fn tokens(field: Field<'_>) -> Option<Usage> {
    view::<Counts<'_>>(field).map(|counts| counts.usage())
}

/// The sum over a `modelUsage` object.
pub(super) fn all_models(field: Field<'_>) -> Option<Usage> {
    let models: BTreeMap<String, Counts<'_>> = view(field)?;
    let mut sum = Usage::default();
    for model in models.values() {
        add(&mut sum, model.usage());
    }
    Some(sum)
}

/// An amount of dollars that can be added up: finite and not negative.
pub(super) fn money(field: Field<'_>) -> f64 {
    get(field)
        .filter(|cost: &f64| cost.is_finite() && *cost >= 0.0)
        .unwrap_or(0.0)
}

pub(super) fn add(sum: &mut Usage, part: Usage) {
    sum.input_tokens = sum.input_tokens.saturating_add(part.input_tokens);
    sum.output_tokens = sum.output_tokens.saturating_add(part.output_tokens);
    sum.cache_read_tokens = sum.cache_read_tokens.saturating_add(part.cache_read_tokens);
    sum.cache_write_tokens = sum.cache_write_tokens.saturating_add(part.cache_write_tokens);
    sum.cost_usd += part.cost_usd;
}

/// The arguments of a tool, cut to a text when they are too large for an event.
pub(super) fn tool_input(field: Field<'_>) -> Value {
    match field {
        Some(raw) if raw.get().len() > MAX_EVENT_TEXT => Value::String(clip(raw.get())),
        _ => get(field).unwrap_or(Value::Null),
    }
}

/// The content of a tool's answer: a text, or blocks of which the texts count.
pub(super) fn content_text(field: Field<'_>) -> String {
    if let Some(text) = get::<String>(field) {
        return text;
    }
    let blocks: Vec<Block<'_>> = view(field).unwrap_or_default();
    let parts = blocks.iter().map(|block| match text(block.kind).as_str() {
        "text" => text(block.text),
        other => format!("[{other}]"),
    });
    parts.collect::<Vec<_>>().join("\n")
}
