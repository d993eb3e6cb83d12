//! Hints: at once within this process, by NOTIFY to other servers.
//!
//! NOTIFY inside a writing transaction takes a lock of the whole cluster at its commit, so it is sent afterwards, in a
//! transaction of its own, for all that happened within ten milliseconds. It can get lost: with the connection, or in a
//! pooler that swallows LISTEN. Therefore the listener sends itself a message now and then, and until one has arrived
//! every hint is given once a second in case it is true; afterwards once a minute.

use ostler_store::Hint;
use sqlx::PgPool;
use sqlx::postgres::PgListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;
use tokio::sync::{Notify, broadcast};
use tokio::time::Instant;

const ALL: [Hint; 5] = [
    Hint::RunsQueued,
    Hint::CancelRequested,
    Hint::RunsFinished,
    Hint::Events,
    Hint::Pools,
];
const COALESCE: Duration = Duration::from_millis(10);
const POLL_UNPROVEN: Duration = Duration::from_secs(1);
const POLL_PROVEN: Duration = Duration::from_secs(60);
/// How many hints a slow receiver may be behind before it is told that it missed some.
const BUFFER: usize = 256;

/// The hints of one store.
#[derive(Clone)]
pub(crate) struct Hints(Arc<Shared>);

struct Shared {
    local: broadcast::Sender<Hint>,
    pending: AtomicU8,
    wake: Notify,
    channel: String,
    /// Tells own messages from those of others.
    origin: u64,
}

impl Hints {
    /// Those of a store whose tables are in `schema` of `database`; a channel is seen in the whole database.
    pub(crate) fn new(schema: &str) -> Self {
        Self(Arc::new(Shared {
            local: broadcast::channel(BUFFER).0,
            pending: AtomicU8::new(0),
            wake: Notify::new(),
            channel: format!("ostler_{schema}"),
            origin: rand::random(),
        }))
    }

    /// Gives a hint, after the commit.
    pub(crate) fn give(&self, hint: Hint) {
        let _ = self.0.local.send(hint);
        self.0.pending.fetch_or(1 << hint as u8, Ordering::AcqRel);
        self.0.wake.notify_one();
    }

    pub(crate) fn subscribe(&self) -> broadcast::Receiver<Hint> {
        self.0.local.subscribe()
    }

    fn spread(&self, bits: u8) {
        for hint in ALL.iter().filter(|hint| bits & (1 << **hint as u8) != 0) {
            let _ = self.0.local.send(*hint);
        }
    }

    async fn notify(&self, pool: &PgPool, payload: String) -> Result<(), sqlx::Error> {
        sqlx::query("SELECT pg_notify($1, $2)")
            .bind(&self.0.channel)
            .bind(payload)
            .execute(pool)
            .await
            .map(|_| ())
    }

    /// Passes hints on to other servers; ends when it is dropped.
    pub(crate) async fn send(self, pool: PgPool) {
        loop {
            self.0.wake.notified().await;
            tokio::time::sleep(COALESCE).await;
            let bits = self.0.pending.swap(0, Ordering::AcqRel);
            let payload = format!("{:x} {bits}", self.0.origin);
            if let Err(error) = self.notify(&pool, payload).await {
                tracing::debug!(%error, "a hint could not be sent; other servers find out by polling");
            }
        }
    }

    /// Receives the hints of other servers; ends when it is dropped.
    pub(crate) async fn listen(self, pool: PgPool) {
        let test = format!("{:x} 0", self.0.origin);
        loop {
            if let Err(error) = self.listen_once(&pool, &test).await {
                tracing::warn!(%error, "no hints from other servers for now; polling instead");
            }
            self.spread(u8::MAX);
            tokio::time::sleep(POLL_UNPROVEN).await;
        }
    }

    async fn listen_once(&self, pool: &PgPool, test: &str) -> Result<(), sqlx::Error> {
        let mut listener = PgListener::connect_with(pool).await?;
        listener.listen(&self.0.channel).await?;
        // Whatever happened before the subscription.
        self.spread(u8::MAX);
        self.notify(pool, test.to_owned()).await?;
        let mut poll = Instant::now() + POLL_UNPROVEN;
        loop {
            match tokio::time::timeout_at(poll, listener.try_recv()).await {
                Ok(Ok(Some(message))) if message.payload() == test => poll = Instant::now() + POLL_PROVEN,
                Ok(Ok(Some(message))) => {
                    let mut parts = message.payload().splitn(2, ' ');
                    let own = parts.next() == Some(&format!("{:x}", self.0.origin));
                    if let (false, Some(Ok(bits))) = (own, parts.next().map(str::parse)) {
                        self.spread(bits);
                    }
                }
                Ok(Ok(None)) => return Ok(()),
                Ok(Err(error)) => return Err(error),
                Err(_elapsed) => {
                    self.spread(u8::MAX);
                    poll = Instant::now() + POLL_UNPROVEN;
                    self.notify(pool, test.to_owned()).await?;
                }
            }
        }
    }
}
