//! Builds the guest program statically, so that it runs in any image, and notes where it is.

use std::env::var;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What the outer cargo (or clippy) sets for its own work and must not change this program.
const NOT_INHERITED: [&str; 8] = [
    "CARGO_ENCODED_RUSTFLAGS",
    "CARGO_BUILD_TARGET",
    "CARGO_TARGET_DIR",
    "CARGO_MAKEFLAGS",
    "MAKEFLAGS",
    "RUSTC_WRAPPER",
    "RUSTC_WORKSPACE_WRAPPER",
    "CLIPPY_ARGS",
];

fn main() {
    let root = PathBuf::from(given("CARGO_MANIFEST_DIR")).join("../..");
    for input in [
        "crates/guest",
        "crates/guest-protocol",
        "Cargo.lock",
        "Cargo.toml",
    ] {
        println!("cargo::rerun-if-changed={}", root.join(input).display());
    }
    let target = given("TARGET");
    assert!(
        target.contains("-linux-"),
        "the guest program runs on Linux only, and so does this server; {target} is not Linux"
    );
    let guest = build(&root, &target);
    println!("cargo::rustc-env=OSTLER_GUEST={}", guest.display());
}

fn given(name: &str) -> String {
    var(name).unwrap_or_else(|error| panic!("cargo sets {name}: {error}"))
}

fn build(root: &Path, target: &str) -> PathBuf {
    // Beside the directories of the profiles, as the program is the same for all of them: out, package, build, profile.
    let out = PathBuf::from(given("OUT_DIR"));
    let place = out
        .ancestors()
        .skip(1)
        .find(|dir| dir.file_name().is_some_and(|name| name == "build"))
        .and_then(|build| build.parent()?.parent())
        .map_or_else(|| out.join("guest"), |dir| dir.join("guest"));
    let mut cargo = Command::new(given("CARGO"));
    cargo
        .current_dir(root)
        .args([
            "build",
            "--quiet",
            "--locked",
            "--package",
            "ostler-guest",
            "--bin",
            "ostler-guest",
        ])
        .args(["--profile", "guest", "--target", target, "--target-dir"])
        .arg(&place)
        // With an explicit target the flags are not for build scripts and macros, which cannot be static.
        .env("RUSTFLAGS", "-C target-feature=+crt-static");
    for name in NOT_INHERITED {
        cargo.env_remove(name);
    }
    let done = cargo.status();
    assert!(
        done.as_ref().is_ok_and(std::process::ExitStatus::success),
        "the guest program could not be built: {done:?}"
    );
    let built = place.join(target).join("guest/ostler-guest");
    // A copy of this crate's own: another build may replace the original while this one reads it.
    let copy = out.join("ostler-guest");
    std::fs::copy(&built, &copy).unwrap_or_else(|error| panic!("{}: {error}", built.display()));
    copy
}
