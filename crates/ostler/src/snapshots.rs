//! What people and programs see of the interface, kept as texts: a change of it must be seen in a review.

use crate::Arguments;
use clap::CommandFactory;
use std::fmt::Write;

/// Settings of the server begin with `OSTLER_` too, those with `OSTLER_TEST_` are left to tests.
const UPDATE: &str = "OSTLER_TEST_UPDATE_SNAPSHOTS";

fn compare(name: &str, text: &str) {
    let path = format!("{}/tests/snapshots/{name}", env!("CARGO_MANIFEST_DIR"));
    if std::env::var_os(UPDATE).is_some() {
        std::fs::write(&path, text).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    let changed = text.lines().zip(kept.lines()).position(|(new, old)| new != old);
    assert!(
        text == kept,
        "{name} has changed (from line {} on); if that is meant, run the test with {UPDATE}=1 and look at the difference",
        changed.map_or(0, |line| line + 1)
    );
}

fn write_all(command: &mut clap::Command, name: &str, text: &mut String) {
    let heading = format!("$ {name} --help");
    let help = command.render_long_help().to_string();
    let help: Vec<&str> = help.lines().map(str::trim_end).collect();
    let _ = write!(text, "{heading}\n\n{}\n\n", help.join("\n"));
    for inner in command.get_subcommands_mut() {
        if inner.get_name() != "help" {
            // Once is enough.
            *inner = std::mem::take(inner).mut_args(|arg| {
                let global = arg.is_global_set();
                arg.hide(global)
            });
            let name = format!("{name} {}", inner.get_name());
            write_all(inner, &name, text);
        }
    }
}

#[test]
fn help_of_every_command() {
    let mut command = Arguments::command().term_width(100);
    // Gives every command its global arguments and its whole name.
    command.build();
    let mut text = String::new();
    write_all(&mut command, "ostler", &mut text);
    compare("help.txt", &text);
}

#[test]
fn the_http_interface() {
    let mut text = serde_json::to_string_pretty(&ostler_server::openapi()).unwrap();
    text.push('\n');
    compare("openapi.json", &text);
}

#[test]
fn arguments_do_not_contradict_each_other() {
    Arguments::command().debug_assert();
}
