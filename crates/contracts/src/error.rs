//! The error body, the same everywhere.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What kind of error it is. Each stands for one HTTP status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ErrorCode {
    /// 400: the request is not understood.
    InvalidRequest,
    /// 401: who asks is not known.
    Unauthorized,
    /// 403: who asks may not do this.
    Forbidden,
    /// 404: there is no such thing, or it belongs to another tenant.
    NotFound,
    /// 409: it does not fit the present state.
    Conflict,
    /// 413: the body is larger than allowed.
    TooLarge,
    /// 422: understood, but it cannot be done as asked.
    Unprocessable,
    /// 429: too many requests; try again later.
    RateLimited,
    /// 500: an error of Ostler.
    Internal,
    /// 503: something that Ostler needs is not available now.
    Unavailable,
}

impl ErrorCode {
    /// The HTTP status.
    pub const fn status(self) -> u16 {
        match self {
            Self::InvalidRequest => 400,
            Self::Unauthorized => 401,
            Self::Forbidden => 403,
            Self::NotFound => 404,
            Self::Conflict => 409,
            Self::TooLarge => 413,
            Self::Unprocessable => 422,
            Self::RateLimited => 429,
            Self::Internal => 500,
            Self::Unavailable => 503,
        }
    }
}

/// The body of every error response.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ErrorBody {
    /// The error.
    pub error: ErrorDetail,
}

/// What happened, why, and what to do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ErrorDetail {
    /// Kind of error, for programs.
    pub code: ErrorCode,
    /// For people.
    pub message: String,
    /// More, where there is more to say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub details: Option<serde_json::Value>,
    /// To find the request in the server's log.
    pub request_id: String,
}
