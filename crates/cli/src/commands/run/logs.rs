//! `ostler run logs`.

use crate::commands::Outcome;
use crate::context::Session;
use crate::error::Result;
use crate::exit::Exit;
use ostler_contracts::LogLine;

/// Which log.
#[derive(Debug, clap::Args)]
pub struct Logs {
    /// Id, or the end of it.
    #[arg(value_name = "RUN")]
    run: String,
    /// Go on until the run has ended.
    #[arg(short, long)]
    follow: bool,
    /// Only what comes after the piece with this number.
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    after: u64,
}

impl Logs {
    pub(super) async fn run(self, session: &Session) -> Outcome {
        let out = session.out;
        let id = session.run_id(&self.run).await?;
        let piece = |line: &LogLine| -> Result<()> {
            if out.json { out.line(line) } else { session.write_log(line) }
        };
        if self.follow {
            session.follow_log(id, self.after, !out.json, piece).await?;
            return Ok(Exit::OK);
        }
        let mut lines = session.client.run_log(id, self.after, !out.json).await?;
        while let Some(line) = lines.next().await? {
            piece(&line)?;
        }
        Ok(Exit::OK)
    }
}
