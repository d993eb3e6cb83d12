//! Engines that are away when the server starts, and are used as soon as they are there.

use crate::drivers::{self, ANSWER, Away};
use crate::images;
use crate::serve::reconcile;
use crate::settings::Settings;
use ostler_control::{Control, DriverHost, Drivers, LOCAL};
use ostler_domain::DriverKind;
use ostler_driver_docker::ImageOptions;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// First wait before they are tried again; doubles to the last.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LAST_WAIT: Duration = Duration::from_secs(30);

/// What tries the engines that are away.
pub(crate) struct Late {
    pub(crate) control: Control,
    /// The hosts of the use cases.
    pub(crate) drivers: Drivers,
    pub(crate) away: Vec<Away>,
    pub(crate) settings: Settings,
    /// How images are built, should the local engine be away.
    pub(crate) images: ImageOptions,
    pub(crate) data: PathBuf,
}

impl Late {
    /// Tries again and again, until none is away or until `stop`.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut wait = FIRST_WAIT;
        while !self.away.is_empty() {
            let control = self.control.clone();
            let round = async {
                tokio::time::sleep(wait).await;
                reconcile(&control, "hosts", self.round()).await;
            };
            tokio::select! {
                () = round => {}
                () = stop.cancelled() => return,
            }
            wait = (wait * 2).min(LAST_WAIT);
        }
    }

    /// Tries each once, all at the same time. Returns how many are used from now on.
    async fn round(&mut self) -> anyhow::Result<usize> {
        let mut tries = JoinSet::new();
        for away in std::mem::take(&mut self.away) {
            tries.spawn(async move { (drivers::docker(away.options.clone(), ANSWER).await, away) });
        }
        let mut added = 0;
        for (opened, away) in tries.join_all().await {
            let failed = match opened {
                Ok(driver) => {
                    let builder = match away.name.as_str() {
                        LOCAL => images::builder(&driver, self.images.clone()).await,
                        _ => None,
                    };
                    let host = DriverHost {
                        kind: DriverKind::Docker,
                        name: away.name.clone(),
                        driver: Arc::new(driver),
                    };
                    match self.control.add_host(host).await {
                        Ok(_) => {
                            if let Err(error) =
                                images::add(&self.control, builder, &self.settings.images, &self.data)
                            {
                                tracing::warn!(%error, "images cannot be built on an engine that was away");
                            }
                            added += 1;
                            continue;
                        }
                        Err(error) => error.to_string(),
                    }
                }
                Err(error) => drivers::why(error),
            };
            tracing::debug!(host = away.name, why = failed, "an engine is still away");
            self.drivers.set_away(DriverKind::Docker, &away.name, failed);
            self.away.push(away);
        }
        if added > 0 {
            let image = self.settings.drivers.docker.image.as_deref();
            drivers::ensure_default_pool(&self.control, &self.drivers, &[], image).await?;
        }
        Ok(added)
    }
}
