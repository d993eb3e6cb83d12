//! Files that tests left: kept with the end of their run, listed, read, and removed in their time.
//!
//! Contents go to the store of artifacts first, records of them with the change that ends the run: so nothing is listed
//! that is not there in full, and a run whose end does not count, because another server ended it, lists nothing of it.
//! Removal is the other way round, records first. What a server that is killed leaves in between is contents without
//! records, which nobody sees and retention removes.

use crate::{Caller, Control, ControlError, Result};
use ostler_artifacts::{ArtifactError, ArtifactSettings, ArtifactStore, Content, Place};
use ostler_domain::{Artifact, Permission, RunId, TenantId, TestRecord, Timestamp};
use ostler_store::{Change, Filter, Op, Record, StoreExt, Value};
use std::collections::BTreeSet;
use std::ops::Range;

/// Where the cases of a test's reports are among the files that it leaves.
pub(crate) const CASES: &str = "ostler/cases.jsonl";
/// Most artifacts that are listed at once.
const MOST: u32 = 10_000;
/// How many runs of a test are looked through for its latest artifact of a name.
const RECENT_RUNS: u32 = 100;
/// Records that are removed in one commit.
const CHUNK: u32 = 500;

/// The store of artifacts with its settings.
#[derive(Debug, Clone)]
pub(crate) struct Artifacts {
    pub(crate) store: ArtifactStore,
    pub(crate) settings: ArtifactSettings,
}

impl Control {
    /// With the store of what tests left. Without one nothing of it can be read.
    #[must_use]
    pub fn with_artifacts(mut self, store: ArtifactStore, settings: ArtifactSettings) -> Self {
        self.artifacts = Some(Artifacts { store, settings });
        self
    }

    fn artifact_store(&self) -> Result<&Artifacts> {
        self.artifacts
            .as_ref()
            .ok_or_else(|| ControlError::Unavailable("this server has no store for artifacts".into()))
    }

    /// The artifacts of a run in the order of their paths, those after the path `after`; at most `limit`, and never more
    /// than 10,000.
    pub async fn artifacts(
        &self,
        caller: &Caller,
        id: RunId,
        after: Option<String>,
        limit: u32,
    ) -> Result<Vec<Artifact>> {
        self.run(caller, id).await?;
        let mut filter = Filter::<Artifact>::by("run_id", id)
            .and("tenant_id", Op::Eq, caller.tenant_id)
            .order_by("path")
            .limit(limit.min(MOST));
        if let Some(after) = after {
            filter = filter.and("path", Op::Gt, after);
        }
        Ok(self.parts.store.list(filter).await?)
    }

    /// One artifact of a run.
    pub async fn artifact(&self, caller: &Caller, id: RunId, path: &str) -> Result<Artifact> {
        self.run(caller, id).await?;
        let filter = Filter::<Artifact>::by("run_id", id)
            .and("tenant_id", Op::Eq, caller.tenant_id)
            .and("path", Op::Eq, path.to_owned());
        let found = self.parts.store.first(filter).await?;
        found.ok_or_else(|| not_found(path))
    }

    /// The artifact of a name that the latest run of a test left that left one, among its last hundred runs.
    pub async fn latest_artifact(&self, caller: &Caller, key: &str, path: &str) -> Result<Artifact> {
        caller.require(Permission::RunsRead)?;
        let runs = Filter::<TestRecord>::by("tenant_id", caller.tenant_id)
            .and("key", Op::Eq, key.to_owned())
            .order_by_desc("created_at")
            .limit(RECENT_RUNS);
        let runs: Vec<RunId> = self
            .parts
            .store
            .list(runs)
            .await?
            .into_iter()
            .map(|record| record.run_id)
            .collect();
        let filter = Filter::<Artifact>::by("path", path.to_owned())
            .and("tenant_id", Op::Eq, caller.tenant_id)
            .within("run_id", runs.iter().copied());
        let mut found = self.parts.store.list(filter).await?;
        found.sort_by_key(|artifact| runs.iter().position(|run| *run == artifact.run_id));
        found.into_iter().next().ok_or_else(|| not_found(path))
    }

    /// The content of an artifact that the caller was given by one of the calls above, or the part `range` of it. All of
    /// it is compared to its checksum on the way and ends in an error if it differs.
    pub async fn artifact_content(&self, artifact: &Artifact, range: Option<Range<u64>>) -> Result<Content> {
        let place: Place = artifact.object.parse()?;
        let bytes = u64::try_from(artifact.bytes).unwrap_or(0);
        let store = &self.artifact_store()?.store;
        Ok(store.get(&place, bytes, &artifact.sha256, range).await?)
    }

    /// Removes the artifacts that are too old or, all together, too large. Returns how many packs went.
    pub async fn expire_artifacts(&self) -> Result<usize> {
        let Some(artifacts) = &self.artifacts else {
            return Ok(0);
        };
        let cutoff = artifacts
            .store
            .cutoff(self.now(), artifacts.settings.keep())
            .await?;
        if cutoff > Timestamp(i64::MIN) {
            self.parts
                .store
                .prune(Artifact::TABLE, "created_at", cutoff)
                .await?;
        }
        let removed = artifacts.store.remove_before(cutoff).await?;
        if removed.objects > 0 {
            tracing::info!(
                packs = removed.objects,
                bytes = removed.bytes,
                "artifacts were removed"
            );
        }
        Ok(removed.objects as usize)
    }

    /// Removes the contents that an end of a run had kept, when that end did not take effect; those that have a record
    /// after all stay. What cannot be removed now goes by retention.
    pub(crate) async fn drop_contents(&self, run: RunId, end: &[Change]) {
        let Some(at) = Artifact::TABLE.position("object") else {
            return;
        };
        let objects = end.iter().filter_map(|change| match change {
            Change::Insert { table, values } if table.name == Artifact::TABLE.name => values.get(at),
            _ => None,
        });
        let mut keys: BTreeSet<String> = objects.filter_map(key_of).collect();
        let Some(artifacts) = self.artifacts.as_ref().filter(|_| !keys.is_empty()) else {
            return;
        };
        let kept = self.parts.store.list(Filter::<Artifact>::by("run_id", run)).await;
        let removed = match kept {
            Err(error) => Err(error.to_string()),
            Ok(kept) => {
                for artifact in kept {
                    if let Ok(place) = artifact.object.parse::<Place>() {
                        keys.remove(&place.key);
                    }
                }
                let removed = artifacts.store.delete(keys).await;
                removed.map_err(|error| error.to_string())
            }
        };
        if let Err(error) = removed {
            tracing::warn!(error, run.id = %run, "files of a run that did not count are still kept");
        }
    }

    /// Removes all artifacts of a tenant.
    pub(crate) async fn remove_artifacts_of(&self, tenant: TenantId) -> Result<()> {
        loop {
            let some = Filter::<Artifact>::by("tenant_id", tenant).limit(CHUNK);
            let some = self.parts.store.list(some).await?;
            if some.is_empty() {
                return Ok(());
            }
            let store = &self.artifact_store()?.store;
            self.parts
                .store
                .commit(some.iter().map(Change::delete).collect())
                .await?;
            let places = some.iter().filter_map(|artifact| artifact.object.parse().ok());
            let keys: BTreeSet<String> = places.map(|place: Place| place.key).collect();
            store.delete(keys).await?;
        }
    }
}

/// The object that a place in a row is in.
fn key_of(place: &Value) -> Option<String> {
    match place {
        Value::Text(place) => Some(place.parse::<Place>().ok()?.key),
        _ => None,
    }
}

fn not_found(path: &str) -> ControlError {
    ControlError::NotFound {
        what: "artifact",
        id: path.to_owned(),
    }
}

impl From<ArtifactError> for ControlError {
    fn from(error: ArtifactError) -> Self {
        // What is in the store is not of the caller's making: whatever is wrong there is nothing to ask differently.
        Self::Unavailable(error.to_string())
    }
}
