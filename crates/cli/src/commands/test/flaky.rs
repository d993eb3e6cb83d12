//! `ostler test flaky`.

use crate::commands::Outcome;
use crate::context::Session;
use crate::when::ago;

/// Since when.
#[derive(Debug, clap::Args)]
pub struct Flaky {
    /// Of the last so many days.
    #[arg(long, value_name = "N", default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=3650))]
    days: u32,
}

impl Flaky {
    pub(super) async fn run(self, session: &Session) -> Outcome {
        let tests = session.client.flaky_tests(Some(self.days)).await?;
        let columns = [
            "TEST",
            "PLAN",
            "FLAKY",
            "BOTH",
            "FAILED",
            "LAST",
            "TOLERATED",
            "KEY",
        ];
        session.out.list(&tests, columns, "no test was flaky", |test| {
            [
                test.name.clone(),
                test.plan.clone(),
                format!("{} times", test.flaky),
                format!("{} commits", test.both),
                format!("{} of {}", test.failed, test.runs),
                ago(test.last_at),
                match (test.quarantined, test.tolerated) {
                    (true, _) => "quarantined",
                    (false, true) => "yes",
                    (false, false) => "no",
                }
                .to_owned(),
                test.key.clone(),
            ]
        })
    }
}
