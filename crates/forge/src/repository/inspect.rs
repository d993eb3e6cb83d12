//! Reading: diffs, logs, files.

use super::Repository;
use crate::error::{ForgeError, Result};
use ostler_domain::Timestamp;
use serde::Serialize;

/// A unified diff.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Diff {
    /// The text; bytes that are not UTF-8 are replaced.
    pub text: String,
    /// Whether the end was left out because the diff was longer than asked for; the text then ends with a whole line.
    pub truncated: bool,
}

/// How much one file changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FileStat {
    /// The file, by its new name.
    pub path: String,
    /// Its old name, if it was renamed.
    pub renamed_from: Option<String>,
    /// Lines added; `None` for a binary file.
    pub added: Option<u64>,
    /// Lines removed; `None` for a binary file.
    pub removed: Option<u64>,
}

/// One commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Commit {
    /// Object id.
    pub id: String,
    /// Author's name.
    pub author: String,
    /// Author's e-mail address.
    pub email: String,
    /// When it was written, by the author's clock.
    pub time: Timestamp,
    /// First line of the message.
    pub subject: String,
    /// The rest of the message.
    pub body: String,
}

/// Most commits that [`Repository::log`] gives.
const MAX_COMMITS: usize = 1000;

impl Repository {
    /// What `head` changed since it left `base`; both are branches or commit ids. At most `max_bytes` of text.
    ///
    /// # Errors
    /// No such branch or commit.
    pub async fn diff(&self, base: &str, head: &str, max_bytes: usize) -> Result<Diff> {
        let output = self
            .git("diff")
            .arg("--no-ext-diff")
            .arg("--no-textconv")
            .arg("--no-color")
            .arg("--find-renames")
            .arg("--patch")
            .value(self.range(base, head).await?)
            .arg("--")
            .at_most(max_bytes)
            .run()
            .await?;
        let mut bytes = output.stdout;
        if output.truncated {
            let end = bytes.iter().rposition(|b| *b == b'\n').map_or(0, |i| i + 1);
            bytes.truncate(end);
        }
        Ok(Diff {
            text: String::from_utf8_lossy(&bytes).into_owned(),
            truncated: output.truncated,
        })
    }

    /// The files that [`Self::diff`] would show.
    ///
    /// # Errors
    /// No such branch or commit.
    pub async fn diff_stat(&self, base: &str, head: &str) -> Result<Vec<FileStat>> {
        let output = self
            .git("diff")
            .arg("--no-ext-diff")
            .arg("--find-renames")
            .arg("--numstat")
            .arg("-z")
            .value(self.range(base, head).await?)
            .arg("--")
            .run()
            .await?;
        Ok(numstat(&String::from_utf8_lossy(&output.stdout)))
    }

    /// The commits of `head` that `base` does not have, newest first, at most 1000.
    ///
    /// # Errors
    /// No such branch or commit.
    pub async fn log(&self, base: &str, head: &str) -> Result<Vec<Commit>> {
        let (base, head) = (self.commit(base).await?, self.commit(head).await?);
        let output = self
            .git("log")
            .arg("--no-show-signature")
            .arg("--no-color")
            .arg(format!("--max-count={MAX_COMMITS}"))
            .arg("--format=%H%x00%an%x00%ae%x00%at%x00%s%x00%b%x00")
            .value(format!("{base}..{head}"))
            .arg("--")
            .run()
            .await?;
        Ok(commits(&String::from_utf8_lossy(&output.stdout)))
    }

    /// The content of the file at `path` (relative, with `/`) in `revision`; `None` if there is no regular file.
    ///
    /// # Errors
    /// No such branch or commit; a file larger than the limit; a path that is not relative.
    pub async fn file_at(&self, revision: &str, path: &str) -> Result<Option<Vec<u8>>> {
        let most = self.shared.options.max_file_bytes;
        self.file_up_to(revision, path, most).await
    }

    /// The same, with another limit for its length, bytes.
    ///
    /// # Errors
    /// As of [`Repository::file_at`].
    pub async fn file_up_to(&self, revision: &str, path: &str, most: u64) -> Result<Option<Vec<u8>>> {
        let odd = |part: &str| part.is_empty() || part == "." || part == "..";
        if path.split('/').any(odd) || path.contains('\0') {
            return Err(ForgeError::InvalidName {
                what: "path in a repository",
                value: path.to_owned(),
                reason: "it must be relative, without empty parts, `.` and `..`".to_owned(),
            });
        }
        let commit = self.commit(revision).await?;
        let entry = self
            .git("ls-tree")
            .arg("-z")
            .arg("--long")
            .arg("--full-tree")
            .value(commit)
            .arg("--")
            .arg(path)
            .text()
            .await?;
        // `<mode> blob <id> <size>\t<path>`
        let fields: Vec<&str> = entry
            .split('\t')
            .next()
            .unwrap_or_default()
            .split_whitespace()
            .collect();
        let [mode, "blob", id, size] = fields.as_slice() else {
            return Ok(None);
        };
        if *mode == "120000" {
            return Ok(None);
        }
        let (actual, limit) = (size.parse().unwrap_or(u64::MAX), most);
        if actual > limit {
            return Err(ForgeError::TooLarge {
                what: path.to_owned(),
                limit,
                actual,
            });
        }
        Ok(Some(
            self.git("cat-file").arg("blob").value(id).run().await?.stdout,
        ))
    }

    /// What a branch was at before `commit` was made on it: the commit's first parent.
    ///
    /// # Errors
    /// No such commit, or it is the first of all.
    pub async fn before(&self, commit: &str) -> Result<String> {
        let commit = self.commit(commit).await?;
        self.git("rev-parse")
            .arg("--verify")
            .value(format!("{commit}^1"))
            .text()
            .await
    }

    async fn range(&self, base: &str, head: &str) -> Result<String> {
        Ok(format!(
            "{}...{}",
            self.commit(base).await?,
            self.commit(head).await?
        ))
    }
}

fn numstat(text: &str) -> Vec<FileStat> {
    let mut parts = text.split('\0');
    let mut stats = Vec::new();
    while let Some(line) = parts.next().filter(|line| !line.is_empty()) {
        let mut fields = line.splitn(3, '\t');
        let added = fields.next().and_then(|n| n.parse().ok());
        let removed = fields.next().and_then(|n| n.parse().ok());
        let path = fields.next().unwrap_or_default();
        // A rename has an empty path here, and its old and new names in the next two parts.
        let (renamed_from, path) = if path.is_empty() {
            (parts.next().map(str::to_owned), parts.next().unwrap_or_default())
        } else {
            (None, path)
        };
        stats.push(FileStat {
            path: path.to_owned(),
            renamed_from,
            added,
            removed,
        });
    }
    stats
}

fn commits(text: &str) -> Vec<Commit> {
    let fields: Vec<&str> = text.split('\0').collect();
    let (records, _) = fields.as_chunks::<6>();
    records
        .iter()
        .map(|[id, author, email, time, subject, body]| Commit {
            id: id.trim_start().to_owned(),
            author: (*author).to_owned(),
            email: (*email).to_owned(),
            time: Timestamp(time.parse::<i64>().unwrap_or(0).saturating_mul(1_000_000)),
            subject: (*subject).to_owned(),
            body: body.trim_end().to_owned(),
        })
        .collect()
}
