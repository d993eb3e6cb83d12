//! Agent kinds: command, session resume, parsing of output into events, usage and result; prompts.
//!
//! An agent is a program that Ostler does not control: it may print anything, in any amount, end in any way and claim
//! success wrongly. So everything read from it is bounded, nothing in its output can make a parser fail, and success is
//! decided from its own last word and its exit together. This crate starts nothing: it makes a command and reads bytes.

mod body;
mod claude;
mod command;
mod error;
mod event;
mod kind;
mod lines;
mod parser;
mod prompts;
mod registry;
mod report;
mod result_block;

pub use body::{IssueBody, split_body};
pub use claude::Claude;
pub use command::CommandAgent;
pub use error::AgentError;
pub use event::{AgentEvent, MAX_EVENT_TEXT, Role};
pub use kind::{AgentInvocation, AgentKind, ApiAccess, ModelApi, is_session_id};
pub use lines::MAX_LINE;
pub use parser::OutputParser;
pub use prompts::{FeedbackPrompt, PlannerPrompt, Prompts, WorkerPrompt};
pub use registry::{KindSettings, Kinds};
pub use report::{AgentExit, AgentReport};
pub use result_block::{MAX_RESULT_BLOCK, ResultBlockError};
