//! The store of the files that tests leave.

use super::{Check, LIMIT, Status};
use ostler_artifacts::{ArtifactSettings, ArtifactStore};
use std::path::{Path, PathBuf};

const SUBJECT: &str = "artifacts";

/// Writes, reads and removes a small object.
pub(super) async fn store(settings: &ArtifactSettings, data: &Path) -> Check {
    let default = data.join("artifacts");
    let directory = match &settings.url {
        None => Some(default.clone()),
        Some(url) => url.strip_prefix("file://").map(PathBuf::from),
    };
    // Opening would make it.
    if let Some(directory) = directory.as_ref().filter(|directory| !directory.exists()) {
        return Check::ok(
            SUBJECT,
            format!("{} is made at the first start", directory.display()),
        );
    }
    let refused = |found: String, meaning: &str| {
        let advice = match directory {
            Some(_) => "give the directory to this user, or name another with `artifacts.url`",
            None => {
                "look at `artifacts.url`, `endpoint` and `region`, and at who may use the bucket (AWS_ACCESS_KEY_ID, ...)"
            }
        };
        Check::new(Status::Failure, SUBJECT, found, meaning, advice)
    };
    let opened = match ArtifactStore::open(settings, default) {
        Ok(opened) => opened,
        Err(error) => return refused(error.to_string(), "the server does not start"),
    };
    let lost = "tests run, and what they leave is lost";
    match tokio::time::timeout(LIMIT, opened.check()).await {
        Ok(Ok(())) => {
            let place = match (&directory, &settings.url) {
                (Some(directory), _) => directory.display().to_string(),
                (None, url) => url.clone().unwrap_or_default(),
            };
            Check::ok(
                SUBJECT,
                format!("{place}: an object was written, read and removed"),
            )
        }
        Ok(Err(error)) => refused(error.to_string(), lost),
        Err(_) => refused(format!("the store did not answer within {LIMIT:?}"), lost),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_store_is_tried_and_left_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let settings = ArtifactSettings::default();
        let check = store(&settings, dir.path()).await;
        assert!(
            check.status == Status::Ok && check.found.contains("first start"),
            "{check:?}"
        );
        assert!(!dir.path().join("artifacts").exists(), "looking makes nothing");
        std::fs::create_dir(dir.path().join("artifacts")).unwrap();
        let check = store(&settings, dir.path()).await;
        assert!(
            check.status == Status::Ok && check.found.contains("removed"),
            "{check:?}"
        );
        assert_eq!(
            std::fs::read_dir(dir.path().join("artifacts")).unwrap().count(),
            0
        );
    }

    #[tokio::test]
    async fn a_store_that_cannot_be_used_is_a_failure() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        let at = |url: String| ArtifactSettings {
            url: Some(url),
            ..ArtifactSettings::default()
        };
        let check = store(&at(format!("file://{}", file.display())), dir.path()).await;
        assert_eq!(check.status, Status::Failure, "{check:?}");
        let check = store(&at("ftp://here".into()), dir.path()).await;
        assert!(
            check.status == Status::Failure && check.found.contains("not known"),
            "{check:?}"
        );
    }
}
