//! `ostler snapshot rm`.

use crate::commands::Outcome;
use crate::context::Session;
use crate::error::CliError;
use ostler_domain::DriverKind;

/// Which snapshot.
#[derive(Debug, clap::Args)]
pub struct Rm {
    /// Name.
    #[arg(value_name = "NAME")]
    name: String,
    /// Its driver; needed where more than one has a snapshot of that name.
    #[arg(long)]
    driver: Option<DriverKind>,
}

impl Rm {
    pub(super) async fn run(self, session: &Session) -> Outcome {
        let mut found = session.client.snapshots().await?;
        found.retain(|snapshot| {
            snapshot.name == self.name && self.driver.is_none_or(|driver| driver == snapshot.driver)
        });
        let [snapshot] = &found[..] else {
            let drivers: Vec<&str> = found.iter().map(|snapshot| snapshot.driver.as_str()).collect();
            return Err(if drivers.is_empty() {
                CliError::NotFound {
                    what: "snapshot",
                    text: self.name,
                    list: "snapshot list",
                }
            } else {
                CliError::Usage(format!(
                    "more than one driver has a snapshot {}: {}; say which with --driver",
                    self.name,
                    drivers.join(", ")
                ))
            });
        };
        session
            .client
            .remove_snapshot(snapshot.driver, &snapshot.name)
            .await?;
        session.out.done(&snapshot.name, "removed")
    }
}
