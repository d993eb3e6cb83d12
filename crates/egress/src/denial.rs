//! What was denied, on its way to whoever keeps and shows it.

use ostler_domain::{Clock, SandboxId, SystemClock, Timestamp};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::mpsc;

/// Which rule was broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DenialKind {
    /// A name that is not listed, or not with this port.
    Domain,
    /// An address that is not listed, or not with this port.
    Address,
    /// TLS whose server name does not agree with what was asked for.
    Sni,
    /// Something else than the protocol that is let through there.
    Protocol,
    /// A question to the name server that is not answered.
    Dns,
    /// An allowed name with an address that is not public.
    Rebinding,
    /// Too much at once.
    Limit,
}

impl DenialKind {
    /// A stable word, for storage and filters.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Domain => "domain",
            Self::Address => "address",
            Self::Sni => "sni",
            Self::Protocol => "protocol",
            Self::Dns => "dns",
            Self::Rebinding => "rebinding",
            Self::Limit => "limit",
        }
    }
}

/// Something that a sandbox tried and was not allowed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denial {
    /// When.
    pub at: Timestamp,
    /// Who.
    pub sandbox: SandboxId,
    /// Which rule.
    pub kind: DenialKind,
    /// Where to: a host with a port or a name with a record type. The sandbox chose it, so it is cut at 300 bytes and
    /// holds no control characters.
    pub target: String,
    /// Why, and what would allow it; at most 1000 bytes without control characters.
    pub reason: String,
}

/// Where denials go. A full channel never holds the proxy up: what does not fit is counted instead.
#[derive(Debug, Clone)]
pub struct Denials {
    to: mpsc::Sender<Denial>,
    dropped: Arc<AtomicU64>,
}

impl Denials {
    /// A channel that holds `capacity` denials, at least one.
    pub fn channel(capacity: usize) -> (Self, mpsc::Receiver<Denial>) {
        let (to, from) = mpsc::channel(capacity.max(1));
        let dropped = Arc::default();
        (Self { to, dropped }, from)
    }

    /// How many denials were not delivered, because the channel was full or a sandbox made too many.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    pub(crate) fn report(&self, sandbox: SandboxId, refusal: &Refusal) {
        let denial = Denial {
            at: SystemClock.now(),
            sandbox,
            kind: refusal.kind,
            target: printable(&refusal.target),
            // It may quote the target, and what would allow it comes last.
            reason: cut(&refusal.reason, 1000),
        };
        tracing::debug!(%sandbox, kind = denial.kind.as_str(), target = denial.target, reason = denial.reason, "egress denied");
        if self.to.try_send(denial).is_err() {
            self.drop_one();
        }
    }

    pub(crate) fn drop_one(&self) {
        self.dropped.fetch_add(1, Ordering::Relaxed);
    }
}

/// At most 300 bytes without control characters.
pub(crate) fn printable(text: &str) -> String {
    cut(text, 300)
}

fn cut(text: &str, most: usize) -> String {
    let mut out = String::new();
    for c in text.chars() {
        let c = if c.is_control() { '\u{fffd}' } else { c };
        if out.len() + c.len_utf8() > most {
            break;
        }
        out.push(c);
    }
    out
}

/// A decision against something, before it is known who is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) kind: DenialKind,
    pub(crate) target: String,
    pub(crate) reason: String,
}

impl Refusal {
    pub(crate) fn new(kind: DenialKind, target: impl Into<String>, reason: impl Into<String>) -> Self {
        Self {
            kind,
            target: target.into(),
            reason: reason.into(),
        }
    }
}

/// Why something did not come about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Stop {
    /// The policy or a rule of the protocol. It is reported.
    Refused(Refusal),
    /// The world: no answer, no connection. Nobody's denial.
    Failed(String),
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_sandbox_chose_is_harmless_to_show() {
        let (denials, mut from) = Denials::channel(0);
        let target = "a\n\u{1b}[2J".to_owned() + &"ü".repeat(400);
        denials.report(
            SandboxId::from_u128(1),
            &Refusal::new(DenialKind::Dns, target, "x".repeat(2000)),
        );
        let denial = from.try_recv().unwrap();
        assert!(denial.target.starts_with("a\u{fffd}\u{fffd}[2J") && denial.target.len() <= 300);
        assert_eq!(denial.reason.len(), 1000);
    }
}
