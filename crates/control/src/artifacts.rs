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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Drivers, LogStore, Parts, SandboxSettings, WorkSettings};
    use bytes::Bytes;
    use ostler_agents::{KindSettings, Kinds, Prompts};
    use ostler_domain::{ArtifactId, ServerId, SystemClock};
    use ostler_forge::git::Git;
    use ostler_forge::{ForgeOptions, Repositories};
    use ostler_store::Store;
    use ostler_store_sqlite::{SqliteOptions, SqliteStore};
    use std::path::Path;
    use std::sync::Arc;

    async fn control(root: &Path) -> Control {
        let store = SqliteStore::open(root.join("db"), SqliteOptions::default()).unwrap();
        store.migrate_up(None).await.unwrap();
        let control = Control::new(Parts {
            store: Arc::new(store),
            clock: Arc::new(SystemClock),
            repositories: Repositories::open(&root.join("r"), Git::new(), ForgeOptions::default()).unwrap(),
            kinds: Kinds::new(KindSettings::default()),
            prompts: Prompts::embedded().unwrap(),
            work: WorkSettings::default(),
            drivers: Drivers::default(),
            sandboxes: SandboxSettings::default(),
            logs: LogStore::open(root.join("logs"), 1 << 20).unwrap(),
            server_id: ServerId::new(),
        });
        control.ensure_default_tenant().await.unwrap();
        let settings = ArtifactSettings::default();
        let artifacts = ArtifactStore::open(&settings, root.join("artifacts")).unwrap();
        control.with_artifacts(artifacts, settings)
    }

    /// A file that a run left, as the change that is written with its end.
    async fn left(control: &Control, run: RunId) -> Artifact {
        let mut archive = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(3);
        header.set_mode(0o644);
        archive.append_data(&mut header, "f", &b"abc"[..]).unwrap();
        let archive = Bytes::from(archive.into_inner().unwrap());
        let stream = futures::stream::iter([Ok::<_, std::io::Error>(archive)]);
        let artifacts = control.artifacts.as_ref().unwrap();
        let limits = artifacts.settings.limits(None, None);
        let kept = artifacts.store.put(run, limits, control.now(), stream).await;
        Artifact {
            id: ArtifactId::new(),
            tenant_id: TenantId::DEFAULT,
            run_id: run,
            plan_id: None,
            path: "f".into(),
            bytes: 3,
            sha256: kept.files[0].sha256.clone(),
            object: kept.files[0].place.to_string(),
            created_at: kept.created_at,
            expires_at: None,
        }
    }

    #[tokio::test]
    async fn contents_of_an_end_that_did_not_count_go_and_those_with_a_record_stay() {
        let dir = tempfile::tempdir().unwrap();
        let control = control(dir.path()).await;
        let run = RunId::new();
        let (mine, other) = (left(&control, run).await, left(&control, run).await);
        // Another server ended the run, with its own files.
        control.commit(vec![Change::insert(&other)]).await.unwrap();
        control
            .drop_contents(run, &[Change::insert(&mine), Change::insert(&other)])
            .await;
        let place = |artifact: &Artifact| {
            let place: Place = artifact.object.parse().unwrap();
            dir.path().join("artifacts").join(place.key)
        };
        assert!(!place(&mine).exists() && place(&other).exists());
        control.parts.store.close().await;
    }
}
