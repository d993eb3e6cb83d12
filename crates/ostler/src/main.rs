//! The one program: the server, its tools, and the command line of its interface.

mod database;
mod migrate;
mod serve;
mod settings;

use clap::{CommandFactory, Parser, Subcommand};
use settings::Settings;
use std::io::IsTerminal;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

/// Self-hosted orchestrator for coding agents.
#[derive(Debug, Parser)]
#[command(name = "ostler", version)]
struct Arguments {
    /// Data directory; `~/.local/share/ostler` when absent.
    #[arg(long, global = true, env = "OSTLER_DATA", value_name = "DIR")]
    data: Option<PathBuf>,

    /// Print JSON for programs.
    #[arg(long, global = true)]
    json: bool,

    /// Settings file; `config.toml` in the data directory when absent.
    #[arg(long, global = true, env = "OSTLER_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,

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
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Print the settings in force, without secrets.
    Print,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: the runtime cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(run(arguments)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let Arguments {
        data,
        json,
        config,
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
            serve::serve(settings, &data).await
        }
        Command::Migrate(migrate) => {
            let store = database::open(load()?.database.as_deref(), &data, true).await?;
            let done = migrate.run(store.as_ref(), json).await;
            store.close().await;
            done
        }
        Command::Config(ConfigCommand::Print) => {
            let settings = load()?;
            if json {
                let mut value = serde_json::to_value(&settings)?;
                let shown: toml::Table = settings.redacted()?.parse()?;
                value["database"] = serde_json::to_value(shown.get("database"))?;
                println!("{value:#}");
            } else {
                print!("{}", settings.redacted()?);
            }
            Ok(())
        }
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Arguments::command(), "ostler", &mut std::io::stdout());
            Ok(())
        }
        Command::Version => {
            let version = env!("CARGO_PKG_VERSION");
            if json {
                println!("{}", serde_json::json!({ "version": version }));
            } else {
                println!("ostler {version}");
            }
            Ok(())
        }
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
