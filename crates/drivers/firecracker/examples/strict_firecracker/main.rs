//! A program for the tests that behaves like Firecracker, or like its jailer where its file is named `jailer`.
//!
//! It holds this driver to the published description: an unknown flag or field, a missing one, a wrong value, a call at the
//! wrong time or a file that its user may not open is refused. Behind its vsock socket it runs the real guest program, which
//! it takes from the initial RAM disk, in namespaces instead of a machine. What follows `firecracker-` in its file's name makes it
//! misbehave, see [`Whim`].

mod api;
mod archive;
mod jailer;
mod machine;
mod schema;

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

/// How it deviates from a Firecracker of version 1.15.0 that works.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Whim {
    /// Not at all.
    None,
    /// `v1.16.0`: is of that version.
    Version(String),
    /// `silent`: never makes its socket.
    Silent,
    /// `dies`: ends at once.
    Dies,
    /// `hangs-snapshot`: never answers requests whose path or action has that in it.
    Hangs(String),
    /// `refuses-drives`: refuses requests whose path or action has that in it.
    Refuses(String),
    /// `babbles-vsock`: answers such requests with status 500 and no JSON.
    Babbles(String),
    /// `breaks-vsock`: ends in the middle of such a request.
    Breaks(String),
    /// `mute`: takes connections to the guest and says nothing.
    Mute,
    /// `lonely`: nothing listens in the machine.
    Lonely,
    /// `stubborn`: does not end when the three keys are pressed.
    Stubborn,
}

impl Whim {
    fn of(name: &str) -> Self {
        let Some(whim) = name.strip_prefix("firecracker-") else {
            return Self::None;
        };
        let (kind, part) = whim.split_once('-').unwrap_or((whim, ""));
        match kind {
            "silent" => Self::Silent,
            "dies" => Self::Dies,
            "hangs" => Self::Hangs(part.to_owned()),
            "refuses" => Self::Refuses(part.to_owned()),
            "babbles" => Self::Babbles(part.to_owned()),
            "breaks" => Self::Breaks(part.to_owned()),
            "mute" => Self::Mute,
            "lonely" => Self::Lonely,
            "stubborn" => Self::Stubborn,
            version => Self::Version(version.trim_start_matches('v').to_owned()),
        }
    }

    pub(crate) fn version(&self) -> &str {
        match self {
            Self::Version(version) => version,
            _ => "1.15.0",
        }
    }
}

fn main() -> ExitCode {
    let mut arguments: Vec<String> = std::env::args().collect();
    let own = arguments.remove(0);
    let name = Path::new(&own)
        .file_name()
        .and_then(|n| n.to_str())
        .unwrap_or_default()
        .to_owned();
    let done = if name.starts_with("jailer") {
        jailer::run(&arguments)
    } else {
        firecracker(&name, &arguments)
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("{why}");
            ExitCode::from(1)
        }
    }
}

fn firecracker(name: &str, arguments: &[String]) -> Result<(), String> {
    let whim = Whim::of(name);
    if arguments == ["--version"] {
        println!("Firecracker v{}\n", whim.version());
        return Ok(());
    }
    let (mut id, mut socket) = (None, None);
    let mut rest = arguments.iter();
    while let Some(flag) = rest.next() {
        let value = rest.next().ok_or_else(|| format!("{flag} needs a value"))?;
        match flag.as_str() {
            "--id" if id.is_none() => id = Some(value.clone()),
            "--api-sock" if socket.is_none() => socket = Some(value.clone()),
            "--start-time-us" | "--start-time-cpu-us" | "--parent-cpu-time-us" => {}
            _ => return Err(format!("unexpected argument {flag}")),
        }
    }
    let id = id.ok_or("the tests always name the machine")?;
    jailer::check_id(&id)?;
    let socket = socket.ok_or("the tests always name the socket")?;
    if std::env::vars_os().next().is_some() {
        return Err("an environment came with it".to_owned());
    }
    match whim {
        Whim::Dies => return Err("cannot go on, says this test".to_owned()),
        Whim::Silent => loop {
            std::thread::sleep(Duration::from_secs(3600));
        },
        _ => {}
    }
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| e.to_string())?
        .block_on(api::serve(id, &socket, whim))
}
