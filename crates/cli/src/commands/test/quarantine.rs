//! `ostler test quarantine`.

use super::history::identity;
use crate::commands::Outcome;
use crate::context::Session;
use crate::exit::Exit;
use crate::table::one_line;
use crate::when::ago;

/// Which test, and why.
#[derive(Debug, clap::Args)]
pub struct Quarantine {
    /// The test's name together with --plan, or its key; without it, the tests in quarantine are listed.
    #[arg(value_name = "TEST|KEY")]
    test: Option<String>,
    /// Name of its plan.
    #[arg(short, long, value_name = "NAME", requires = "test")]
    plan: Option<String>,
    /// Why.
    #[arg(
        short,
        long,
        value_name = "TEXT",
        requires = "test",
        default_value = "",
        hide_default_value = true
    )]
    reason: String,
}

impl Quarantine {
    pub(super) async fn run(self, session: &Session) -> Outcome {
        let Some(test) = self.test else {
            let tests = session.client.quarantined_tests().await?;
            let columns = ["TEST", "PLAN", "SINCE", "WHY", "KEY"];
            return session
                .out
                .list(&tests, columns, "no test is in quarantine", |test| {
                    [
                        test.name.clone(),
                        test.plan.clone(),
                        ago(test.created_at),
                        test.reason.clone(),
                        test.key.clone(),
                    ]
                });
        };
        let test = identity(test, self.plan)?;
        let listed = session.client.quarantine_test(&test, self.reason).await?;
        session.out.show(&listed, || format!("{}\n", listed.key))?;
        session.out.note(&format!(
            "failures of `{}` count for nothing in plans that are submitted from now on",
            one_line(&listed.name)
        ));
        Ok(Exit::OK)
    }
}
