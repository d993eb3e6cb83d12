//! Bodies that pass through, and the record that is written when the answer ends in whatever way.

use crate::meter::Meter;
use crate::{Caller, Prices, Upstream, UsageRecord};
use axum::body::Body;
use bytes::Bytes;
use futures::{Stream, StreamExt};
use http::StatusCode;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::mpsc::{Sender, error::TrySendError};

/// What a client's closed connection is called in logs.
const CLIENT_CLOSED: u16 = 499;

/// How long a record waits for room in the channel before it is given up.
const RECORD_PATIENCE: Duration = Duration::from_secs(30);

/// Becomes a [`UsageRecord`] when it is dropped, so that a caller that goes away is counted like one that stays.
pub(crate) struct Recording {
    caller: Caller,
    upstream: Upstream,
    started: Instant,
    first_byte: Option<Duration>,
    status: Option<StatusCode>,
    complete: bool,
    meter: Meter,
    prices: Arc<Prices>,
    records: Sender<UsageRecord>,
}

impl Recording {
    pub(crate) fn new(
        caller: Caller,
        upstream: Upstream,
        prices: Arc<Prices>,
        records: Sender<UsageRecord>,
    ) -> Self {
        Self {
            caller,
            upstream,
            started: Instant::now(),
            first_byte: None,
            status: None,
            complete: false,
            meter: Meter::default(),
            prices,
            records,
        }
    }

    /// The head of the answer is there.
    pub(crate) fn answered(&mut self, status: StatusCode, meter: Meter) {
        self.first_byte = Some(self.started.elapsed());
        self.status = Some(status);
        self.meter = meter;
    }

    /// The gateway itself answers.
    pub(crate) fn failed(&mut self, status: StatusCode) {
        self.status = Some(status);
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        let (model, usage) = self.meter.finish();
        let usage = usage.map(|usage| ostler_domain::Usage {
            cost_usd: self.prices.cost(&model, &usage),
            ..usage
        });
        let total = self.started.elapsed();
        let record = UsageRecord {
            caller: self.caller,
            upstream: self.upstream,
            model,
            usage,
            status: self.status.map_or(CLIENT_CLOSED, |status| status.as_u16()),
            complete: self.complete,
            first_byte: self.first_byte.unwrap_or(total),
            total,
        };
        match self.records.try_send(record) {
            Ok(()) => {}
            Err(TrySendError::Full(record)) => send_later(&self.records, record),
            Err(TrySendError::Closed(_)) => tracing::debug!("nobody reads usage records any more"),
        }
    }
}

/// A full channel must not hold the caller up, and must not lose what budgets are counted by.
fn send_later(records: &Sender<UsageRecord>, record: UsageRecord) {
    let Ok(runtime) = tokio::runtime::Handle::try_current() else {
        tracing::warn!(?record, "usage is not recorded: the server is shutting down");
        return;
    };
    let records = records.clone();
    runtime.spawn(async move {
        let run_id = record.caller.run_id;
        if records.send_timeout(record, RECORD_PATIENCE).await.is_err() {
            tracing::warn!(%run_id, "usage is not recorded: the reader of the records is too slow");
        }
    });
}

/// The caller's body, broken off with an error once it exceeds `limit` bytes; `exceeded` tells that from other errors.
pub(crate) fn limited(
    body: Body,
    limit: u64,
    exceeded: Arc<AtomicBool>,
) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
    let mut seen = 0u64;
    body.into_data_stream().map(move |piece| {
        let piece = piece.map_err(io::Error::other)?;
        seen += piece.len() as u64;
        if seen > limit {
            exceeded.store(true, Ordering::Relaxed);
            return Err(io::Error::other("the request body is over the limit"));
        }
        Ok(piece)
    })
}

type Pieces = Pin<Box<dyn Stream<Item = reqwest::Result<Bytes>> + Send>>;

struct Answer {
    pieces: Pieces,
    /// Bytes that are still to come, if the upstream said how many.
    left: Option<u64>,
    idle_timeout: Duration,
    recording: Recording,
    broken: bool,
}

/// The upstream's body for the caller, piece by piece as it comes. Dropping it closes the connection to the upstream.
pub(crate) fn answer(response: reqwest::Response, idle_timeout: Duration, mut recording: Recording) -> Body {
    let left = response.content_length();
    recording.complete = left == Some(0);
    let answer = Answer {
        left,
        pieces: Box::pin(response.bytes_stream()),
        idle_timeout,
        recording,
        broken: false,
    };
    Body::from_stream(futures::stream::unfold(answer, next))
}

async fn next(mut answer: Answer) -> Option<(io::Result<Bytes>, Answer)> {
    if answer.broken {
        return None;
    }
    let upstream = answer.recording.upstream;
    let error = match tokio::time::timeout(answer.idle_timeout, answer.pieces.next()).await {
        Ok(None) => {
            answer.recording.complete = true;
            return None;
        }
        Ok(Some(Ok(piece))) => {
            answer.recording.meter.feed(&piece);
            if let Some(left) = &mut answer.left {
                *left = left.saturating_sub(piece.len() as u64);
                // A body of known length is not asked for its end.
                answer.recording.complete = *left == 0;
            }
            return Some((Ok(piece), answer));
        }
        Ok(Some(Err(error))) => {
            tracing::warn!(%upstream, error = %crate::gateway::causes(&error), "the upstream broke its answer off");
            io::Error::other("the upstream broke its answer off")
        }
        Err(_) => {
            tracing::warn!(%upstream, timeout = ?answer.idle_timeout, "the upstream fell silent within its answer");
            io::Error::from(io::ErrorKind::TimedOut)
        }
    };
    answer.broken = true;
    Some((Err(error), answer))
}
