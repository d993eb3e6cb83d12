//! Following a stream over broken connections and restarts of the server.

use crate::sse::{EventStream, Message};
use crate::{Client, ClientError};
use ostler_contracts::{EventView, LogLine, PlanView, TestView};
use ostler_domain::{PlanId, RunId, RunStatus};
use reqwest::{Method, Url};
use std::time::Duration;
use tokio::time::Instant;

const FIRST_WAIT: Duration = Duration::from_millis(200);
const LONGEST_WAIT: Duration = Duration::from_secs(5);
/// For how long a server that has gone away is waited for.
const PATIENCE: Duration = Duration::from_secs(300);

/// What a follower has to tell.
#[derive(Debug)]
pub enum Followed<T> {
    /// A connection stands, the first or a new one. What is asked of the server from now on is not older than the
    /// items that follow.
    Connected,
    /// The next item.
    Item(T),
    /// The connection broke; the follower goes on where it was as soon as the server answers again.
    Lost(ClientError),
}

/// An item of a followed log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogItem {
    /// A piece of the log.
    Line(LogLine),
    /// The run has ended, and its log with it; nothing follows.
    End(RunStatus),
}

/// An item of a followed plan.
#[derive(Debug, Clone, PartialEq)]
pub enum PlanItem {
    /// The plan or its counters have changed.
    Plan(Box<PlanView>),
    /// A test is being executed. Seen of most tests, but not of those that end quickly; after each new connection those
    /// that are being executed are told again.
    Started(Box<TestView>),
    /// A run of a test has ended. Each comes exactly once; one that is tried again says that it is superseded.
    Finished(Box<TestView>),
    /// All of its tests have ended; nothing follows.
    End(Box<PlanView>),
}

type Decode<T> = fn(&Message) -> Result<Option<T>, String>;

/// Follows one stream; each item comes exactly once, also over broken connections.
#[derive(Debug)]
pub struct Follower<T> {
    client: Client,
    url: Url,
    decode: Decode<T>,
    stream: Option<EventStream>,
    /// The id of the last item, where the next connection goes on.
    last: Option<String>,
    /// Connections and attempts at one since the last item.
    attempts: u32,
    /// Since when there is no connection; `None` before the first and while there is one.
    lost_at: Option<Instant>,
}

impl<T> Follower<T> {
    fn new(client: Client, url: Url, decode: Decode<T>) -> Self {
        Self {
            client,
            url,
            decode,
            stream: None,
            last: None,
            attempts: 0,
            lost_at: None,
        }
    }

    /// What comes next. Waits as long as it takes.
    ///
    /// # Errors
    ///
    /// When the first connection does not come about, when a server that was there has been away for five minutes, or
    /// when the server refuses. After an error the follower is of no more use.
    pub async fn next(&mut self) -> Result<Followed<T>, ClientError> {
        loop {
            let Some(stream) = &mut self.stream else {
                match self.connect().await {
                    Ok(stream) => {
                        self.stream = Some(stream);
                        self.lost_at = None;
                        return Ok(Followed::Connected);
                    }
                    Err(error) => {
                        let waiting = self.lost_at.is_some_and(|at| at.elapsed() < PATIENCE);
                        if !(waiting && error.is_transient()) {
                            return Err(error);
                        }
                    }
                }
                continue;
            };
            let lost = match stream.next().await {
                Ok(Some(message)) => {
                    self.attempts = 0;
                    let item = (self.decode)(&message).map_err(|reason| self.client.foreign(reason))?;
                    if message.id.is_some() {
                        self.last = message.id;
                    }
                    match item {
                        Some(item) => return Ok(Followed::Item(item)),
                        None => continue,
                    }
                }
                Ok(None) => ClientError::Broken {
                    url: self.client.url().to_owned(),
                    reason: "the server ended the stream".to_owned(),
                },
                Err(error) => error,
            };
            self.stream = None;
            self.lost_at = Some(Instant::now());
            if lost.is_transient() {
                return Ok(Followed::Lost(lost));
            }
            return Err(lost);
        }
    }

    async fn connect(&mut self) -> Result<EventStream, ClientError> {
        if self.lost_at.is_some() {
            let wait = FIRST_WAIT.saturating_mul(1 << self.attempts.min(8));
            tokio::time::sleep(wait.min(LONGEST_WAIT)).await;
        }
        self.attempts = self.attempts.saturating_add(1);
        self.client
            .events(Method::GET, &self.url, self.last.as_deref(), None::<&()>)
            .await
    }
}

impl Client {
    /// Follows the log of a run from after piece `after` (0 for all) to its end. With `base64`, texts are the exact
    /// bytes in base 64.
    pub fn follow_run(&self, id: RunId, after: u64, base64: bool) -> Follower<LogItem> {
        let mut url = self.path(&["runs", &id.to_string(), "logs"]);
        url.query_pairs_mut()
            .append_pair("follow", "true")
            .append_pair("after", &after.to_string())
            .append_pair("base64", if base64 { "true" } else { "false" });
        Follower::new(self.clone(), url, |message| match message.event.as_str() {
            "log" => message.json().map(|line| Some(LogItem::Line(line))),
            "end" => match message.data.parse() {
                Ok(status) => Ok(Some(LogItem::End(status))),
                Err(error) => Err(format!("the end of a log: {error}")),
            },
            _ => Ok(None),
        })
    }

    /// Follows a plan from its beginning to its end: what happened before is told first.
    pub fn follow_plan(&self, id: PlanId) -> Follower<PlanItem> {
        let url = self.path(&["plans", &id.to_string(), "events"]);
        Follower::new(self.clone(), url, |message| {
            Ok(Some(match message.event.as_str() {
                "plan.updated" => PlanItem::Plan(message.json()?),
                "test.started" => PlanItem::Started(message.json()?),
                "test.finished" => PlanItem::Finished(message.json()?),
                "plan.finished" => PlanItem::End(message.json()?),
                _ => return Ok(None),
            }))
        })
    }

    /// Follows state changes from after event `after`, or from now on.
    pub fn follow_events(&self, after: Option<i64>) -> Follower<EventView> {
        let mut url = self.path(&["events"]);
        if let Some(after) = after {
            url.query_pairs_mut().append_pair("after", &after.to_string());
        }
        Follower::new(self.clone(), url, |message| message.json().map(Some))
    }

    /// Follows the state changes of one object, from the first on or after one.
    pub fn follow_events_of(&self, subject: &str, after: i64) -> Follower<EventView> {
        Follower::new(self.clone(), self.events_of(subject, after, true), |message| {
            message.json().map(Some)
        })
    }

    /// The state changes of one object up to now.
    ///
    /// # Errors
    ///
    /// When the server refuses or the connection breaks.
    pub async fn past_events_of(&self, subject: &str) -> Result<Vec<EventView>, ClientError> {
        let url = self.events_of(subject, 0, false);
        let mut stream = self.events(Method::GET, &url, None, None::<&()>).await?;
        let mut events = Vec::new();
        while let Some(message) = stream.next().await? {
            events.push(message.json().map_err(|reason| self.foreign(reason))?);
        }
        Ok(events)
    }

    fn events_of(&self, subject: &str, after: i64, follow: bool) -> Url {
        let mut url = self.path(&["events"]);
        url.query_pairs_mut()
            .append_pair("after", &after.to_string())
            .append_pair("subject", subject)
            .append_pair("follow", if follow { "true" } else { "false" });
        url
    }
}
