//! Writing one pack.

use crate::error::chain;
use bytes::{Bytes, BytesMut};
use object_store::path::Path;
use object_store::{MultipartUpload, ObjectStore, ObjectStoreExt};
use std::sync::Arc;
use tokio::task::JoinSet;

/// Size of the parts of a large pack. All but the last are equal, which some stores ask for.
const PART: usize = 8 << 20;
/// Parts on their way at once: with them, a pack that is being written takes at most three parts of memory.
const PARTS_AT_ONCE: usize = 2;

/// An object that is being written. It appears when [`Pack::finish`] succeeds; dropped before, it leaves nothing.
pub(crate) struct Pack {
    store: Arc<dyn ObjectStore>,
    key: Path,
    length: u64,
    buffer: BytesMut,
    upload: Option<Box<dyn MultipartUpload>>,
    parts: JoinSet<object_store::Result<()>>,
}

impl Pack {
    pub(crate) fn new(store: Arc<dyn ObjectStore>, key: Path) -> Self {
        Self {
            store,
            key,
            length: 0,
            buffer: BytesMut::new(),
            upload: None,
            parts: JoinSet::new(),
        }
    }

    pub(crate) fn key(&self) -> &Path {
        &self.key
    }

    /// Bytes written so far: where the next file begins.
    pub(crate) fn length(&self) -> u64 {
        self.length
    }

    /// Copies `content`: a small piece of a large message must not hold all of it in memory.
    pub(crate) async fn write(&mut self, content: &[u8]) -> Result<(), String> {
        self.buffer.extend_from_slice(content);
        self.length += content.len() as u64;
        while self.buffer.len() >= PART {
            let part = self.buffer.split_to(PART).freeze();
            self.send(part).await?;
        }
        Ok(())
    }

    async fn send(&mut self, part: Bytes) -> Result<(), String> {
        while self.parts.len() >= PARTS_AT_ONCE {
            self.settle_one().await?;
        }
        let upload = if let Some(upload) = &mut self.upload {
            upload
        } else {
            let begun = self.store.put_multipart(&self.key).await;
            self.upload.insert(begun.map_err(|error| chain(&error))?)
        };
        self.parts.spawn(upload.put_part(part.into()));
        Ok(())
    }

    async fn settle_one(&mut self) -> Result<(), String> {
        match self.parts.join_next().await {
            None | Some(Ok(Ok(()))) => Ok(()),
            Some(Ok(Err(error))) => Err(chain(&error)),
            Some(Err(error)) => Err(error.to_string()),
        }
    }

    /// Makes the object appear, durably.
    pub(crate) async fn finish(mut self) -> Result<(), String> {
        let rest = self.buffer.split().freeze();
        if self.upload.is_none() {
            let put = self.store.put(&self.key, rest.into()).await;
            return put.map(drop).map_err(|error| chain(&error));
        }
        if !rest.is_empty() {
            self.send(rest).await?;
        }
        while !self.parts.is_empty() {
            self.settle_one().await?;
        }
        if let Some(upload) = &mut self.upload {
            upload.complete().await.map_err(|error| chain(&error))?;
            self.upload = None;
        }
        Ok(())
    }
}

impl Drop for Pack {
    fn drop(&mut self) {
        let Some(mut upload) = self.upload.take() else {
            return;
        };
        let mut parts = std::mem::take(&mut self.parts);
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        runtime.spawn(async move {
            parts.shutdown().await;
            if let Err(error) = upload.abort().await {
                tracing::debug!(%error, "an unfinished upload of artifacts could not be taken back");
            }
        });
    }
}
