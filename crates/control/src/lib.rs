//! Use cases and reconcilers: the only place where stores, repositories, agents and sandboxes meet.
//!
//! A use case authorises its [`Caller`], reads, decides, and commits a list of changes guarded by the versions that it
//! read. What must go on by itself (a task after its planner ended, a subtask after its checks) is not a chain of
//! callbacks: [`Control::settle_task`] and [`Control::settle_subtask`] look at what is stored and do the next step, and
//! may be called at any time, any number of times, by anybody. A server that was killed between two steps goes on by
//! settling again.

mod access;
mod agents;
mod artifacts;
mod audit;
mod conflict;
mod context;
mod credentials;
mod error;
mod executor;
mod guest;
mod hosts;
mod images;
mod issues;
mod logs;
mod merge_requests;
mod plans;
mod probe;
mod projects;
mod reconcilers;
mod runs;
mod sandboxes;
mod scheduling;
mod settings;
mod status;
mod subtasks;
mod tasks;
mod work;

pub use access::{Caller, NewSecret, NewToken, NewUser, UserChange};
pub use agents::{
    AgentCommand, AgentFile, AgentOutput, AgentProgram, AgentTerminal, AgentUpload, Keyboard, MAX_EXEC,
    NewAgent, NewTerminal,
};
pub use audit::AuditQuery;
pub use context::{Control, Parts};
pub use credentials::Rotation;
pub use error::{ControlError, PlanFault, Result};
pub use executor::{AgentServices, Executor, ExecutorSettings};
pub use hosts::{DriverHost, Drivers, LOCAL};
pub use images::{ImageSettings, Images};
pub use issues::{ToolCall, ToolReply};
pub use logs::{LogReader, LogRecord, LogStore, LogStream, LogWriter};
pub use merge_requests::BranchDiff;
pub use plans::{CaseQuery, MAX_PLAN, PlanChoices, PlanFormat, PlanQuery, TestIdentity, TestQuery};
pub use projects::Cleanup;
pub use runs::NewCommand;
pub use sandboxes::{Claimed, Counts, Holder, Phase, PoolChange};
pub use settings::{SandboxSettings, SchedulerSettings, WorkSettings};
pub use tasks::NewTask;
