//! `ostler project add`.

use crate::commands::Outcome;
use crate::context::Session;
use crate::progress::with_progress;
use ostler_contracts::CreateProject;
use std::path::Path;

/// Which repository.
#[derive(Debug, clap::Args)]
pub struct Add {
    /// Git URL without credentials, or path of a repository on the server's machine.
    #[arg(value_name = "URL|PATH")]
    source: String,
    /// Its name; derived from the source when absent.
    #[arg(short, long)]
    name: Option<String>,
}

impl Add {
    pub(super) async fn run(self, session: &Session) -> Outcome {
        let new = CreateProject {
            source: absolute(self.source),
            name: self.name,
        };
        // Without the source, in which somebody may have written a password by mistake.
        let project = with_progress("cloning", session.client.add_project(&new)).await?;
        session.out.show(&project, || super::fields(&project, session.out.colour))
    }
}

/// A path as the server needs it; a URL (also of the form `host:path`) stays as it is.
fn absolute(source: String) -> String {
    let path = Path::new(&source);
    if path.is_absolute() || (source.contains(':') && !path.exists()) {
        return source;
    }
    let found = std::fs::canonicalize(path).or_else(|_| std::path::absolute(path));
    match found.ok().and_then(|path| path.into_os_string().into_string().ok()) {
        Some(path) => path,
        None => source,
    }
}

#[cfg(test)]
mod tests {
    use super::absolute;

    #[test]
    fn only_paths_become_absolute() {
        for same in ["https://host/x.git", "git@host:x.git", "/a/b", "file:///a"] {
            assert_eq!(absolute(same.to_owned()), same);
        }
        for path in [".", "src", "missing/x"] {
            assert!(absolute(path.to_owned()).starts_with('/'), "{path}");
        }
    }
}
