//! Making a clone, in one step as seen from outside.

use super::references::Transaction;
use super::{Repository, blocking};
use crate::error::{ForgeError, IoContext, Result};
use crate::git::{Call, Credential};
use crate::names::{branch_ref, check_branch};
use crate::scratch::Scratch;
use std::path::Path;

/// A finished clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cloned {
    /// The branch that work starts from and is merged into.
    pub default_branch: String,
}

impl Repository {
    /// Clones the source. A clone that exists already is used as it is, so that this may be repeated after a crash.
    ///
    /// `branch` is the default branch; without it, the branch that origin's HEAD names.
    ///
    /// # Errors
    /// Origin unreachable, access refused, without commits or without a clear default branch; nothing is left then.
    pub async fn clone_source(
        &self,
        branch: Option<&str>,
        credential: Option<&Credential>,
    ) -> Result<Cloned> {
        if let Some(branch) = branch {
            check_branch(branch)?;
        }
        let _lock = self.lock().await?;
        if self.must_exist().is_ok() {
            return self.existing(branch).await;
        }
        let parents = self.shared.scratch();
        let scratch = blocking(move || Scratch::new(&parents)).await?;
        let work = scratch.path("clone.git");
        let git = |subcommand| self.shared.git.call(subcommand).git_dir(&work);
        git("init").arg("--bare").arg("--quiet").run().await?;
        let origin = self.source.to_string();
        git("config")
            .arg("remote.origin.url")
            .value(&origin)
            .run()
            .await?;
        // What an agent reads in the commit log of its bundle must be what happened, whatever the clock of the host.
        git("config")
            .arg("core.logAllRefUpdates")
            .arg("false")
            .run()
            .await?;

        let heads = self
            .with_retries(|| {
                let call = git("ls-remote")
                    .arg("--symref")
                    .arg("origin")
                    .arg("HEAD")
                    .arg("refs/heads/*");
                self.to_origin(call, credential)
            })
            .await?;
        let default = self.choose(&heads, branch)?;
        self.with_retries(|| self.to_origin(fetch_all(git("fetch")), credential))
            .await?;
        let tip = git("rev-parse")
            .arg("--verify")
            .value(format!("refs/remotes/origin/{default}^{{commit}}"))
            .text()
            .await?;
        for reference in [branch_ref(&default)?, format!("refs/ostler/synced/{default}")] {
            git("update-ref").value(reference).value(&tip).run().await?;
        }
        git("symbolic-ref")
            .arg("HEAD")
            .value(branch_ref(&default)?)
            .run()
            .await?;

        let target = self.path.clone();
        blocking(move || {
            let parent = target.parent().unwrap_or(Path::new("/"));
            std::fs::create_dir_all(parent).doing("create", parent)?;
            std::fs::rename(&work, &target).doing("move the clone to", &target)
        })
        .await?;
        drop(scratch);
        tracing::info!(source = %self.source, branch = %default, "cloned");
        Ok(Cloned {
            default_branch: default,
        })
    }

    async fn existing(&self, branch: Option<&str>) -> Result<Cloned> {
        let other = self
            .git("config")
            .arg("--get")
            .arg("remote.origin.url")
            .text()
            .await?;
        if other != self.source.to_string() {
            return Err(ForgeError::AlreadyCloned {
                path: self.path.clone(),
                other,
            });
        }
        let head = self.git("symbolic-ref").arg("HEAD").text().await?;
        let current = head.strip_prefix("refs/heads/").unwrap_or(&head).to_owned();
        let Some(wanted) = branch.filter(|wanted| *wanted != current) else {
            return Ok(Cloned {
                default_branch: current,
            });
        };
        let tip = self.commit(&format!("refs/remotes/origin/{wanted}")).await?;
        if self.head_of(wanted).await?.is_none() {
            let mut transaction = Transaction::default();
            transaction.set(&branch_ref(wanted)?, &tip, None);
            transaction.force(&format!("refs/ostler/synced/{wanted}"), &tip);
            self.update(transaction).await?;
        }
        self.git("symbolic-ref")
            .arg("HEAD")
            .value(branch_ref(wanted)?)
            .run()
            .await?;
        Ok(Cloned {
            default_branch: wanted.to_owned(),
        })
    }

    /// The default branch, from the output of `ls-remote --symref`.
    fn choose(&self, listing: &str, wanted: Option<&str>) -> Result<String> {
        let mut named = None;
        let mut branches = Vec::new();
        for line in listing.lines() {
            let Some((left, right)) = line.split_once('\t') else {
                continue;
            };
            if let (Some(target), "HEAD") = (left.strip_prefix("ref: refs/heads/"), right) {
                named = Some(target.to_owned());
            }
            branches.extend(right.strip_prefix("refs/heads/").map(str::to_owned));
        }
        if branches.is_empty() {
            return Err(ForgeError::EmptyRepository {
                origin: self.source.to_string(),
            });
        }
        let usual = ["main", "master"].map(str::to_owned);
        // A detached HEAD names no branch, and a HEAD may name one that was never made.
        let candidates = match wanted {
            Some(wanted) => vec![wanted.to_owned()],
            None => named.into_iter().chain(usual).collect(),
        };
        let found = candidates.into_iter().find(|c| branches.contains(c));
        let only = (wanted.is_none() && branches.len() == 1).then(|| branches[0].clone());
        found.or(only).ok_or_else(|| ForgeError::NoDefaultBranch {
            origin: self.source.to_string(),
            branches,
        })
    }

    /// A call that talks to origin, with what the kind of source needs.
    pub(super) fn to_origin<'a>(&self, call: Call<'a>, credential: Option<&Credential>) -> Call<'a> {
        let call = match self.source.local_path() {
            // The other end is a git of its own, which gets none of this one's configuration, and would refuse a
            // repository of another user, as one mounted into a container is.
            Some(_) => call.configure("remote.origin.uploadpack=git -c safe.directory=* upload-pack"),
            None => call,
        };
        call.network(self.source.credential_origin().as_deref(), credential)
    }

    /// Runs a call to origin, again after each of the configured delays; refused access is not tried again.
    pub(super) async fn with_retries<'a>(&self, call: impl Fn() -> Call<'a>) -> Result<String> {
        let delays = &self.shared.options.retry_delays;
        let mut tries = 0;
        loop {
            let error = match call().run().await {
                Ok(output) => return Ok(output.text()),
                Err(error) => error,
            };
            tries += 1;
            let reason = refusal(&error);
            if let Some(reason) = reason {
                return Err(ForgeError::AccessRefused {
                    origin: self.source.to_string(),
                    reason,
                });
            }
            let Some(delay) = delays.get(tries - 1) else {
                return Err(ForgeError::Unreachable {
                    origin: self.source.to_string(),
                    tries,
                    last: Box::new(error),
                });
            };
            tracing::warn!(source = %self.source, tries, %error, "origin did not answer; trying again");
            tokio::time::sleep(*delay).await;
        }
    }
}

/// Everything of origin that Ostler keeps.
pub(super) fn fetch_all(call: Call<'_>) -> Call<'_> {
    call.arg("--quiet")
        .arg("--prune")
        .arg("--no-tags")
        .arg("--no-write-fetch-head")
        .arg("--no-recurse-submodules")
        .arg("origin")
        .arg("+refs/heads/*:refs/remotes/origin/*")
        .arg("+refs/tags/*:refs/tags/*")
}

/// The line in which git says that trying again will not help.
fn refusal(error: &ForgeError) -> Option<String> {
    const SIGNS: &[&str] = &[
        "Authentication failed",
        "could not read Username",
        "could not read Password",
        "Permission denied",
        "Host key verification failed",
        "not found",
        "does not appear to be a git repository",
        "returned error: 403",
        "returned error: 404",
    ];
    let ForgeError::GitFailed { stderr, .. } = error else {
        return None;
    };
    let line = stderr
        .lines()
        .find(|line| SIGNS.iter().any(|sign| line.contains(sign)))?;
    Some(line.trim().to_owned())
}
