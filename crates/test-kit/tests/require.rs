//! A missing part ends a test quietly, or loudly where nothing may be skipped.

#![allow(clippy::unwrap_used, reason = "test code")]

use std::process::{Command, Output};

use ostler_test_kit::require;

/// Run by the next test, where no program is found.
#[test]
#[ignore = "is started by another test"]
fn needs_bubblewrap() {
    require!(Bubblewrap);
    panic!("bubblewrap was found");
}

#[test]
fn missing_parts_are_named() {
    let run = |wanted: &str| -> Output {
        Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "--nocapture", "needs_bubblewrap"])
            .env("PATH", "/nonexistent")
            .env("OSTLER_TEST_REQUIRE", wanted)
            .output()
            .unwrap()
    };
    let text = |output: &Output| String::from_utf8_lossy(&output.stderr).into_owned();
    let (lenient, strict) = (run(""), run("all"));
    assert!(lenient.status.success(), "{lenient:?}");
    assert!(
        text(&lenient).contains("skipped: this test needs Bubblewrap"),
        "{lenient:?}"
    );
    assert!(!strict.status.success());
    assert!(
        text(&strict).contains("Bubblewrap") && text(&strict).contains("scripts/install-test-deps"),
        "{strict:?}"
    );
}
