//! The codes that commands end with.

use ostler_contracts::{ErrorCode, RunView};
use ostler_domain::RunStatus;

/// The codes that commands end with, as the help shows them.
///
/// `0` is success. `1` says that the thing asked about failed: a followed run without a code of its own, a task whose
/// planning failed. `2` is a mistake in the command line or in the request. `3` says that something is not there, `4`
/// that it was refused, `5` that the server cannot be reached or cannot serve at present.
pub const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  the thing asked about failed, or an error of Ostler
  2  a mistake in the command line or in a value
  3  there is no such thing
  4  refused: sign-in, permission, or it does not fit the present state
  5  the server cannot be reached, or cannot serve at present
  `run submit -f` and `agent exec` end with the program's own code;
  124: timed out, 130: cancelled, 128 + n: ended by signal n";

/// A code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Exit(pub(crate) u8);

impl Exit {
    pub(crate) const OK: Self = Self(0);
    pub(crate) const FAILED: Self = Self(1);
    pub(crate) const USAGE: Self = Self(2);
    pub(crate) const NOT_FOUND: Self = Self(3);
    pub(crate) const REFUSED: Self = Self(4);
    pub(crate) const UNAVAILABLE: Self = Self(5);
    pub(crate) const TIMED_OUT: Self = Self(124);
    pub(crate) const CANCELLED: Self = Self(130);

    pub(crate) const fn of_error(code: ErrorCode) -> Self {
        match code {
            ErrorCode::InvalidRequest => Self::USAGE,
            ErrorCode::NotFound => Self::NOT_FOUND,
            ErrorCode::Unauthorized
            | ErrorCode::Forbidden
            | ErrorCode::Conflict
            | ErrorCode::TooLarge
            | ErrorCode::Unprocessable => Self::REFUSED,
            ErrorCode::RateLimited | ErrorCode::Unavailable => Self::UNAVAILABLE,
            ErrorCode::Internal => Self::FAILED,
        }
    }

    /// The code of a program that ended by itself or by a signal; [`Self::FAILED`] when neither is known.
    pub(crate) fn of_program(exit_code: Option<i32>, signal: Option<i32>) -> Self {
        match (exit_code, signal) {
            (Some(code), _) => u8::try_from(code).map_or(Self::FAILED, Self),
            (None, Some(signal)) => u8::try_from(signal.saturating_add(128)).map_or(Self::FAILED, Self),
            (None, None) => Self::FAILED,
        }
    }

    /// The code of a run that has ended.
    pub(crate) fn of_run(run: &RunView) -> Self {
        match run.status {
            RunStatus::Succeeded => Self::OK,
            RunStatus::TimedOut => Self::TIMED_OUT,
            RunStatus::Cancelled => Self::CANCELLED,
            RunStatus::Failed => match Self::of_program(run.exit_code, run.signal) {
                // The program ended well, and yet the run failed: by something around it.
                Self::OK => Self::FAILED,
                code => code,
            },
            RunStatus::Lost | RunStatus::Skipped | RunStatus::Queued | RunStatus::Running => Self::FAILED,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_without_a_usable_code_has_failed() {
        for (code, signal, wanted) in [
            (Some(0), None, 0),
            (Some(3), None, 3),
            (None, Some(9), 137),
            (None, None, 1),
            (Some(-1), None, 1),
            (Some(256), None, 1),
        ] {
            assert_eq!(Exit::of_program(code, signal).0, wanted, "{code:?} {signal:?}");
        }
    }
}
