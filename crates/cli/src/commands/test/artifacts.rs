//! `ostler test artifacts`.

use crate::commands::Outcome;
use crate::context::Session;
use crate::error::{CliError, Result};
use crate::table::{Table, one_line};
use crate::when::ago;
use ostler_contracts::{ArtifactView, TestView};
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Component, Path, PathBuf};
use tokio::io::AsyncWriteExt;

/// Which files.
#[derive(Debug, clap::Args)]
pub struct Artifacts {
    /// Id, the end of it, or a name, which stands for the newest plan of that name.
    #[arg(value_name = "PLAN")]
    plan: String,
    /// The test by its name, or by a part of it that no other has; all tests when absent.
    #[arg(value_name = "TEST")]
    test: Option<String>,
    /// Save them below this directory, in one of its own for each test; of a single test right there.
    #[arg(short, long, value_name = "DIR")]
    output: Option<PathBuf>,
}

impl Artifacts {
    pub(super) async fn run(self, session: &Session) -> Outcome {
        let plan = session.plan_id(&self.plan).await?;
        let tests = match &self.test {
            Some(text) => vec![session.test_named(plan, text).await?],
            None => session.client.all_plan_tests(plan).await?,
        };
        let mut used = BTreeSet::new();
        let mut found = Vec::new();
        for test in tests.iter().filter(|test| test.artifacts > 0) {
            let place = match (&self.output, &self.test) {
                (Some(output), Some(_)) => Some(output.clone()),
                (Some(output), None) => Some(output.join(directory(test, &mut used))),
                (None, _) => None,
            };
            for artifact in session.client.run_artifacts(test.run_id).await? {
                let saved = match &place {
                    Some(place) => Some(save(session, test, &artifact, place).await?),
                    None => None,
                };
                found.push((test, artifact, saved));
            }
        }
        if self.output.is_some() {
            let bytes: u64 = found.iter().map(|(_, artifact, _)| artifact.bytes).sum();
            session.out.note(&format!(
                "saved: {}, {}",
                super::lines::many(found.len(), "file"),
                size(bytes)
            ));
        }
        let json: Vec<serde_json::Value> = found
            .iter()
            .map(|(test, artifact, saved)| {
                serde_json::json!({ "test": test.name, "artifact": artifact, "saved": saved })
            })
            .collect();
        session.out.show(&json, || {
            if self.output.is_some() {
                let paths = found.iter().filter_map(|(_, _, saved)| saved.as_ref());
                return paths.fold(String::new(), |text, path| {
                    text + &one_line(&path.display().to_string()) + "\n"
                });
            }
            let columns = ["TEST", "PATH", "SIZE", "SHA256", "REMOVED"];
            let mut table = Table::new(columns, session.out.colour);
            for (test, artifact, _) in &found {
                table.row([
                    test.name.clone(),
                    artifact.path.clone(),
                    size(artifact.bytes),
                    artifact.sha256.clone(),
                    artifact.expires_at.map_or_else(|| "-".to_owned(), ago),
                ]);
            }
            table.or_empty("no files were kept")
        })
    }
}

/// A name of a directory for a test that no other test of the plan has.
fn directory(test: &TestView, used: &mut BTreeSet<String>) -> String {
    let kept = |c: char| {
        if c == '/' || c == '\\' || c.is_control() {
            '_'
        } else {
            c
        }
    };
    let mut name: String = test.name.chars().map(kept).take(100).collect();
    if name.chars().all(|c| c == '.') {
        "_".clone_into(&mut name);
    }
    if !used.insert(name.clone()) {
        let _ = write!(name, "-{}", test.index);
        used.insert(name.clone());
    }
    name
}

/// Where a file goes below a directory; `None` if it would not stay there.
fn below(place: &Path, path: &str) -> Option<PathBuf> {
    let inner = Path::new(path);
    let stays = inner
        .components()
        .all(|part| matches!(part, Component::Normal(_)));
    (stays && inner.file_name().is_some()).then(|| place.join(inner))
}

/// Whole and as it was kept, or not at all.
async fn save(session: &Session, test: &TestView, artifact: &ArtifactView, place: &Path) -> Result<PathBuf> {
    let shown = one_line(&artifact.path);
    let Some(to) = below(place, &artifact.path) else {
        return Err(CliError::Failed(format!(
            "`{shown}` would not be saved below the directory"
        )));
    };
    let failed = |error: std::io::Error| CliError::Failed(format!("cannot write {}: {error}", to.display()));
    let mut part = to.clone().into_os_string();
    part.push(format!(".part{}", std::process::id()));
    let part = PathBuf::from(part);
    if let Some(parent) = to.parent() {
        tokio::fs::create_dir_all(parent).await.map_err(failed)?;
    }
    let written = async {
        let mut content = session
            .client
            .download_artifact(test.run_id, &artifact.path)
            .await?;
        let mut file = tokio::fs::File::create(&part).await.map_err(failed)?;
        let mut hash = Sha256::new();
        while let Some(piece) = content.next().await? {
            hash.update(&piece);
            file.write_all(&piece).await.map_err(failed)?;
        }
        file.flush().await.map_err(failed)?;
        let found = hash.finalize().iter().fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        });
        if found != artifact.sha256 {
            let text = format!(
                "`{shown}` is not what was kept: its SHA-256 is {found}, not {}",
                artifact.sha256
            );
            return Err(CliError::Failed(text));
        }
        tokio::fs::rename(&part, &to).await.map_err(failed)
    };
    let written = written.await;
    if written.is_err() {
        let _ = tokio::fs::remove_file(&part).await;
    }
    written.map(|()| to.clone())
}

fn size(bytes: u64) -> String {
    match bytes {
        0..10_240 => format!("{bytes} B"),
        10_240..10_485_760 => format!("{} KiB", bytes >> 10),
        _ => format!("{} MiB", bytes >> 20),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::test;
    use super::*;
    use serde_json::json;

    #[test]
    fn files_stay_below_their_directory() {
        let place = Path::new("out");
        assert_eq!(below(place, "a/b.xml"), Some(PathBuf::from("out/a/b.xml")));
        for bad in ["", "/etc/passwd", "../x", "a/../../x", "a/..", "..", "./x"] {
            assert_eq!(below(place, bad), None, "{bad}");
        }
    }

    #[test]
    fn tests_have_directories_of_their_own() {
        let mut used = BTreeSet::new();
        let names = ["a/b", "a_b", "..", "", "unit [shard=1/2]", "a\\b"];
        let found: Vec<String> = (0..)
            .zip(names)
            .map(|(index, name)| directory(&test(index, name, "succeeded", json!({})), &mut used))
            .collect();
        assert_eq!(found, ["a_b", "a_b-1", "_", "_-3", "unit [shard=1_2]", "a_b-5"]);
    }
}
