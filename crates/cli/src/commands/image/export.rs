//! `ostler image export`.

use crate::commands::Outcome;
use crate::context::Session;
use crate::exit::Exit;
use crate::input::mebibytes;
use ostler_contracts::ExportRootDrive;

/// Which image, and how large.
#[derive(Debug, clap::Args)]
pub struct Export {
    /// Name, or hash, or the beginning of the hash.
    #[arg(value_name = "IMAGE")]
    image: String,
    /// Size of the drive, such as 4G; only what is written takes space.
    #[arg(long, value_name = "SIZE", default_value = "4G", value_parser = mebibytes)]
    size: u64,
}

impl Export {
    pub(super) async fn run(self, session: &Session) -> Outcome {
        let hash = super::hash(&self.image);
        let drive = ExportRootDrive { size_mb: self.size };
        loop {
            let view = session.client.export_image(hash, drive).await?;
            if view.status == "exporting" {
                tokio::time::sleep(super::ASK_AGAIN).await;
                continue;
            }
            if let Some(error) = &view.error {
                session
                    .out
                    .note(&format!("ostler: the root drive was not written: {error}"));
                return Ok(Exit::FAILED);
            }
            session.out.show(&view, || format!("{}\n", view.path))?;
            return Ok(Exit::OK);
        }
    }
}
