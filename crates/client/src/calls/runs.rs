//! Runs and their logs.

use crate::http::Patience::Usual;
use crate::sse::next_chunk;
use crate::{Client, ClientError};
use ostler_contracts::{CancelReply, LogLine, RunExplanation, RunView, SubmitRun};
use ostler_domain::{ProjectId, RunId, RunKind, RunStatus, TaskId};
use reqwest::header::HeaderMap;
use reqwest::{Method, Response};

/// Longest line of a log that is believed; the server's pieces are at most 1 MiB before base 64.
const MAX_LINE: usize = 16 << 20;

/// Which runs are wanted; all when empty.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RunQuery {
    /// Only of this project.
    pub project: Option<ProjectId>,
    /// Only of this task.
    pub task: Option<TaskId>,
    /// Only of this kind.
    pub kind: Option<RunKind>,
    /// Only in this state.
    pub status: Option<RunStatus>,
    /// At most this many; the server's default when absent, at most 1000.
    pub limit: Option<u32>,
}

impl Client {
    /// Submits a command as a run.
    pub async fn submit_run(&self, new: &SubmitRun) -> Result<RunView, ClientError> {
        self.call(Method::POST, &["runs"], Some(new), Usual).await
    }

    /// Runs, newest first.
    pub async fn runs(&self, query: RunQuery) -> Result<Vec<RunView>, ClientError> {
        let mut url = self.path(&["runs"]);
        let pairs = [
            ("project", query.project.map(|v| v.to_string())),
            ("task", query.task.map(|v| v.to_string())),
            ("kind", query.kind.map(|v| v.to_string())),
            ("status", query.status.map(|v| v.to_string())),
            ("limit", query.limit.map(|v| v.to_string())),
        ];
        for (name, value) in pairs {
            if let Some(value) = value {
                url.query_pairs_mut().append_pair(name, &value);
            }
        }
        self.get(url).await
    }

    /// One run.
    pub async fn run(&self, id: RunId) -> Result<RunView, ClientError> {
        self.get(self.path(&["runs", &id.to_string()])).await
    }

    /// Requests the end of a run; asking twice, or too late, is no error.
    pub async fn cancel_run(&self, id: RunId) -> Result<CancelReply, ClientError> {
        let path = ["runs", &id.to_string(), "cancel"];
        self.call(Method::POST, &path, None::<&()>, Usual).await
    }

    /// Why a run is where it is.
    pub async fn explain_run(&self, id: RunId) -> Result<RunExplanation, ClientError> {
        self.get(self.path(&["runs", &id.to_string(), "explain"])).await
    }

    /// What the log of a run holds now, after piece `after` (0 for all). With `base64`, texts are the exact bytes in
    /// base 64.
    pub async fn run_log(&self, id: RunId, after: u64, base64: bool) -> Result<LogLines, ClientError> {
        let mut url = self.path(&["runs", &id.to_string(), "logs"]);
        url.query_pairs_mut()
            .append_pair("after", &after.to_string())
            .append_pair("base64", if base64 { "true" } else { "false" });
        let response = self
            .stream(Method::GET, &url, HeaderMap::new(), None::<&()>)
            .await?;
        Ok(LogLines {
            client: self.clone(),
            response,
            rest: Vec::new(),
            start: 0,
        })
    }
}

/// The pieces of a log, read as they come in: a log may be larger than memory.
#[derive(Debug)]
pub struct LogLines {
    client: Client,
    response: Response,
    rest: Vec<u8>,
    /// How much of `rest` has been given out.
    start: usize,
}

impl LogLines {
    /// The next piece; `None` at the end.
    pub async fn next(&mut self) -> Result<Option<LogLine>, ClientError> {
        let mut searched = self.start;
        loop {
            if let Some(length) = self.rest[searched..].iter().position(|b| *b == b'\n') {
                let end = searched + length;
                let line = serde_json::from_slice(&self.rest[self.start..end])
                    .map_err(|error| self.client.foreign(format!("a line of a log: {error}")))?;
                self.start = end + 1;
                return Ok(Some(line));
            }
            self.rest.drain(..self.start);
            self.start = 0;
            searched = self.rest.len();
            if searched > MAX_LINE {
                return Err(self.client.foreign("a line of a log has no end".to_owned()));
            }
            match next_chunk(&mut self.response, self.client.url()).await? {
                Some(bytes) => self.rest.extend_from_slice(&bytes),
                None if self.rest.is_empty() => return Ok(None),
                None => return Err(self.client.foreign("a log ends within a line".to_owned())),
            }
        }
    }
}
