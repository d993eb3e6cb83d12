//! `ostler sandbox hosts`.

use crate::commands::Outcome;
use crate::context::Session;
use crate::exit::Exit;
use crate::table::{Colour, Table};
use ostler_contracts::HostView;

/// No arguments.
#[derive(Debug, clap::Args)]
pub struct Hosts {}

impl Hosts {
    pub(super) async fn run(self, session: &Session) -> Outcome {
        let hosts = session.client.hosts().await?;
        session.out.show(&hosts, || table(&hosts, session.out.colour))?;
        Ok(Exit::OK)
    }
}

pub(super) fn table(hosts: &[HostView], colour: Colour) -> String {
    let mut table = Table::new(["DRIVER", "HOST", "SANDBOXES", "STATE", "FAILURES", "LAST ERROR"], colour);
    for host in hosts {
        let state = match (&host.away, host.draining, host.quarantined_until) {
            (Some(_), ..) => "away".to_owned(),
            (None, true, _) => "draining".to_owned(),
            (None, false, Some(until)) => format!("quarantine until {until}"),
            (None, false, None) => "open".to_owned(),
        };
        table.row([
            host.driver.to_string(),
            host.name.clone(),
            host.sandboxes.to_string(),
            state,
            host.failures.to_string(),
            host.away.clone().or(host.last_error.clone()).unwrap_or_default(),
        ]);
    }
    table.or_empty("no drivers; `ostler doctor` says why")
}
