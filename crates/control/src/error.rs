//! What a use case may answer instead of a result.

use ostler_agents::AgentError;
use ostler_contracts::{ErrorCode, PlanMistake, PlanMistakes};
use ostler_domain::{IllegalTransition, Permission};
use ostler_forge::ForgeError;
use ostler_plans::PlanErrors;
use ostler_store::StoreError;

/// The result of a use case.
pub type Result<T, E = ControlError> = std::result::Result<T, E>;

/// What a use case may answer instead of a result. [`ControlError::code`] says which kind of error it is.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// There is no such thing, or it belongs to another tenant: which of the two is not told.
    #[error("there is no {what} {id}")]
    NotFound {
        /// Kind of object.
        what: &'static str,
        /// The id that was asked for.
        id: String,
    },
    /// Who asks is not known.
    #[error("{0}")]
    Unauthorized(String),
    /// The caller may not do this.
    #[error("this needs the permission {0}, which the token does not have")]
    Forbidden(Permission),
    /// The request cannot be meant like this.
    #[error("{0}")]
    Invalid(String),
    /// It does not fit the present state.
    #[error("{0}")]
    Conflict(String),
    /// It is understood, but cannot be done as asked.
    #[error("{0}")]
    Unprocessable(String),
    /// A plan of tests that cannot be taken, and where in its text the reasons are.
    #[error("{}", listed(.0))]
    Plan(PlanMistakes, PlanFault),
    /// More than is allowed.
    #[error("{0}")]
    TooLarge(String),
    /// Something that is needed is not available now.
    #[error("{0}")]
    Unavailable(String),
    /// From the state machines.
    #[error(transparent)]
    Transition(#[from] IllegalTransition),
    /// From the store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// From git and the local forge.
    #[error(transparent)]
    Forge(#[from] ForgeError),
    /// From an agent kind or a prompt.
    #[error(transparent)]
    Agent(#[from] AgentError),
}

/// In which way a plan of tests is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlanFault {
    /// Its text is not that of a plan.
    Text,
    /// It is one, but cannot be carried out here.
    Impossible,
}

/// The mistakes of a plan, one a line.
fn listed(mistakes: &PlanMistakes) -> String {
    let mut lines: Vec<String> = mistakes.errors.iter().map(mistake).collect();
    if mistakes.more {
        lines.push("there may be more problems; these come first".to_owned());
    }
    lines.join("\n")
}

fn mistake(mistake: &PlanMistake) -> String {
    let place = match (mistake.line, mistake.path.as_str()) {
        (0, "") => String::new(),
        (0, path) => format!("{path}: "),
        (line, "") => format!("line {line}, column {}: ", mistake.column),
        (line, path) => format!("line {line}, column {}: {path}: ", mistake.column),
    };
    let suggestion = mistake.suggestion.iter().map(|text| format!("; {text}"));
    format!("{place}{}{}", mistake.message, suggestion.collect::<String>())
}

impl From<PlanErrors> for ControlError {
    fn from(wrong: PlanErrors) -> Self {
        let errors = wrong.errors.into_iter().map(|error| PlanMistake {
            line: error.line,
            column: error.column,
            path: error.path,
            message: error.message,
            suggestion: error.suggestion,
        });
        let mistakes = PlanMistakes {
            errors: errors.collect(),
            more: wrong.more,
        };
        Self::Plan(mistakes, PlanFault::Text)
    }
}

impl ControlError {
    /// More about it, for programs.
    pub fn details(&self) -> Option<serde_json::Value> {
        match self {
            Self::Plan(mistakes, _) => serde_json::to_value(mistakes).ok(),
            _ => None,
        }
    }

    /// Which kind of error it is.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::NotFound { .. } => ErrorCode::NotFound,
            Self::Unauthorized(_) => ErrorCode::Unauthorized,
            Self::Forbidden(_) => ErrorCode::Forbidden,
            Self::Conflict(_) | Self::Transition(_) => ErrorCode::Conflict,
            Self::TooLarge(_) => ErrorCode::TooLarge,
            Self::Unavailable(_) => ErrorCode::Unavailable,
            Self::Store(error) => store_code(error),
            Self::Forge(error) => forge_code(error),
            Self::Invalid(_)
            | Self::Plan(_, PlanFault::Text)
            | Self::Agent(AgentError::UnknownKind { .. }) => ErrorCode::InvalidRequest,
            Self::Unprocessable(_) | Self::Plan(_, PlanFault::Impossible) | Self::Agent(_) => {
                ErrorCode::Unprocessable
            }
        }
    }
}

fn store_code(error: &StoreError) -> ErrorCode {
    match error {
        StoreError::Conflict { .. } | StoreError::Duplicate { .. } | StoreError::Reference { .. } => {
            ErrorCode::Conflict
        }
        StoreError::Unavailable { .. } | StoreError::Full { .. } => ErrorCode::Unavailable,
        StoreError::Corrupt { .. } | StoreError::Schema { .. } | StoreError::Engine { .. } => {
            ErrorCode::Internal
        }
    }
}

fn forge_code(error: &ForgeError) -> ErrorCode {
    match error {
        ForgeError::InvalidName { .. } | ForgeError::InvalidSource { .. } => ErrorCode::InvalidRequest,
        ForgeError::AlreadyCloned { .. } | ForgeError::Diverged { .. } | ForgeError::BranchInUse { .. } => {
            ErrorCode::Conflict
        }
        ForgeError::NotARepository { .. }
        | ForgeError::EmptyRepository { .. }
        | ForgeError::NoDefaultBranch { .. }
        | ForgeError::AccessRefused { .. }
        | ForgeError::ProjectFile(_)
        | ForgeError::UnknownRevision { .. } => ErrorCode::Unprocessable,
        ForgeError::Unreachable { .. }
        | ForgeError::GitMissing { .. }
        | ForgeError::GitTimedOut { .. }
        | ForgeError::DiskFull { .. }
        | ForgeError::Contended { .. }
        | ForgeError::Busy { .. } => ErrorCode::Unavailable,
        _ => ErrorCode::Internal,
    }
}
