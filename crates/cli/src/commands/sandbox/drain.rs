//! `ostler sandbox drain`.

use crate::commands::Outcome;
use crate::context::Session;
use crate::error::CliError;
use crate::exit::Exit;
use ostler_domain::DriverKind;

/// What to drain.
#[derive(Debug, clap::Args)]
pub struct Drain {
    /// Sandbox to end: its id, or the end of it.
    #[arg(value_name = "SANDBOX", required_unless_present = "host", conflicts_with = "host")]
    sandbox: Option<String>,
    /// Also when somebody holds it.
    #[arg(long, requires = "sandbox")]
    force: bool,
    /// Host on which nothing is started any more: `docker`, or `docker/NAME` where a driver has several.
    #[arg(long, value_name = "HOST")]
    host: Option<String>,
    /// Start sandboxes there again.
    #[arg(long, requires = "host")]
    undo: bool,
}

impl Drain {
    pub(super) async fn run(self, session: &Session) -> Outcome {
        if let Some(host) = &self.host {
            let (driver, name) = host.split_once('/').unwrap_or((host, "local"));
            let driver: DriverKind = driver.parse().map_err(|error| CliError::Usage(format!("{error}")))?;
            let host = session.client.drain_host(driver, name, !self.undo).await?;
            let shown = std::slice::from_ref(&host);
            session.out.show(&host, || super::hosts::table(shown, session.out.colour))?;
        } else if let Some(sandbox) = &self.sandbox {
            let id = session.sandbox_id(sandbox).await?;
            let ended = session.client.drain_sandbox(id, self.force).await?;
            session.out.show(&ended, || format!("{id} has ended\n"))?;
        }
        Ok(Exit::OK)
    }
}
