//! The help of every command is what people see of the interface: a change of it must be seen in a review.

use crate::Arguments;
use clap::CommandFactory;
use std::fmt::Write;

const SNAPSHOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/snapshots/help.txt");
/// Settings of the server begin with `OSTLER_` too, those with `OSTLER_TEST_` are left to tests.
const UPDATE: &str = "OSTLER_TEST_UPDATE_SNAPSHOTS";

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
    if std::env::var_os(UPDATE).is_some() {
        std::fs::write(SNAPSHOT, &text).unwrap();
    }
    let kept = std::fs::read_to_string(SNAPSHOT).unwrap_or_default();
    let changed = text.lines().zip(kept.lines()).position(|(new, old)| new != old);
    assert!(
        text == kept,
        "the help has changed (from line {} on); look at it, and run the test with {UPDATE}=1 to keep it",
        changed.map_or(0, |line| line + 1)
    );
}

#[test]
fn arguments_do_not_contradict_each_other() {
    Arguments::command().debug_assert();
}
