//! `ostler sandbox usage`.

use crate::commands::Outcome;
use crate::context::Session;
use crate::when::ago;

/// Which sandbox.
#[derive(Debug, clap::Args)]
pub struct Usage {
    /// Id, or the end of it.
    #[arg(value_name = "SANDBOX")]
    sandbox: String,
}

impl Usage {
    pub(super) async fn run(self, session: &Session) -> Outcome {
        let id = session.sandbox_id(&self.sandbox).await?;
        let samples = session.client.sandbox_usage(id).await?;
        let columns = ["SAMPLED", "CPU", "MEMORY", "READ", "WRITTEN", "RECEIVED", "SENT", "PROCESSES"];
        let none = "no samples yet; they are taken once a minute";
        let bytes = |n: Option<i64>| n.map_or("-".to_owned(), |n| format!("{:.1}M", n as f64 / f64::from(1 << 20)));
        session.out.list(&samples, columns, none, |sample| {
            [
                ago(sample.at),
                sample.cpu_us.map_or("-".to_owned(), |us| format!("{:.2}s", us as f64 / 1e6)),
                bytes(sample.memory_bytes),
                bytes(sample.read_bytes),
                bytes(sample.written_bytes),
                bytes(sample.received_bytes),
                bytes(sample.sent_bytes),
                sample.processes.map_or("-".to_owned(), |n| n.to_string()),
            ]
        })
    }
}
