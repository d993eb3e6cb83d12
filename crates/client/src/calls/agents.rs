//! Agents: sandboxes that the tenant holds.

use crate::http::Patience::{Long, Usual};
use crate::sse::EventStream;
use crate::{Client, ClientError};
use ostler_contracts::{
    ConfigureAgent, ExecAgent, ExecEnd, LogLine, ProvisionAgent, ProvisionReply, SandboxView,
};
use ostler_domain::SandboxId;
use reqwest::Method;

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

    /// Executes a program in an agent. Dropping what is returned ends the program.
    pub async fn exec_agent(&self, id: SandboxId, command: &ExecAgent) -> Result<Exec, ClientError> {
        let url = self.path(&["agents", &id.to_string(), "exec"]);
        let stream = self.events(Method::POST, &url, None, Some(command)).await?;
        Ok(Exec {
            client: self.clone(),
            stream,
        })
    }
}

/// What comes from a program that is executed in an agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExecItem {
    /// A piece of its output.
    Output(LogLine),
    /// It has ended; nothing follows.
    End(ExecEnd),
}

/// A program that is executed in an agent, as long as this is held.
#[derive(Debug)]
pub struct Exec {
    client: Client,
    stream: EventStream,
}

impl Exec {
    /// What comes next.
    ///
    /// # Errors
    ///
    /// When the connection breaks before the end: the server has then ended the program, and there is no way to read
    /// on.
    pub async fn next(&mut self) -> Result<ExecItem, ClientError> {
        loop {
            let Some(message) = self.stream.next().await? else {
                return Err(ClientError::Broken {
                    url: self.client.url().to_owned(),
                    reason: "the server ended the stream before the program's end".to_owned(),
                });
            };
            let item = match message.event.as_str() {
                "output" => message.json().map(ExecItem::Output),
                "exit" => message.json().map(ExecItem::End),
                _ => continue,
            };
            return item.map_err(|reason| self.client.foreign(reason));
        }
    }
}
