//! Our own JSON lines.

use crate::error::Problem;
use crate::limits::{Full, Sink};
use crate::model::{Case, Property, Report, Suite};
use crate::record::Record;
use crate::text;
use std::collections::HashMap;

pub(crate) fn read(bytes: &[u8], report: &mut Report, sink: &mut Sink<'_>) {
    let mut suites = HashMap::new();
    for (line, content) in text::lines(bytes) {
        if content.trim_ascii().is_empty() {
            continue;
        }
        match serde_json::from_slice::<Record<'_>>(content) {
            Ok(record) => {
                if one(line, record, report, &mut suites, sink).is_err() {
                    return;
                }
            }
            Err(error) => sink.fail(
                line,
                error.column().max(1),
                Problem::expected(
                    "an object with `name` and `outcome`",
                    super::without_place(&error),
                ),
            ),
        }
    }
}

fn one(
    line: usize,
    record: Record<'_>,
    report: &mut Report,
    suites: &mut HashMap<String, usize>,
    sink: &mut Sink<'_>,
) -> Result<(), Full> {
    sink.one_case(line)?;
    let suite = sink.name(line, &record.suite);
    let index = if let Some(index) = suites.get(&suite) {
        *index
    } else {
        sink.one_suite(line)?;
        report.suites.push(Suite {
            name: suite.clone(),
            ..Suite::default()
        });
        suites.insert(suite, report.suites.len() - 1);
        report.suites.len() - 1
    };
    let tried = record.tried.into_rerun(|text| sink.field(line, text));
    let case = Case {
        name: sink.name(line, &record.name),
        class: record.class.map(|class| sink.name(line, &class)),
        outcome: tried.outcome,
        duration: tried.duration,
        stdout: tried.stdout,
        stderr: tried.stderr,
        properties: record
            .properties
            .iter()
            .map(|(name, value)| Property {
                name: sink.name(line, name),
                value: sink.field(line, value),
            })
            .collect(),
        reruns: record
            .reruns
            .into_iter()
            .map(|one| one.into_rerun(|text| sink.field(line, text)))
            .collect(),
    };
    report.suites[index].cases.push(case);
    Ok(())
}
