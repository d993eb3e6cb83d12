//! Git repositories for tests.

use std::{path::Path, process::Command};

/// Runs git in `dir`, without the settings of this machine; what it printed to standard output. It must succeed.
pub fn git(dir: &Path, arguments: &[&str]) -> String {
    let output = Command::new("git")
        .args(["-c", "user.name=Test", "-c", "user.email=test@localhost", "-C"])
        .arg(dir)
        .args(arguments)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .output()
        .unwrap_or_else(|error| panic!("cannot start git: {error}"));
    assert!(
        output.status.success(),
        "git {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Makes a repository in `dir` (made if missing) with one commit of these files, as path and content, on `main`.
pub fn repository(dir: &Path, files: &[(&str, &str)]) {
    let fail = |error: std::io::Error| panic!("cannot write to {}: {error}", dir.display());
    std::fs::create_dir_all(dir).unwrap_or_else(fail);
    git(dir, &["init", "-q", "-b", "main"]);
    for (path, content) in files {
        let file = dir.join(path);
        std::fs::create_dir_all(file.parent().unwrap_or(dir)).unwrap_or_else(fail);
        std::fs::write(file, content).unwrap_or_else(fail);
    }
    git(dir, &["add", "--all"]);
    git(dir, &["commit", "-q", "-m", "First"]);
}
