//! `ostler test history`.

use super::precise;
use crate::commands::Outcome;
use crate::context::Session;
use crate::error::{CliError, Result};
use crate::table::{Colour, Fields, Table};
use crate::when::ago;
use ostler_client::TestIdentity;
use ostler_contracts::{TestHistory, TestTrend};
use std::time::Duration;

/// Digits of a key.
const KEY: usize = 32;

/// Which test.
#[derive(Debug, clap::Args)]
pub struct History {
    /// The test's name together with --plan, or its key.
    #[arg(value_name = "TEST|KEY")]
    test: String,
    /// Name of its plan.
    #[arg(short, long, value_name = "NAME")]
    plan: Option<String>,
    /// At most this many runs, up to 1000.
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: u32,
}

pub(super) fn identity(test: String, plan: Option<String>) -> Result<TestIdentity> {
    let is_key = test.len() == KEY && test.bytes().all(|b| b.is_ascii_hexdigit());
    match plan {
        Some(plan) => Ok(TestIdentity::Names { plan, test }),
        None if is_key => Ok(TestIdentity::Key(test)),
        None => Err(CliError::Usage(format!(
            "`{test}` is no key of a test; name its plan with --plan NAME"
        ))),
    }
}

impl History {
    pub(super) async fn run(self, session: &Session) -> Outcome {
        let test = identity(self.test, self.plan)?;
        let history = session.client.test_history(&test, Some(self.limit)).await?;
        session.out.show(&history, || text(&history, session.out.colour))
    }
}

fn text(history: &TestHistory, colour: Colour) -> String {
    let microseconds = |value: f64| precise(Duration::try_from_secs_f64(value / 1e6).map_or(0, micros));
    let mut text = Fields::new(colour)
        .add("Key", &history.key)
        .opt(
            "Passed",
            history.pass_rate.map(|rate| format!("{:.1} %", rate * 100.0)),
        )
        .add("Flaky", if history.flaky { "yes" } else { "no" })
        .opt("Quarantine", history.quarantined.then_some("yes"))
        .opt(
            "Time",
            history.duration.as_ref().map(|trend| said(trend, microseconds)),
        )
        .opt("CPU", history.cpu.as_ref().map(|trend| said(trend, microseconds)))
        .opt(
            "Memory",
            history.peak_memory.as_ref().map(|trend| said(trend, mebibytes)),
        )
        .render();
    let columns = ["AT", "STATUS", "TRY", "TOOK", "CPU", "MEMORY", "RUN", "PLAN"];
    let mut table = Table::new(columns, colour);
    for run in &history.runs {
        let flaky = if run.flaky { " (flaky)" } else { "" };
        table.row([
            ago(run.at),
            format!("{}{flaky}", run.status),
            run.ordinal.to_string(),
            precise(run.duration_us),
            or_dash(run.cpu_us, precise(run.cpu_us)),
            or_dash(run.peak_memory_bytes, mebibytes(run.peak_memory_bytes as f64)),
            run.run_id.to_string(),
            run.plan_id.to_string(),
        ]);
    }
    text.push('\n');
    text.push_str(&table.or_empty("it has not run"));
    text
}

fn micros(length: Duration) -> u64 {
    u64::try_from(length.as_micros()).unwrap_or(u64::MAX)
}

fn mebibytes(bytes: f64) -> String {
    format!("{:.1} MiB", bytes / f64::from(1 << 20))
}

/// What is zero was not measured.
fn or_dash(value: u64, text: String) -> String {
    if value == 0 { "-".to_owned() } else { text }
}

/// The latest value, beside those before it.
fn said(trend: &TestTrend, unit: impl Fn(f64) -> String) -> String {
    let latest = unit(trend.latest as f64);
    if trend.count == 0 {
        return latest;
    }
    let worse = if trend.regression {
        ", clearly more than before"
    } else {
        ""
    };
    format!(
        "{latest}; median {} ± {} of {} before{worse}",
        unit(trend.median),
        unit(trend.deviation),
        trend.count
    )
}
