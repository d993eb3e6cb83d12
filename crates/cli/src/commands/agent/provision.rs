//! `ostler agent provision`.

use super::ConfigurationArguments;
use crate::commands::Outcome;
use crate::commands::run::requirements::RequirementArguments;
use crate::context::Session;
use crate::exit::Exit;
use crate::progress::with_progress;
use ostler_contracts::ProvisionAgent;
use serde_json::Value;

/// What is wanted.
#[derive(Debug, clap::Args)]
pub struct Provision {
    #[command(flatten)]
    configuration: ConfigurationArguments,
    #[command(flatten)]
    requirements: RequirementArguments,
}

impl Provision {
    /// Standard output holds the id alone, so that a script can keep it.
    pub(super) async fn run(self, session: &Session) -> Outcome {
        let new = ProvisionAgent {
            config: self
                .configuration
                .configuration(&Value::Null)?
                .unwrap_or_default(),
            tool_allowlist: self.configuration.tools(),
            requirements: self.requirements.into(),
            ..ProvisionAgent::default()
        };
        let reply = with_progress("getting a sandbox", session.client.provision_agent(&new)).await?;
        session.out.show(&reply, || format!("{}\n", reply.agent.id))?;
        let how = reply
            .cold_reason
            .map_or_else(|| "it was warm".to_owned(), |reason| format!("started cold: {reason}"));
        session
            .out
            .note(&format!("ready in {} ms ({how})", reply.ready_ms));
        Ok(Exit::OK)
    }
}
