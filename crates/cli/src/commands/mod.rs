//! The commands, one folder per noun and one file per verb.

mod agent;
mod audit;
mod credential;
mod department;
mod image;
mod kinds;
mod pool;
mod project;
mod role;
mod run;
mod sandbox;
mod snapshot;
mod subtask;
mod task;
mod tenant;
mod test;
mod token;
mod user;

use crate::context::{Context, Session};
use crate::error::CliError;
use crate::exit::Exit;
use crate::output::Output;
use clap::Subcommand;
use std::process::ExitCode;

/// How a command ends.
type Outcome = Result<Exit, CliError>;

/// The commands that talk to a server.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Projects: the repositories that are worked on.
    #[command(subcommand)]
    Project(project::Project),
    /// Tasks: what is wanted, in words.
    #[command(subcommand)]
    Task(task::Task),
    /// Subtasks: the pieces of a task that agents do.
    #[command(subcommand)]
    Subtask(subtask::Subtask),
    /// Runs: everything that is executed.
    #[command(subcommand)]
    Run(run::Run),
    /// Tests: plans of them, their results and their history.
    #[command(subcommand)]
    Test(test::Test),
    /// Agents: sandboxes of your own.
    #[command(subcommand)]
    Agent(agent::Agent),
    /// Sandboxes, as the operator sees them.
    #[command(subcommand)]
    Sandbox(sandbox::Sandbox),
    /// Pools of sandboxes.
    #[command(subcommand)]
    Pool(pool::Pool),
    /// Images that sandboxes are started from.
    #[command(subcommand)]
    Image(image::Image),
    /// Snapshots of agents, from which pools start.
    #[command(subcommand)]
    Snapshot(snapshot::Snapshot),
    /// List the agent kinds.
    Kinds(kinds::Kinds),
    /// API tokens.
    #[command(subcommand)]
    Token(token::Token),
    /// Tenants: who shares this server, each invisible to the others.
    #[command(subcommand)]
    Tenant(tenant::Tenant),
    /// Departments of the tenant.
    #[command(subcommand)]
    Department(department::Department),
    /// Users of the tenant.
    #[command(subcommand)]
    User(user::User),
    /// Roles: named sets of permissions.
    #[command(subcommand)]
    Role(role::Role),
    /// Stored secrets, encrypted.
    #[command(subcommand)]
    Credential(credential::Credential),
    /// The audit log: who did what.
    #[command(subcommand)]
    Audit(audit::Audit),
}

/// Executes a command and says how it ended; what there is to say about an error has been said on standard error.
pub async fn run(command: Command, context: Context) -> ExitCode {
    let out = Output::new(context.json);
    let outcome = match Session::open(&context, out) {
        Ok(session) => dispatch(command, &session).await,
        Err(error) => Err(error),
    };
    let code = match outcome {
        Ok(code) => code,
        Err(error) => {
            match error {
                CliError::ClosedPipe => {}
                _ if context.json => out.note(&error.as_json().to_string()),
                _ => out.note(&error.as_text()),
            }
            error.exit()
        }
    };
    ExitCode::from(code.0)
}

async fn dispatch(command: Command, session: &Session) -> Outcome {
    match command {
        Command::Project(project) => project.run(session).await,
        Command::Task(task) => task.run(session).await,
        Command::Subtask(subtask) => subtask.run(session).await,
        Command::Run(run) => run.run(session).await,
        Command::Test(test) => test.run(session).await,
        Command::Agent(agent) => agent.run(session).await,
        Command::Sandbox(sandbox) => sandbox.run(session).await,
        Command::Pool(pool) => pool.run(session).await,
        Command::Image(image) => image.run(session).await,
        Command::Snapshot(snapshot) => snapshot.run(session).await,
        Command::Kinds(kinds) => kinds.run(session).await,
        Command::Token(token) => token.run(session).await,
        Command::Tenant(tenant) => tenant.run(session).await,
        Command::Department(department) => department.run(session).await,
        Command::User(user) => user.run(session).await,
        Command::Role(role) => role.run(session).await,
        Command::Credential(credential) => credential.run(session).await,
        Command::Audit(audit) => audit.run(session).await,
    }
}

/// Declares a noun: its verbs, each a type of the file of its name with a method `run`.
macro_rules! noun {
    ($noun:ident { $($(#[$doc:meta])* $verb:ident($module:ident),)* }) => {
        $(mod $module;)*

        /// What to do.
        #[derive(Debug, clap::Subcommand)]
        pub enum $noun {
            $($(#[$doc])* $verb(Box<$module::$verb>),)*
        }

        impl $noun {
            pub(super) async fn run(self, session: &crate::context::Session) -> super::Outcome {
                match self {
                    $(Self::$verb(verb) => verb.run(session).await,)*
                }
            }
        }
    };
}
use noun;
