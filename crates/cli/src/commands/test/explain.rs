//! `ostler test explain`.

use crate::commands::Outcome;
use crate::context::Session;
use crate::table::{Fields, Table};

/// Which plan.
#[derive(Debug, clap::Args)]
pub struct Explain {
    /// Id, the end of it, or a name, which stands for the newest plan of that name.
    #[arg(value_name = "PLAN")]
    plan: String,
}

impl Explain {
    pub(super) async fn run(self, session: &Session) -> Outcome {
        let (id, colour) = (session.plan_id(&self.plan).await?, session.out.colour);
        let explanation = session.client.explain_plan(id).await?;
        session.out.show(&explanation, || {
            let mut text = Fields::new(colour)
                .add("Status", explanation.status.as_str())
                .add("Why", &explanation.summary)
                .render();
            if !explanation.waiting.is_empty() {
                let mut table = Table::new(["TESTS", "FOR EXAMPLE", "REASON", "POOLS"], colour);
                for wait in &explanation.waiting {
                    let pools: Vec<String> = wait
                        .pools
                        .iter()
                        .map(|pool| format!("{}: {}", pool.pool, pool.reasons.join("; ")))
                        .collect();
                    table.row([
                        wait.tests.to_string(),
                        wait.example.clone(),
                        wait.reason.clone(),
                        pools.join(" | "),
                    ]);
                }
                text.push('\n');
                text.push_str(&table.render());
            }
            text
        })
    }
}
