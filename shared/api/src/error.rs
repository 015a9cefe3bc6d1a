//! How a refusal looks.

use serde::{Deserialize, Serialize};

/// The body of every 4xx and 5xx answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// What happened.
    pub error: ErrorDetail,
}

/// One refusal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorDetail {
    /// For programs.
    pub code: ErrorCode,
    /// For people: what happened, why, and what to do next.
    pub message: String,
}

/// Kinds of refusals; each has one HTTP status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// 400: the request itself is wrong.
    Invalid,
    /// 401: no token, or not a valid one.
    Unauthorized,
    /// 403: the token is valid, and this is not in its scopes.
    Forbidden,
    /// 404: there is no such thing.
    NotFound,
    /// 409: it clashes with what is.
    Conflict,
    /// 413: more bytes than allowed.
    TooLarge,
    /// 422: the uploaded source cannot be used.
    BadSource,
    /// 503: no leader, or the state is not as new as asked for; try again after `Retry-After` seconds.
    Unavailable,
    /// 503: overloaded, and nothing was changed; try again after `Retry-After` seconds.
    Busy,
    /// 507: a disk is full, and nothing was changed; what is there can be read.
    DiskFull,
    /// 409: a retry so late that it is not known whether the first try was applied; look before you repeat it.
    Expired,
    /// 410: these events are no longer held; the message and the `Pontoon-Oldest` header say from where one can go on.
    Compacted,
    /// 429: too many wrong tokens came from this address; try again after `Retry-After` seconds.
    TooManyFailures,
    /// 500: a fault of ours.
    Internal,
}

impl ErrorCode {
    /// Its HTTP status.
    pub fn status(self) -> u16 {
        match self {
            Self::Invalid => 400,
            Self::Unauthorized => 401,
            Self::Forbidden => 403,
            Self::NotFound => 404,
            Self::Conflict => 409,
            Self::TooLarge => 413,
            Self::BadSource => 422,
            Self::Unavailable | Self::Busy => 503,
            Self::DiskFull => 507,
            Self::Expired => 409,
            Self::Compacted => 410,
            Self::TooManyFailures => 429,
            Self::Internal => 500,
        }
    }
}
