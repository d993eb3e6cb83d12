//! Images of sandboxes.

use crate::http::Patience::Usual;
use crate::{Client, ClientError};
use ostler_contracts::{BuildImage, ExportRootDrive, ImageLog, ImageView, RootDriveView};
use reqwest::Method;

impl Client {
    /// The images, newest first; before them those that are being built or could not be.
    pub async fn images(&self) -> Result<Vec<ImageView>, ClientError> {
        self.get(self.path(&["images"])).await
    }

    /// Begins to build an image unless it is there.
    pub async fn build_image(&self, wanted: &BuildImage) -> Result<ImageView, ClientError> {
        self.call(Method::POST, &["images"], Some(wanted), Usual).await
    }

    /// One image, by its hash or the beginning of it.
    pub async fn image(&self, hash: &str) -> Result<ImageView, ClientError> {
        self.get(self.path(&["images", hash])).await
    }

    /// Removes an image, or ends its build.
    pub async fn remove_image(&self, hash: &str) -> Result<(), ClientError> {
        self.act(Method::DELETE, &["images", hash], Usual).await
    }

    /// A part of the log of an image's build, from byte `after` on.
    pub async fn image_log(&self, hash: &str, after: u64) -> Result<ImageLog, ClientError> {
        let mut url = self.path(&["images", hash, "log"]);
        url.query_pairs_mut().append_pair("after", &after.to_string());
        self.get(url).await
    }

    /// Begins to write an image's root drive, or says how that is doing.
    pub async fn export_image(
        &self,
        hash: &str,
        drive: ExportRootDrive,
    ) -> Result<RootDriveView, ClientError> {
        self.call(Method::POST, &["images", hash, "root-drive"], Some(&drive), Usual)
            .await
    }
}
