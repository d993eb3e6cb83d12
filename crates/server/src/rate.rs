//! How often a token may be used.

use ostler_domain::TokenId;
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Beyond this number of buckets those that are full again are forgotten, which changes nothing.
const KEPT: usize = 1024;

/// A bucket per token: it holds `burst` requests, and gets `rate` new ones per second. Development mode has one bucket.
#[derive(Debug)]
pub(crate) struct RateLimit {
    rate: f64,
    burst: f64,
    buckets: Mutex<HashMap<Option<TokenId>, Bucket>>,
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    left: f64,
    at: Instant,
}

impl RateLimit {
    /// A rate of 0 is no limit.
    pub(crate) fn new(rate: u32, burst: u32) -> Self {
        Self {
            rate: f64::from(rate),
            burst: f64::from(burst.max(1)),
            buckets: Mutex::default(),
        }
    }

    /// Takes one request; otherwise says after which time there is one.
    pub(crate) fn take(&self, token: Option<TokenId>, now: Instant) -> Result<(), Duration> {
        if self.rate == 0.0 {
            return Ok(());
        }
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.len() > KEPT {
            buckets.retain(|_, bucket| self.filled(*bucket, now) < self.burst);
        }
        let bucket = buckets.entry(token).or_insert(Bucket {
            left: self.burst,
            at: now,
        });
        *bucket = Bucket {
            left: self.filled(*bucket, now),
            at: now,
        };
        if bucket.left >= 1.0 {
            bucket.left -= 1.0;
            return Ok(());
        }
        Err(Duration::from_secs_f64((1.0 - bucket.left) / self.rate))
    }

    fn filled(&self, bucket: Bucket, now: Instant) -> f64 {
        let new = now.saturating_duration_since(bucket.at).as_secs_f64() * self.rate;
        (bucket.left + new).min(self.burst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_followed_by_the_rate_and_tokens_are_apart() {
        let limit = RateLimit::new(10, 3);
        let (one, two) = (Some(TokenId::new()), Some(TokenId::new()));
        let start = Instant::now();
        for _ in 0..3 {
            limit.take(one, start).unwrap();
        }
        let wait = limit.take(one, start).unwrap_err();
        assert!((0.09..=0.1).contains(&wait.as_secs_f64()), "{wait:?}");
        limit.take(two, start).unwrap();
        limit.take(one, start + Duration::from_millis(101)).unwrap();
        limit.take(one, start + Duration::from_millis(102)).unwrap_err();
        let later = start + Duration::from_secs(3600);
        for _ in 0..3 {
            limit.take(one, later).unwrap();
        }
        limit.take(one, later).unwrap_err();
    }

    #[test]
    fn many_tokens_do_not_fill_memory() {
        let limit = RateLimit::new(1000, 1);
        let start = Instant::now();
        for i in 0..10_000 {
            limit
                .take(Some(TokenId::new()), start + Duration::from_millis(i))
                .unwrap();
        }
        assert!(limit.buckets.lock().unwrap().len() <= KEPT + 1);
    }
}
