//! `ostler test unquarantine`.

use super::history::identity;
use crate::commands::Outcome;
use crate::context::Session;
use crate::error::CliError;
use crate::exit::Exit;
use ostler_client::TestIdentity;

/// Which test.
#[derive(Debug, clap::Args)]
pub struct Unquarantine {
    /// The test's name together with --plan, or its key.
    #[arg(value_name = "TEST|KEY")]
    test: String,
    /// Name of its plan.
    #[arg(short, long, value_name = "NAME")]
    plan: Option<String>,
}

impl Unquarantine {
    pub(super) async fn run(self, session: &Session) -> Outcome {
        let key = match identity(self.test, self.plan)? {
            TestIdentity::Key(key) => key,
            TestIdentity::Names { plan, test } => {
                let listed = session.client.quarantined_tests().await?;
                let found = listed
                    .into_iter()
                    .find(|one| one.plan == plan && one.name == test);
                found
                    .ok_or(CliError::NotFound {
                        what: "test in quarantine",
                        text: test,
                        list: "test quarantine",
                    })?
                    .key
            }
        };
        session.client.release_test(&key).await?;
        session
            .out
            .show(&serde_json::json!({ "key": key }), || format!("{key}\n"))?;
        Ok(Exit::OK)
    }
}
