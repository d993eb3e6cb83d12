//! What people and programs see of the interface, kept as texts: a change of it must be seen in a review.

use crate::Arguments;
use clap::CommandFactory;
use ostler_driver_docker::DockerDriver;
use ostler_driver_firecracker::FirecrackerDriver;
use ostler_driver_process::ProcessDriver;
use ostler_driver_qemu::QemuDriver;
use ostler_driver_sim::{SimControl, SimDriver};
use ostler_sandbox::{Capabilities, Driver};
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

/// The name of a row, and what is in it for a driver.
type Row<'a> = (&'a str, &'a dyn Fn(&Capabilities) -> String);

/// What drivers can enforce, as a table of the documentation.
fn capabilities() -> String {
    let drivers: [(&str, Capabilities); 5] = [
        ("process", ProcessDriver::best()),
        ("docker", DockerDriver::best()),
        ("qemu", QemuDriver::best()),
        ("firecracker", FirecrackerDriver::best()),
        ("sim", SimDriver::new(SimControl::new()).capabilities().clone()),
    ];
    let yes = |can: bool| if can { "yes" } else { "–" }.to_owned();
    let networks = |can: &Capabilities| {
        let names: Vec<String> = can.networks.iter().map(ToString::to_string).collect();
        names.join(", ")
    };
    let rows: [Row<'_>; 13] = [
        ("isolation", &|can| can.isolation.to_string()),
        ("network policies", &networks),
        ("limit of CPU time", &|can| yes(can.cpu_limit)),
        ("limit of memory", &|can| yes(can.memory_limit)),
        ("limit of disk use", &|can| yes(can.disk_limit)),
        ("images", &|can| yes(can.images)),
        ("users of an image", &|can| yes(can.users)),
        ("mounts of the host", &|can| yes(can.mounts)),
        ("drives and a kernel of its own", &|can| yes(can.machines)),
        ("pause and resume", &|can| yes(can.pause)),
        ("snapshots", &|can| yes(can.snapshot)),
        ("console kept", &|can| yes(can.console)),
        ("vsock context id", &|can| yes(can.vsock)),
    ];
    let names: Vec<&str> = drivers.iter().map(|(name, _)| *name).collect();
    let mut text = format!(
        "| | {} |\n|---|{}\n",
        names.join(" | "),
        "---|".repeat(names.len())
    );
    for (row, show) in rows {
        let cells: Vec<String> = drivers.iter().map(|(_, can)| show(can)).collect();
        let _ = writeln!(text, "| {row} | {} |", cells.join(" | "));
    }
    text
}

#[test]
fn the_documentation_says_what_drivers_can_enforce() {
    let (begin, end) = ("<!-- capabilities -->\n", "<!-- /capabilities -->");
    let path = format!("{}/../../docs/sandboxes.md", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = text.split_once(begin).unwrap();
    let (kept, after) = rest.split_once(end).unwrap();
    let made = capabilities();
    if std::env::var_os(UPDATE).is_some() {
        std::fs::write(&path, format!("{before}{begin}{made}{end}{after}")).unwrap();
        return;
    }
    assert!(
        kept == made,
        "docs/sandboxes.md has another table of what drivers can enforce; run the test with {UPDATE}=1"
    );
}

#[test]
fn arguments_do_not_contradict_each_other() {
    Arguments::command().debug_assert();
}
