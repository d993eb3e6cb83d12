//! The end of a server at a step.
//!
//! A server goes through steps that others can see: writes to its store, and starts and ends of sandboxes. A fuse counts
//! them, before and after each. When it has burnt, whoever comes to it waits for ever, and all connections to guests are
//! cut: nothing that the server would do next has an effect, as if its process were gone.

use crate::world::LIMIT;
use ostler_sandbox::ByteStream;
use std::future::Future;
use std::sync::atomic::{AtomicI64, Ordering};
use tokio::io::{copy_bidirectional, duplex};
use tokio_util::sync::CancellationToken;

const STREAM: usize = 64 << 10;

/// One server's; the next server has a new one.
pub(crate) struct Fuse {
    left: AtomicI64,
    burnt: CancellationToken,
}

impl Fuse {
    /// One that burns at the step of this number from now on; never if `None`.
    pub(crate) fn new(at: Option<u16>) -> Self {
        Self {
            left: AtomicI64::new(at.map_or(i64::MAX, i64::from)),
            burnt: CancellationToken::new(),
        }
    }

    /// Lets it burn some steps from now.
    pub(crate) fn arm(&self, steps: u16) {
        self.left.store(i64::from(steps.max(1)), Ordering::SeqCst);
    }

    pub(crate) fn burn(&self) {
        self.burnt.cancel();
    }

    pub(crate) fn is_burnt(&self) -> bool {
        self.burnt.is_cancelled()
    }

    /// A step: the server goes through it, or ends here.
    pub(crate) async fn step(&self) {
        self.gate().await;
        if self.left.fetch_sub(1, Ordering::SeqCst) <= 1 {
            self.burnt.cancel();
        }
        self.gate().await;
    }

    /// What nobody else sees is no step, but nothing is done by a server that has ended.
    pub(crate) async fn gate(&self) {
        if self.is_burnt() {
            std::future::pending::<()>().await;
        }
    }

    /// What a server answers; `None` if it ends before.
    pub(crate) async fn alive<T>(&self, answer: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            () = self.burnt.cancelled() => None,
            answer = tokio::time::timeout(2 * LIMIT, answer) => Some(answer.expect("it answers or ends")),
        }
    }

    /// A connection that is cut when the server ends.
    pub(crate) fn cut(&self, mut stream: Box<dyn ByteStream>) -> Box<dyn ByteStream> {
        let (ours, mut theirs) = duplex(STREAM);
        let burnt = self.burnt.clone();
        tokio::spawn(async move {
            tokio::select! {
                _over = copy_bidirectional(&mut stream, &mut theirs) => {}
                () = burnt.cancelled() => {}
            }
        });
        Box::new(ours)
    }
}
