//! `ostler agent logs`.

use crate::commands::Outcome;
use crate::context::Session;
use crate::error::{CliError, Result};
use crate::exit::Exit;
use crate::table::Table;
use crate::when::ago;
use ostler_client::ExecItem;
use ostler_contracts::ExecView;

/// Shortest end of an id that is taken for one.
const MIN_END: usize = 4;

/// Which output.
#[derive(Debug, clap::Args)]
pub struct Logs {
    /// Id, or the end of it.
    #[arg(value_name = "AGENT")]
    agent: String,
    /// Program, by id or the end of it; the last that was started when absent.
    #[arg(value_name = "PROGRAM")]
    program: Option<String>,
    /// List the programs that run and the last ones that ended.
    #[arg(short, long, conflicts_with_all = ["program", "follow"])]
    list: bool,
    /// Go on until the program has ended.
    #[arg(short, long)]
    follow: bool,
}

impl Logs {
    pub(super) async fn run(self, session: &Session) -> Outcome {
        let out = session.out;
        let id = session.agent_id(&self.agent).await?;
        let programs = session.client.agent_programs(id).await?;
        if self.list {
            out.show(&programs, || table(session, &programs))?;
            return Ok(Exit::OK);
        }
        let program = pick(&programs, self.program.as_deref())?;
        let read = session
            .client
            .read_agent_program(id, &program.exec_id, 1, self.follow, !out.json);
        let mut output = read.await?;
        loop {
            let item = tokio::select! {
                _ = tokio::signal::ctrl_c() => return Ok(Exit::CANCELLED),
                item = output.next() => item?,
            };
            match item {
                ExecItem::Output(line) if out.json => out.line(&serde_json::json!({ "log": line }))?,
                ExecItem::Output(line) => session.write_log(&line)?,
                ExecItem::End(Some(end)) if out.json => {
                    out.line(&serde_json::json!({ "exit": end }))?;
                    return Ok(Exit::OK);
                }
                ExecItem::End(_) => return Ok(Exit::OK),
            }
        }
    }
}

fn pick<'a>(programs: &'a [ExecView], named: Option<&str>) -> Result<&'a ExecView> {
    let missing = |text: &str| CliError::NotFound {
        what: "program",
        text: text.to_owned(),
        list: "agent logs --list AGENT",
    };
    let Some(named) = named else {
        return programs.first().ok_or_else(|| {
            CliError::Failed("nothing was started in it; `ostler agent exec` starts a program".into())
        });
    };
    let found: Vec<&ExecView> = programs
        .iter()
        .filter(|program| {
            program.exec_id == named || named.len() >= MIN_END && program.exec_id.ends_with(named)
        })
        .collect();
    match found[..] {
        [one] => Ok(one),
        [] => Err(missing(named)),
        _ => Err(CliError::Ambiguous {
            what: "program",
            text: named.to_owned(),
            candidates: found
                .iter()
                .map(|program| program.exec_id.as_str())
                .collect::<Vec<_>>()
                .join(", "),
        }),
    }
}

fn table(session: &Session, programs: &[ExecView]) -> String {
    let mut table = Table::new(
        ["PROGRAM", "STATUS", "STARTED", "COMMAND"],
        session.out.colour,
    );
    for program in programs {
        let status = match &program.end {
            None => "running".to_owned(),
            Some(end) => match (end.exit_code, end.signal) {
                (_, Some(signal)) => format!("signal {signal}"),
                (Some(code), _) => format!("exit {code}"),
                _ => "ended".to_owned(),
            },
        };
        let id = program.exec_id.rsplit('.').next().unwrap_or_default();
        table.row([
            id.to_owned(),
            status,
            ago(program.started_at),
            program.command.join(" "),
        ]);
    }
    table.or_empty("nothing was started in it")
}
