//! `ostler run explain`.

use crate::commands::Outcome;
use crate::context::Session;
use crate::table::{Fields, Table};
use ostler_domain::RunStatus;

/// Which run.
#[derive(Debug, clap::Args)]
pub struct Explain {
    /// Id, or the end of it.
    #[arg(value_name = "RUN")]
    run: String,
}

impl Explain {
    pub(super) async fn run(self, session: &Session) -> Outcome {
        let (id, colour) = (session.run_id(&self.run).await?, session.out.colour);
        let explanation = session.client.explain_run(id).await?;
        session.out.show(&explanation, || {
            let mut text = Fields::new(colour)
                .add("Status", explanation.status)
                .add("Why", &explanation.summary)
                .opt("Ahead", explanation.ahead)
                .render();
            // What pools have to say matters as long as it needs one.
            if explanation.status == RunStatus::Queued && !explanation.pools.is_empty() {
                let mut table = Table::new(["POOL", "SUITABLE", "REASONS"], colour);
                for verdict in &explanation.pools {
                    let suitable = if verdict.suitable { "yes" } else { "no" };
                    table.row([verdict.pool.clone(), suitable.to_owned(), verdict.reasons.join("; ")]);
                }
                text.push('\n');
                text.push_str(&table.render());
            }
            text
        })
    }
}
