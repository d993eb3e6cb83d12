//! The tables of `RESULTS.md`. Every number and every verdict in them is computed here from what was measured.

mod bars;
mod tables;

use crate::bench::Results;
use crate::contender::Contender;
use bars::Verdict;
use std::fmt::Write;
use std::time::Duration;

/// What the tables need to know besides the results.
pub(crate) struct About {
    pub(crate) quick: bool,
    /// Whether every figure was asked for.
    pub(crate) complete: bool,
    pub(crate) rounds: u32,
    pub(crate) took: Duration,
    pub(crate) date: String,
    pub(crate) machine: Vec<(&'static str, String)>,
    pub(crate) contenders: Vec<Contender>,
}

/// A table of Markdown.
pub(crate) fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
    let head: Vec<String> = head.iter().map(|&cell| cell.to_owned()).collect();
    let rule: Vec<String> = head.iter().map(|_| "---".to_owned()).collect();
    let mut text = line(&head) + &line(&rule);
    for row in rows {
        text += &line(row);
    }
    text
}

/// The whole file.
pub(crate) fn write(about: &About, results: &Results) -> String {
    let mut verdicts = bars::verdicts(about, results);
    verdicts.retain(|verdict| verdict.met.is_some() || about.complete);
    let mut text = String::from("# Results\n\n");
    let _ = writeln!(
        text,
        "Written by `make bench` on {}; rounds: {}, ours and the peers by turns in each of them, together {:.0} minutes. \
         Figures are medians over the rounds, with the lowest and the highest in brackets. A ratio is taken within each \
         round, and then its median.\n",
        about.date,
        about.rounds,
        about.took.as_secs_f64() / 60.0,
    );
    if about.quick {
        text += "**This was a quick run, with small counts: it shows that everything works, not how fast it is.**\n\n";
    }
    text += &summary(&verdicts);
    text += &reasons(&verdicts);
    text += &tables::machine(about, results);
    text += &tables::all(about, results);
    text += &tables::failures(results);
    text += &tables::commands(results);
    text
}

fn summary(verdicts: &[Verdict]) -> String {
    let rows: Vec<Vec<String>> = verdicts
        .iter()
        .map(|v| {
            vec![
                v.figure.to_owned(),
                v.what.clone(),
                v.ours.clone(),
                v.beside.clone(),
                v.judged.clone(),
                v.bar.clone(),
                match v.met {
                    Some(true) => "yes".to_owned(),
                    Some(false) => "**no**".to_owned(),
                    None => "not measured".to_owned(),
                },
            ]
        })
        .collect();
    let met = verdicts.iter().filter(|v| v.met == Some(true)).count();
    let head = ["", "what", "Ostler", "beside", "result", "bar", "met"];
    format!(
        "## Bars\n\n{met} of {} are met.\n\n{}\n",
        verdicts.len(),
        table(&head, &rows)
    )
}

/// Why the bars that are not met are not, as far as the same run shows it.
fn reasons(verdicts: &[Verdict]) -> String {
    let mut text = String::new();
    for verdict in verdicts.iter().filter(|v| v.met == Some(false)) {
        let why = verdict
            .why
            .as_deref()
            .unwrap_or("Nothing that was measured in this run explains it.");
        let _ = writeln!(text, "- {}, {}: {why}", verdict.figure, verdict.what);
    }
    if text.is_empty() {
        return text;
    }
    format!("## Below the bar, and what was measured of the reason\n\n{text}\n")
}
