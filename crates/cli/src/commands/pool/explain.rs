//! `ostler pool explain`.

use crate::commands::Outcome;
use crate::context::Session;
use crate::table::{Fields, section};

/// Which pool.
#[derive(Debug, clap::Args)]
pub struct Explain {
    /// Name.
    #[arg(value_name = "NAME")]
    name: String,
}

impl Explain {
    pub(super) async fn run(self, session: &Session) -> Outcome {
        let pool = session.client.explain_pool(&self.name).await?;
        session.out.show(&pool, || {
            let fields = Fields::new(session.out.colour)
                .add("Pool", &pool.pool)
                .add("Summary", &pool.summary)
                .add("Warm", format!("{} of {}", pool.warm, pool.target))
                .add("Starting", pool.starting)
                .add("Held", pool.held)
                .add("Most", pool.max)
                .add("Starts without a wait", pool.tokens)
                .render();
            let hosts: Vec<String> = pool
                .hosts
                .iter()
                .map(|host| {
                    let state = if host.reasons.is_empty() { "can start more".to_owned() } else { host.reasons.join("; ") };
                    format!("{}: {} sandboxes; {state}", host.host, host.sandboxes)
                })
                .collect();
            [fields, section("Hosts", &hosts.join("\n"))].concat()
        })
    }
}
