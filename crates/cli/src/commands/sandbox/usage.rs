//! `ostler sandbox usage`.

use crate::commands::Outcome;
use crate::context::Session;
use crate::exit::Exit;
use crate::table::Table;
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
        session.out.show(&samples, || {
            let header = ["SAMPLED", "CPU", "MEMORY", "READ", "WRITTEN", "RECEIVED", "SENT", "PROCESSES"];
            let mut table = Table::new(header, session.out.colour);
            let bytes = |n: Option<i64>| n.map_or("-".to_owned(), |n| format!("{:.1}M", n as f64 / f64::from(1 << 20)));
            for sample in &samples {
                table.row([
                    ago(sample.at),
                    sample.cpu_us.map_or("-".to_owned(), |us| format!("{:.2}s", us as f64 / 1e6)),
                    bytes(sample.memory_bytes),
                    bytes(sample.read_bytes),
                    bytes(sample.written_bytes),
                    bytes(sample.received_bytes),
                    bytes(sample.sent_bytes),
                    sample.processes.map_or("-".to_owned(), |n| n.to_string()),
                ]);
            }
            table.or_empty("no samples yet; they are taken once a minute")
        })?;
        Ok(Exit::OK)
    }
}
