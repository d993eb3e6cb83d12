//! The settings in force, each with what it means.
//!
//! What a setting means is said once, in `reference.toml`: a file of settings with all defaults and a comment on every
//! key, those that are absent by default commented out. Tests hold it to the settings that there are.

use std::fmt::Write;
use toml::{Table, Value};

const REFERENCE: &str = include_str!("reference.toml");

/// One line of the reference.
enum Line<'a> {
    /// A comment or an empty line.
    Text(&'a str),
    /// The beginning of a section, by its path.
    Section(Vec<String>),
    /// A key, with the line as it is in the reference.
    Key(&'a str, &'a str),
}

fn line(text: &str) -> Line<'_> {
    if let Some(path) = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')) {
        return Line::Section(path.split('.').map(str::to_owned).collect());
    }
    let code = text.strip_prefix('#').unwrap_or(text);
    match code.split_once(" = ") {
        Some((key, _)) if !code.starts_with([' ', '#']) => Line::Key(key, text),
        _ => Line::Text(text),
    }
}

/// The settings as TOML, in the order and with the comments of the reference; what has no place there comes last.
pub(super) fn documented(mut settings: Table) -> String {
    let mut text = String::new();
    let mut section = Vec::new();
    for raw in REFERENCE.lines() {
        // Writing into a string cannot fail.
        let _ = match line(raw) {
            Line::Text(comment) => writeln!(text, "{comment}"),
            Line::Section(path) => {
                section = path;
                writeln!(text, "{raw}")
            }
            Line::Key(key, absent) => match take(&mut settings, &section, key) {
                Some(value) => writeln!(text, "{key} = {value}"),
                None if absent.starts_with('#') => writeln!(text, "{absent}"),
                None => writeln!(text, "#{absent}"),
            },
        };
    }
    prune(&mut settings);
    if let Ok(rest) = toml::to_string(&settings)
        && !rest.is_empty()
    {
        let _ = write!(text, "\n{rest}");
    }
    text
}

fn take(settings: &mut Table, section: &[String], key: &str) -> Option<Value> {
    let mut table = settings;
    for name in section {
        table = table.get_mut(name)?.as_table_mut()?;
    }
    table.remove(key)
}

/// Removes sections that hold nothing.
fn prune(table: &mut Table) {
    for value in table.iter_mut().filter_map(|(_, value)| value.as_table_mut()) {
        prune(value);
    }
    table.retain(|_, value| value.as_table().is_none_or(|table| !table.is_empty()));
}

#[cfg(test)]
mod tests {
    use super::super::Settings;
    use super::*;

    fn defaults() -> Table {
        Table::try_from(Settings::default()).unwrap()
    }

    #[test]
    fn the_reference_has_the_defaults() {
        let mut reference: Settings = toml::from_str(REFERENCE).unwrap();
        let defaults = Settings::default();
        // Those of this machine.
        reference.executor.slots = defaults.executor.slots;
        assert_eq!(reference, defaults);
    }

    #[test]
    fn every_setting_is_in_the_reference_and_has_a_comment() {
        let printed = documented(defaults());
        let last = REFERENCE.lines().last().unwrap();
        assert!(
            printed.ends_with(&format!("{last}\n")),
            "without a place: {printed}"
        );
        let mut before = "";
        for raw in REFERENCE.lines() {
            if matches!(line(raw), Line::Key(..)) {
                assert!(before.starts_with("# "), "{raw} has no comment");
            }
            before = raw;
        }
    }

    #[test]
    fn settings_that_are_absent_by_default_exist() {
        let all: Vec<&str> = REFERENCE
            .lines()
            .map(|raw| match line(raw) {
                Line::Key(_, text) => text.trim_start_matches('#'),
                _ => raw,
            })
            .collect();
        let all: Settings = toml::from_str(&all.join("\n")).unwrap();
        assert_eq!(all.gateway.gemini.api_key.as_deref(), Some("key"));
    }

    #[test]
    fn what_is_in_force_is_printed_and_can_be_read_again() {
        let mut settings = Settings {
            database: Some("sqlite:/x".into()),
            ..Settings::default()
        };
        settings.work.worker_attempts = 77;
        settings
            .work
            .check_requirements
            .labels
            .insert("gpu.kind".into(), "a \"b\"".into());
        let printed = documented(Table::try_from(&settings).unwrap());
        assert!(printed.contains("\nworker_attempts = 77\n"), "{printed}");
        assert_eq!(toml::from_str::<Settings>(&printed).unwrap(), settings);
    }
}
