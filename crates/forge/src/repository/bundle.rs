//! Work into a sandbox and out of it, as git bundles: the sandbox has a repository of its own, and nothing that an
//! agent can write is ever a repository to git on this side.

use super::references::{Transaction, is_object_id};
use super::{Repository, blocking};
use crate::error::{ForgeError, IoContext, Result};
use crate::names::branch_ref;
use crate::scratch::Scratch;
use ostler_domain::SubtaskId;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// Headers of bundles are some lines per reference; more than this is no bundle of a workspace.
const MAX_HEADER: u64 = 4 << 20;

/// Bytes of a list of all files of a branch, about a hundred per file.
const MAX_LISTING: usize = 256 << 20;

/// A bundle file, removed when this value is dropped.
#[derive(Debug)]
pub struct Bundle {
    path: PathBuf,
    _scratch: Scratch,
}

impl Bundle {
    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// What the header of a bundle says.
#[derive(Debug, PartialEq, Eq)]
struct Header {
    references: Vec<(String, String)>,
    prerequisites: Vec<String>,
    pack_at: u64,
}

impl Repository {
    /// A bundle with `branch`, `default_branch` and all tags, from which a sandbox makes its workspace:
    /// `git clone -b <branch> <file> <directory>`.
    ///
    /// # Errors
    /// No such branch; a full disk.
    pub async fn bundle_create(&self, branch: &str, default_branch: &str) -> Result<Bundle> {
        let references = [branch_ref(branch)?, branch_ref(default_branch)?];
        for reference in &references {
            self.commit(reference).await?;
        }
        let parent = self.shared.scratch();
        let scratch = blocking(move || Scratch::new(&parent)).await?;
        let path = scratch.path("workspace.bundle");
        self.git("bundle")
            .arg("create")
            .arg("--quiet")
            .value(&path)
            .value(&references[0])
            .value(&references[1])
            .arg("--tags")
            .run()
            .await?;
        Ok(Bundle {
            path,
            _scratch: scratch,
        })
    }

    /// A place for a bundle that is to come out of a sandbox: a path where nothing is yet.
    ///
    /// # Errors
    /// No directory can be made.
    pub async fn bundle_place(&self) -> Result<Bundle> {
        let parent = self.shared.scratch();
        let scratch = blocking(move || Scratch::new(&parent)).await?;
        Ok(Bundle {
            path: scratch.path("result.bundle"),
            _scratch: scratch,
        })
    }

    /// Takes over `branch` from a bundle that came out of a sandbox, brings the subtask's worktree to it, if there is
    /// one, and gives the new head.
    ///
    /// Only that branch is taken; it may have been rewritten (agents amend and rebase). Every object is checked before
    /// it is kept, and all history must be there.
    ///
    /// # Errors
    /// [`ForgeError::BadBundle`] with the reason; [`ForgeError::TooLarge`]; nothing has changed then.
    pub async fn bundle_import(
        &self,
        subtask: SubtaskId,
        branch: &str,
        default_branch: &str,
        file: &Path,
    ) -> Result<String> {
        let reference = branch_ref(branch)?;
        if branch == default_branch {
            return Err(bad(format!(
                "{branch} is the default branch, which no sandbox may move"
            )));
        }
        let limit = self.shared.options.max_bundle_bytes;
        let path = file.to_owned();
        let (header, pack) = blocking(move || open(&path, limit)).await?;
        let head = header
            .references
            .iter()
            .find_map(|(id, name)| (*name == reference).then_some(id.clone()))
            .ok_or_else(|| bad(format!("it does not contain the branch {branch}")))?;
        let _lock = self.lock().await?;
        self.must_exist()?;
        // One call for all of them: a header can name a hundred thousand.
        let answer = self
            .git("cat-file")
            .arg("--batch-check=%(objectname) %(objecttype)")
            .input(header.prerequisites.join("\n"))
            .text()
            .await?;
        if let Some(line) = answer.lines().find(|line| !line.ends_with(" commit")) {
            let commit = line.split(' ').next().unwrap_or_default();
            return Err(bad(format!(
                "it builds on commit {commit}, which is not in the repository"
            )));
        }
        let explain = |error| match error {
            ForgeError::GitFailed { stderr, .. } => bad(stderr),
            other => other,
        };
        self.git("index-pack")
            .arg("--stdin")
            .arg("--fix-thin")
            .arg("--strict")
            .arg(format!("--max-input-size={limit}"))
            .configure("core.bigFileThreshold=32m")
            .input_file(pack)
            .run()
            .await
            .map_err(explain)?;
        if self.resolve(&head).await?.is_none() {
            return Err(bad(format!(
                "the branch {branch} is at {head}, which is not a commit in it"
            )));
        }
        self.git("rev-list")
            .arg("--objects")
            .arg("--quiet")
            .value(&head)
            .arg("--not")
            .arg("--branches")
            .arg("--tags")
            .run()
            .await
            .map_err(explain)?;
        self.check_size(&head).await?;
        let mut transaction = Transaction::default();
        transaction.force(&reference, &head);
        self.update(transaction).await?;
        let worktree = self.worktree_path(subtask);
        if self.administration(&worktree).await?.is_some() {
            self.refresh_worktree(&worktree).await?;
        }
        Ok(head)
    }

    /// Refuses a commit whose files would fill the disk. A few bytes of a pack can be files without number.
    async fn check_size(&self, head: &str) -> Result<()> {
        let limit = self.shared.options.max_tree_bytes;
        let listing = self
            .git("ls-tree")
            .arg("-r")
            .arg("--full-tree")
            .arg("-z")
            .arg("-l")
            .value(head)
            .at_most(MAX_LISTING)
            .run()
            .await?;
        if listing.truncated {
            return Err(bad("its branch has millions of files".to_owned()));
        }
        // Mode, type, object and size, then a tab and the path; what is no file has a dash for its size.
        let size = |entry: &[u8]| {
            let head = entry.split(|byte| *byte == b'\t').next()?;
            let last = std::str::from_utf8(head).ok()?.split(' ').next_back()?;
            last.parse::<u64>().ok()
        };
        let entries = listing.stdout.split(|byte| *byte == 0);
        let actual = entries.filter_map(size).fold(0, u64::saturating_add);
        if actual > limit {
            return Err(ForgeError::TooLarge {
                what: "the branch with all its files".to_owned(),
                limit,
                actual,
            });
        }
        Ok(())
    }
}

fn bad(reason: String) -> ForgeError {
    ForgeError::BadBundle { reason }
}

/// The header, and the file positioned at its pack.
fn open(path: &Path, limit: u64) -> Result<(Header, File)> {
    let mut file = File::open(path).doing("open", path)?;
    let size = file.metadata().doing("look at", path)?.len();
    if size > limit {
        return Err(ForgeError::TooLarge {
            what: "the bundle".to_owned(),
            limit,
            actual: size,
        });
    }
    let header = parse(&mut BufReader::new((&file).take(MAX_HEADER)))?;
    file.seek(SeekFrom::Start(header.pack_at)).doing("read", path)?;
    Ok((header, file))
}

fn parse(from: &mut impl BufRead) -> Result<Header> {
    let mut header = Header {
        references: Vec::new(),
        prerequisites: Vec::new(),
        pack_at: 0,
    };
    let mut first = true;
    loop {
        let mut line = Vec::new();
        let n = from
            .read_until(b'\n', &mut line)
            .doing("read", Path::new("the bundle"))?;
        header.pack_at += n as u64;
        if line.pop() != Some(b'\n') {
            return Err(bad("it is cut off or not a git bundle".to_owned()));
        }
        let line = String::from_utf8(line).map_err(|_| bad("its header is not text".to_owned()))?;
        if first {
            if line != "# v2 git bundle" && line != "# v3 git bundle" {
                return Err(bad("it is not a git bundle".to_owned()));
            }
            first = false;
        } else if line.is_empty() {
            return Ok(header);
        } else if let Some(capability) = line.strip_prefix('@') {
            if capability.starts_with("filter=") {
                return Err(bad("it is a partial bundle".to_owned()));
            }
        } else {
            let (text, needed) = line
                .strip_prefix('-')
                .map_or((line.as_str(), false), |rest| (rest, true));
            let (id, name) = text.split_once(' ').unwrap_or((text, ""));
            if !is_object_id(id) {
                return Err(bad("its header is damaged".to_owned()));
            }
            if needed {
                header.prerequisites.push(id.to_owned());
            } else {
                header.references.push((id.to_owned(), name.to_owned()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), good: bool) {
            let mut all = if good { b"# v2 git bundle\n".to_vec() } else { Vec::new() };
            all.extend(bytes);
            let _ = parse(&mut all.as_slice());
        }
    }

    #[test]
    fn finds_the_pack() {
        let id = "a".repeat(40);
        let text = format!("# v3 git bundle\n@object-format=sha1\n-{id} base\n{id} refs/heads/x\n\nPACK");
        let header = parse(&mut text.as_bytes()).unwrap();
        assert_eq!(&text.as_bytes()[header.pack_at as usize..], b"PACK");
        assert_eq!(header.prerequisites, std::slice::from_ref(&id));
        assert_eq!(header.references, [(id, "refs/heads/x".to_owned())]);
    }
}
