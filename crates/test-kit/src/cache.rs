//! Where installed and built test parts are kept between runs. `scripts/lib.sh` computes the same path.

use std::path::PathBuf;

/// `OSTLER_TEST_CACHE`, or else `ostler-test` in the user's cache directory. Not created by this.
pub fn cache_dir() -> PathBuf {
    if let Some(dir) = std::env::var_os("OSTLER_TEST_CACHE") {
        return dir.into();
    }
    let base = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .filter(|dir| dir.is_absolute());
    let home = || {
        std::env::home_dir()
            .unwrap_or_else(std::env::temp_dir)
            .join(".cache")
    };
    base.unwrap_or_else(home).join("ostler-test")
}

/// The first executable of this name in `PATH`.
pub fn in_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|dir| dir.join(program))
        .find(|file| is_executable(file))
}

/// Whether this is a file someone may execute.
pub(crate) fn is_executable(file: &std::path::Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    file.metadata()
        .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}
