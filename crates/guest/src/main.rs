//! The guest's several names.

use ostler_guest::{Options, TOOLS};
use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

const USAGE: &str = "usage: ostler-guest --run DIR --workspace DIR [--user UID:GID[:GROUPS]] [--filter] [--nested] [--port NAME | \
                     --vsock NUMBER] | connect SOCKET | --version";

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
        ["--run", ..] => match options(&arguments) {
            Ok(options) => {
                let machine = options.port.is_some() || options.vsock.is_some();
                let done = code(ostler_guest::serve(&options));
                if machine {
                    // The end of the first process would be a panic of the kernel.
                    ostler_guest::power_off()
                }
                done
            }
            Err(why) => {
                eprintln!("ostler-guest: {why}\n{USAGE}");
                ExitCode::from(2)
            }
        },
        _ => {
            eprintln!("{USAGE}");
            ExitCode::from(2)
        }
    }
}

fn options(arguments: &[OsString]) -> Result<Options, String> {
    let mut options = Options::default();
    let mut rest = arguments.iter();
    while let Some(option) = rest.next() {
        let option = option.to_string_lossy();
        match option.as_ref() {
            "--filter" => options.filter = true,
            "--nested" => options.nested = true,
            _ => {
                let value = rest.next().ok_or_else(|| format!("{option} takes a value"))?;
                let text = || value.to_string_lossy().into_owned();
                match option.as_ref() {
                    "--run" => options.run = value.into(),
                    "--workspace" => options.workspace = value.into(),
                    "--port" => options.port = Some(text()),
                    "--vsock" => {
                        options.vsock = Some(text().parse().map_err(|error| format!("{option}: {error}"))?);
                    }
                    "--user" => options.user = Some(text().parse()?),
                    _ => return Err(format!("there is no option {option}")),
                }
            }
        }
    }
    if options.run.as_os_str().is_empty() || options.workspace.as_os_str().is_empty() {
        return Err("--run and --workspace are needed".into());
    }
    Ok(options)
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
