//! The images of this server: with what they are built, and the removal of those that nobody uses.

use crate::drivers::Place;
use anyhow::Context;
use ostler_control::{Control, ImageSettings, Images};
use ostler_driver_docker::{DockerDriver, DockerImages, ImageOptions};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// Time between two looks for images that nobody uses.
const ROUND: Duration = Duration::from_secs(3600);

/// How images are built by this installation.
pub(crate) fn options(settings: &ImageSettings, place: &Place, data: &Path) -> ImageOptions {
    ImageOptions {
        mirror: settings.mirror.clone(),
        phase_limit: Duration::from_secs(settings.phase_timeout_seconds.max(1)),
        ..ImageOptions::new(&place.instance, data.join("images/making"))
    }
}

/// What builds images at the driver's engine. Without it sandboxes are started all the same.
pub(crate) async fn builder(driver: &DockerDriver, options: ImageOptions) -> Option<DockerImages> {
    match driver.images(options).await {
        Ok(images) => Some(images),
        Err(error) => {
            tracing::warn!(%error, "images cannot be built");
            None
        }
    }
}

/// Gives the use cases what builds images.
pub(crate) fn add(
    control: &Control,
    builder: Option<DockerImages>,
    settings: &ImageSettings,
    data: &Path,
) -> anyhow::Result<()> {
    let Some(builder) = builder else {
        return Ok(());
    };
    let dir = data.join("images");
    let images = Images::open(Arc::new(builder), dir.clone(), settings.clone())
        .with_context(|| format!("cannot make {}", dir.display()))?;
    control.set_images(images);
    Ok(())
}

/// Removes images that nobody uses, at a period.
pub(crate) async fn collect(control: Control, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(ROUND) => {}
            () = stop.cancelled() => return,
        }
        let started = Instant::now();
        tokio::select! {
            result = control.collect_images() => {
                if let Err(error) = &result {
                    tracing::warn!(%error, "a round over the images failed; it is tried again");
                }
                control.reconciled("images", started, &result);
            }
            () = stop.cancelled() => return,
        }
    }
}
