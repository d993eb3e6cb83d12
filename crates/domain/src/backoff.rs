//! Exponential back-off with jitter.

use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Waiting times between attempts: `first · factor^(n−1)`, at most `max`, less a random share of up to `jitter`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Backoff {
    /// Wait after the first failure.
    pub first: Duration,
    /// Growth from one wait to the next.
    pub factor: f64,
    /// Longest wait.
    pub max: Duration,
    /// Largest share of a wait that chance may take away, 0 to 1.
    pub jitter: f64,
}

impl Default for Backoff {
    /// 5 s, doubling, at most 120 s, up to a fifth of it left to chance.
    fn default() -> Self {
        Self {
            first: Duration::from_secs(5),
            factor: 2.0,
            max: Duration::from_secs(120),
            jitter: 0.2,
        }
    }
}

impl Backoff {
    /// The wait after failure number `failures` (1 is the first); `chance` is uniform in 0..1.
    pub fn delay(&self, failures: u32, chance: f64) -> Duration {
        let exponent = i32::try_from(failures.saturating_sub(1)).unwrap_or(i32::MAX);
        let raw = self.first.as_secs_f64() * self.factor.powi(exponent);
        let capped = raw.min(self.max.as_secs_f64());
        Duration::from_secs_f64(capped * (1.0 - self.jitter.clamp(0.0, 1.0) * chance.clamp(0.0, 1.0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_up_to_the_cap() {
        let waits: Vec<u64> = (1..=7)
            .map(|n| Backoff::default().delay(n, 0.0).as_secs())
            .collect();
        assert_eq!(waits, [5, 10, 20, 40, 80, 120, 120]);
    }

    #[test]
    fn jitter_only_shortens() {
        assert_eq!(Backoff::default().delay(1, 1.0), Duration::from_secs(4));
        assert_eq!(Backoff::default().delay(u32::MAX, 0.0), Duration::from_secs(120));
    }
}
