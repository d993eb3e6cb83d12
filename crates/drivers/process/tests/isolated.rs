//! Programs within one sandbox kept apart from each other.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use common::Process;
use ostler_driver_process::Mode;
use ostler_sandbox::conformance::{Subject, programs_can_be_isolated};

#[tokio::test]
async fn programs_of_a_sandbox_can_be_isolated() {
    ostler_test_kit::require!(Bubblewrap);
    let subject = Process::new(Mode::Namespaces);
    programs_can_be_isolated(&subject, subject.template()).await;
}
