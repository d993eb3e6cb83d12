//! `ostler agent configure`.

use super::ConfigurationArguments;
use crate::commands::{Outcome, sandbox};
use crate::context::Session;
use crate::error::CliError;
use ostler_contracts::ConfigureAgent;

/// Which sandbox, and how it is to be.
#[derive(Debug, clap::Args)]
pub struct Configure {
    /// Id, or the end of it.
    #[arg(value_name = "AGENT")]
    agent: String,
    #[command(flatten)]
    configuration: ConfigurationArguments,
}

impl Configure {
    pub(super) async fn run(self, session: &Session) -> Outcome {
        let id = session.agent_id(&self.agent).await?;
        let present = session.client.agent(id).await?.config;
        let change = ConfigureAgent {
            config: self.configuration.configuration(&present)?,
            tool_allowlist: self.configuration.tools(),
        };
        if change == ConfigureAgent::default() {
            let what = "nothing is to be changed; name --configuration, --env or --allow";
            return Err(CliError::Usage(what.to_owned()));
        }
        let agent = session.client.configure_agent(id, &change).await?;
        session.out.show(&agent, || sandbox::fields(&agent, session.out.colour))
    }
}
