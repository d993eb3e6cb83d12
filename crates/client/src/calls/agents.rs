//! Agents: sandboxes that the tenant holds.

use crate::http::Patience::{Long, Usual};
use crate::sse::{EventStream, Message, next_chunk};
use crate::{Client, ClientError};
use bytes::Bytes;
use futures::Stream;
use ostler_contracts::{
    ConfigureAgent, ExecAgent, ExecEnd, ExecStarted, ExecView, LogLine, ProvisionAgent, ProvisionReply,
    SandboxView, SnapshotAgent, UploadedFile,
};
use ostler_domain::SandboxId;
use reqwest::header::HeaderMap;
use reqwest::{Method, Response, Url};
use std::time::Duration;
use tokio::time::Instant;

/// How long a server that has gone away is waited for.
const PATIENCE: Duration = Duration::from_secs(60);
/// Pause between two connections.
const AGAIN: Duration = Duration::from_millis(500);

impl Client {
    /// Gives the tenant a sandbox, which may take long when no warm one is there. Whoever does not wait for the answer
    /// gives it up.
    pub async fn provision_agent(&self, new: &ProvisionAgent) -> Result<ProvisionReply, ClientError> {
        self.call(Method::POST, &["agents"], Some(new), Long).await
    }

    /// The tenant's agents that are not gone, newest first.
    pub async fn agents(&self) -> Result<Vec<SandboxView>, ClientError> {
        self.get(self.path(&["agents"])).await
    }

    /// One agent, also one that is gone.
    pub async fn agent(&self, id: SandboxId) -> Result<SandboxView, ClientError> {
        self.get(self.path(&["agents", &id.to_string()])).await
    }

    /// Changes the configuration or the list of commands, for programs started from now on.
    pub async fn configure_agent(
        &self,
        id: SandboxId,
        change: &ConfigureAgent,
    ) -> Result<SandboxView, ClientError> {
        let path = ["agents", &id.to_string(), "configure"];
        self.call(Method::POST, &path, Some(change), Usual).await
    }

    /// Ends an agent with everything in it; repeating it changes nothing.
    pub async fn destroy_agent(&self, id: SandboxId) -> Result<(), ClientError> {
        self.act(Method::DELETE, &["agents", &id.to_string()], Long).await
    }

    /// Freezes all programs of an agent.
    pub async fn pause_agent(&self, id: SandboxId) -> Result<(), ClientError> {
        self.act(Method::POST, &["agents", &id.to_string(), "pause"], Long)
            .await
    }

    /// Lets them go on.
    pub async fn resume_agent(&self, id: SandboxId) -> Result<(), ClientError> {
        self.act(Method::POST, &["agents", &id.to_string(), "resume"], Long)
            .await
    }

    /// Keeps the state of an agent under a name.
    pub async fn snapshot_agent(&self, id: SandboxId, name: &str) -> Result<(), ClientError> {
        let body = SnapshotAgent {
            name: name.to_owned(),
        };
        let path = ["agents", &id.to_string(), "snapshot"];
        self.tell(Method::POST, &path, &body, Long).await
    }

    /// Executes a program in an agent. Dropping what is returned leaves the program its grace period for a reader.
    pub async fn exec_agent(&self, id: SandboxId, command: &ExecAgent) -> Result<Exec, ClientError> {
        let url = self.path(&["agents", &id.to_string(), "exec"]);
        let stream = self.events(Method::POST, &url, None, Some(command)).await?;
        Ok(Exec {
            client: self.clone(),
            id,
            program: None,
            next: 1,
            base64: command.base64,
            patience: Duration::from_secs(command.grace_seconds),
            follow: true,
            stream: Some(stream),
        })
    }

    /// The programs that run in an agent, and the last ones that ended; the newest first.
    pub async fn agent_programs(&self, id: SandboxId) -> Result<Vec<ExecView>, ClientError> {
        self.get(self.path(&["agents", &id.to_string(), "execs"])).await
    }

    /// Reads a program of an agent from a piece on; without `follow`, only what there is now.
    pub async fn read_agent_program(
        &self,
        id: SandboxId,
        exec_id: &str,
        from_seq: u64,
        follow: bool,
        base64: bool,
    ) -> Result<Exec, ClientError> {
        let mut exec = Exec {
            client: self.clone(),
            id,
            program: Some(exec_id.to_owned()),
            next: from_seq,
            base64,
            patience: if follow { PATIENCE } else { Duration::ZERO },
            follow,
            stream: None,
        };
        exec.stream = Some(exec.attach().await?);
        Ok(exec)
    }

    /// Ends a program of an agent with all of its children.
    pub async fn end_agent_program(&self, id: SandboxId, exec_id: &str) -> Result<(), ClientError> {
        let path = ["agents", &id.to_string(), "execs", exec_id];
        self.act(Method::DELETE, &path, Usual).await
    }

    /// Writes a file in an agent, or unpacks an archive there. `mode` are the permission bits of a file.
    pub async fn upload_to_agent(
        &self,
        id: SandboxId,
        path: &str,
        tar: bool,
        mode: Option<u32>,
        content: impl Stream<Item = std::io::Result<Bytes>> + Send + 'static,
    ) -> Result<UploadedFile, ClientError> {
        let mut url = self.files(id, path, tar);
        if let Some(mode) = mode {
            url.query_pairs_mut().append_pair("mode", &format!("{mode:o}"));
        }
        self.put_stream(url, content).await
    }

    /// Reads a file of an agent, or an archive of all that is in a directory.
    pub async fn download_from_agent(
        &self,
        id: SandboxId,
        path: &str,
        tar: bool,
    ) -> Result<Download, ClientError> {
        let url = self.files(id, path, tar);
        let response = self
            .stream(Method::GET, &url, HeaderMap::new(), None::<&()>)
            .await?;
        Ok(Download::new(response, self.url().to_owned()))
    }

    fn files(&self, id: SandboxId, path: &str, tar: bool) -> Url {
        let mut url = self.path(&["agents", &id.to_string(), "files"]);
        url.query_pairs_mut()
            .append_pair("path", path)
            .append_pair("tar", if tar { "true" } else { "false" });
        url
    }
}

/// A file that is being read.
#[derive(Debug)]
pub struct Download {
    response: Response,
    url: String,
}

impl Download {
    pub(super) fn new(response: Response, url: String) -> Self {
        Self { response, url }
    }

    /// The next piece; `None` after the last.
    ///
    /// # Errors
    ///
    /// When the connection breaks or stands still.
    pub async fn next(&mut self) -> Result<Option<Bytes>, ClientError> {
        let piece = next_chunk(&mut self.response, &self.url).await?;
        Ok(piece.map(|piece| Bytes::copy_from_slice(&piece)))
    }
}

/// What comes from a program that is executed in an agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExecItem {
    /// A piece of its output.
    Output(LogLine),
    /// It has ended, or all there is at present was read; nothing follows.
    End(Option<ExecEnd>),
}

/// A program that is executed in an agent, and read as long as this is held.
#[derive(Debug)]
pub struct Exec {
    client: Client,
    id: SandboxId,
    program: Option<String>,
    /// Number of the next piece.
    next: u64,
    base64: bool,
    /// How long a server that has gone away is waited for.
    patience: Duration,
    follow: bool,
    stream: Option<EventStream>,
}

impl Exec {
    /// The program's id, once the server has told it.
    pub fn exec_id(&self) -> Option<&str> {
        self.program.as_deref()
    }

    /// What comes next. A connection that breaks is taken up again after the last piece, as long as the program goes on
    /// without a reader.
    ///
    /// # Errors
    ///
    /// When the connection breaks for longer: the server has then ended the program.
    pub async fn next(&mut self) -> Result<ExecItem, ClientError> {
        let mut lost: Option<Instant> = None;
        loop {
            let error = match &mut self.stream {
                Some(stream) => match stream.next().await {
                    Ok(Some(message)) => {
                        if let Some(item) = self.item(&message)? {
                            return Ok(item);
                        }
                        continue;
                    }
                    Ok(None) if !self.follow => return Ok(ExecItem::End(None)),
                    Ok(None) => ClientError::Broken {
                        url: self.client.url().to_owned(),
                        reason: "the server ended the stream before the program's end".to_owned(),
                    },
                    Err(error) => error,
                },
                None => match self.attach().await {
                    Ok(stream) => {
                        self.stream = Some(stream);
                        continue;
                    }
                    Err(error) => error,
                },
            };
            self.stream = None;
            let since = *lost.get_or_insert_with(Instant::now);
            if self.program.is_none() || !error.is_transient() || since.elapsed() >= self.patience {
                return Err(error);
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    fn item(&mut self, message: &Message) -> Result<Option<ExecItem>, ClientError> {
        let foreign = |reason| self.client.foreign(reason);
        match message.event.as_str() {
            "started" => {
                let started: ExecStarted = message.json().map_err(foreign)?;
                self.program = Some(started.exec_id);
                Ok(None)
            }
            "output" => {
                let line: LogLine = message.json().map_err(foreign)?;
                self.next = line.seq.saturating_add(1);
                Ok(Some(ExecItem::Output(line)))
            }
            "exit" => {
                let end = message.json().map_err(foreign)?;
                Ok(Some(ExecItem::End(Some(end))))
            }
            _ => Ok(None),
        }
    }

    async fn attach(&self) -> Result<EventStream, ClientError> {
        let exec_id = self.program.as_deref().unwrap_or_default();
        let text = |flag: bool| if flag { "true" } else { "false" };
        let mut url = self
            .client
            .path(&["agents", &self.id.to_string(), "execs", exec_id]);
        url.query_pairs_mut()
            .append_pair("from_seq", &self.next.to_string())
            .append_pair("follow", text(self.follow))
            .append_pair("base64", text(self.base64));
        self.client.events(Method::GET, &url, None, None::<&()>).await
    }
}
