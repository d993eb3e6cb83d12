//! The guest's several names.

use ostler_guest::{Options, TOOLS};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

const USAGE: &str = "usage: ostler-guest --run DIR --workspace DIR | connect SOCKET | --version";

fn main() -> ExitCode {
    let mut arguments = std::env::args_os();
    let own = arguments.next().unwrap_or_default();
    let name = Path::new(&own)
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default()
        .to_owned();
    let arguments: Vec<_> = arguments.collect();
    if TOOLS.contains(&name.as_str()) {
        return ostler_guest::call_tool(&name, &arguments);
    }
    // What the kernel of a virtual machine starts, with whatever words it did not understand.
    if name == "init" && std::process::id() == 1 {
        ostler_guest::init();
    }
    let words: Vec<&str> = arguments
        .iter()
        .map(|word| word.to_str().unwrap_or_default())
        .collect();
    match words[..] {
        ["--version"] => {
            println!("ostler-guest {}", env!("CARGO_PKG_VERSION"));
            ExitCode::SUCCESS
        }
        ["supervise", status, "--", ..] => ostler_guest::supervise(status, &arguments[3..]),
        ["connect", socket] => code(ostler_guest::relay(Path::new(socket))),
        ["--run", _, "--workspace", _] => {
            let options = Options {
                run: PathBuf::from(&arguments[1]),
                workspace: PathBuf::from(&arguments[3]),
                port: None,
                vsock: None,
            };
            code(ostler_guest::serve(&options))
        }
        ["--run", _, "--workspace", _, way @ ("--port" | "--vsock"), name] => {
            let options = Options {
                run: PathBuf::from(&arguments[1]),
                workspace: PathBuf::from(&arguments[3]),
                port: (way == "--port").then(|| name.to_owned()),
                vsock: name.parse().ok().filter(|_| way == "--vsock"),
            };
            code(ostler_guest::serve(&options));
            // The end of the first process would be a panic of the kernel.
            ostler_guest::power_off()
        }
        _ => {
            eprintln!("{USAGE}");
            ExitCode::from(2)
        }
    }
}

fn code(done: std::io::Result<()>) -> ExitCode {
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ostler-guest: {error}");
            ExitCode::FAILURE
        }
    }
}
