//! The one program: the server, its tools, and the command line of its interface.

mod database;
mod doctor;
mod drivers;
mod egress;
mod images;
mod late;
mod migrate;
mod serve;
mod settings;
#[cfg(test)]
mod snapshots;

use clap::{CommandFactory, Parser, Subcommand};
use settings::Settings;
use std::io::{IsTerminal, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

/// Heading of what every command takes.
const GLOBAL: &str = "Global options";

/// Self-hosted orchestrator for coding agents.
#[derive(Debug, Parser)]
#[command(name = "ostler", version, after_help = ostler_cli::EXIT_CODES)]
struct Arguments {
    /// Data directory; `~/.local/share/ostler` when absent.
    #[arg(
        long,
        global = true,
        env = "OSTLER_DATA",
        value_name = "DIR",
        hide_env_values = true,
        help_heading = GLOBAL
    )]
    data: Option<PathBuf>,

    /// Print JSON for programs.
    #[arg(long, global = true, help_heading = GLOBAL)]
    json: bool,

    /// Settings file; `config.toml` in the data directory when absent.
    #[arg(
        long,
        global = true,
        env = "OSTLER_CONFIG",
        value_name = "FILE",
        hide_env_values = true,
        help_heading = GLOBAL
    )]
    config: Option<PathBuf>,

    /// URL of the server that commands talk to; that of the data directory when absent.
    #[arg(
        long,
        global = true,
        env = "OSTLER_SERVER",
        value_name = "URL",
        hide_env_values = true,
        help_heading = GLOBAL
    )]
    server: Option<String>,

    /// API token; that of the data directory when absent. Others on this machine can see arguments: better set the
    /// variable.
    #[arg(
        long,
        global = true,
        env = "OSTLER_TOKEN",
        value_name = "TOKEN",
        hide_env_values = true,
        help_heading = GLOBAL
    )]
    token: Option<String>,

    /// Tenant to act in, by id or name; the token's own when absent. Only for administrators of the platform.
    #[arg(
        long,
        global = true,
        env = "OSTLER_TENANT",
        value_name = "TENANT",
        hide_env_values = true,
        help_heading = GLOBAL
    )]
    tenant: Option<String>,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the server.
    Serve {
        /// Address to listen on; port 0 takes a free one.
        #[arg(long, value_name = "ADDRESS")]
        listen: Option<SocketAddr>,
        /// `sqlite:PATH` or `postgres://user:password@host/database`.
        #[arg(long, value_name = "URL")]
        database: Option<String>,
        /// Development mode: everybody is administrator; only on loopback.
        #[arg(long)]
        dev: bool,
    },
    /// Check everything that a server needs on this machine, and say what to do.
    Doctor,
    /// Change the schema of the database.
    #[command(subcommand)]
    Migrate(migrate::Migrate),
    /// Settings.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Print a completion script.
    Completions {
        /// Shell.
        shell: clap_complete::Shell,
    },
    /// Print the version.
    Version,
    #[command(flatten)]
    Client(ostler_cli::Command),
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Print the settings in force, without secrets.
    Print,
}

/// Code of a mistake in the command line.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        // Not only help, and for a program.
        Err(error) if error.use_stderr() && json_is_wanted() => {
            let text = error.to_string();
            let message = text.trim().strip_prefix("error: ").unwrap_or(&text);
            complain(true, Some("INVALID_REQUEST"), message);
            return ExitCode::from(USAGE);
        }
        Err(error) => error.exit(),
    };
    let json = arguments.json;
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            complain(json, None, &format!("the runtime cannot start: {error}"));
            return ExitCode::FAILURE;
        }
    };
    runtime.block_on(run(arguments)).unwrap_or_else(|error| {
        complain(json, None, &format!("{error:#}"));
        ExitCode::FAILURE
    })
}

/// Whether the arguments, which cannot be understood, ask for JSON.
fn json_is_wanted() -> bool {
    let own = std::env::args_os().take_while(|word| word != "--");
    own.into_iter().any(|word| word == "--json")
}

/// Says what went wrong; to programs in the shape of the server's own errors.
fn complain(json: bool, code: Option<&str>, message: &str) {
    let text = if json {
        serde_json::json!({ "error": { "code": code, "message": message } }).to_string()
    } else {
        // It may repeat what an agent wrote, which must not command the terminal.
        let harmless = |c: char| match c {
            '\n' | '\t' => c,
            c if c.is_control() => '\u{fffd}',
            c => c,
        };
        format!("error: {}", message.chars().map(harmless).collect::<String>())
    };
    // Whoever has closed standard error does not want to know.
    let _ = writeln!(std::io::stderr(), "{text}");
}

async fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let Arguments {
        data,
        json,
        config,
        server,
        token,
        tenant,
        command,
    } = arguments;
    let data = settings::data_directory(data)?;
    let load = || Settings::load(config.as_deref(), &data, std::env::vars());
    match command {
        Command::Serve {
            listen,
            database,
            dev,
        } => {
            let mut settings = load()?;
            settings.listen = listen.unwrap_or(settings.listen);
            settings.database = database.or(settings.database);
            settings.dev |= dev;
            log_to_stderr(settings.log_json);
            serve::serve(settings, &data).await?;
        }
        Command::Doctor => return doctor::run(load(), &data, json).await,
        Command::Migrate(migrate) => {
            let store = database::open(load()?.database.as_deref(), &data, true).await?;
            let done = migrate.run(store.as_ref(), json).await;
            store.close().await;
            done?;
        }
        Command::Config(ConfigCommand::Print) => {
            let settings = load()?;
            if json {
                let shown = serde_json::to_value(settings.redacted())?;
                print(&format!("{shown:#}\n"))?;
            } else {
                print(&settings.documented()?)?;
            }
        }
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Arguments::command(), "ostler", &mut script);
            print(&String::from_utf8(script)?)?;
        }
        Command::Version => {
            let version = env!("CARGO_PKG_VERSION");
            if json {
                print(&format!("{:#}\n", serde_json::json!({ "version": version })))?;
            } else {
                print(&format!("ostler {version}\n"))?;
            }
        }
        Command::Client(command) => {
            let context = ostler_cli::Context {
                data,
                json,
                server,
                token,
                tenant,
            };
            return Ok(ostler_cli::run(command, context).await);
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// To standard output; that nobody reads on is no error.
fn print(text: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        done => done,
    }
}

fn log_to_stderr(json: bool) {
    let filter = tracing_subscriber::EnvFilter::try_from_env("OSTLER_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    if json {
        builder.json().init();
    } else {
        builder.with_ansi(std::io::stderr().is_terminal()).init();
    }
}
