//! Who called, what was used, and what it cost.

use crate::Upstream;
use ostler_domain::{RunId, TenantId, Usage};
use serde::Deserialize;
use std::time::Duration;

/// The run on whose behalf a request comes, as the sandbox's token says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caller {
    /// The run.
    pub run_id: RunId,
    /// Its owner.
    pub tenant_id: TenantId,
}

/// One call, written when its answer ended or was given up.
#[derive(Debug, Clone, PartialEq)]
pub struct UsageRecord {
    /// Who called.
    pub caller: Caller,
    /// The API.
    pub upstream: Upstream,
    /// The model that answered; empty if none did.
    pub model: String,
    /// What was used; none if the answer does not say. After a broken answer, what is known.
    pub usage: Option<Usage>,
    /// HTTP status that the caller got; 499 if it went away before there was one.
    pub status: u16,
    /// Whether the caller got the whole answer.
    pub complete: bool,
    /// From the request to the head of the answer, or to the end if there was none.
    pub first_byte: Duration,
    /// From the request to the end.
    pub total: Duration,
}

/// US dollars per million tokens of the models whose names begin with `model`.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Price {
    /// Beginning of the model's name.
    pub model: String,
    /// Tokens read.
    pub input: f64,
    /// Tokens written.
    pub output: f64,
    /// Tokens read from a cache.
    #[serde(default)]
    pub cache_read: f64,
    /// Tokens written into a cache.
    #[serde(default)]
    pub cache_write: f64,
}

/// A table of prices; the longest name that fits counts. Empty by default, since prices change.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(transparent)]
pub struct Prices(pub Vec<Price>);

impl Prices {
    /// What `usage` of `model` costs in US dollars; 0 if there is no price.
    pub fn cost(&self, model: &str, usage: &Usage) -> f64 {
        let fitting = self.0.iter().filter(|price| model.starts_with(&price.model));
        fitting
            .max_by_key(|price| price.model.len())
            .map_or(0.0, |price| {
                let parts = [
                    (usage.input_tokens, price.input),
                    (usage.output_tokens, price.output),
                    (usage.cache_read_tokens, price.cache_read),
                    (usage.cache_write_tokens, price.cache_write),
                ];
                parts
                    .iter()
                    .map(|(tokens, price)| *tokens as f64 * price / 1e6)
                    .sum()
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_name_counts() {
        let price = |model: &str, input| Price {
            model: model.into(),
            input,
            output: 10.0,
            ..Price::default()
        };
        let prices = Prices(vec![
            price("claude-", 1.0),
            price("claude-opus", 5.0),
            price("gpt", 9.0),
        ]);
        let usage = Usage {
            input_tokens: 1_000_000,
            output_tokens: 500_000,
            ..Usage::default()
        };
        assert!((prices.cost("claude-opus-5", &usage) - 10.0).abs() < 1e-9);
        assert!((prices.cost("claude-haiku", &usage) - 6.0).abs() < 1e-9);
        assert!(prices.cost("other", &usage).abs() < 1e-9);
    }
}
