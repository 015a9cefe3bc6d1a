//! Refusals as JSON, whatever refused.

use axum::Json;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use http::header::RETRY_AFTER;
use http::{HeaderValue, StatusCode};
use pontoon_api::{ErrorBody, ErrorCode, ErrorDetail};
use pontoon_core::{Rejected, RejectedKind};

use super::extract::unread;
use crate::blobs::{BlobError, FetchError, ReplicateError};
use crate::raft::{ProposeError, ReadError};
use crate::sessions::LogError;
use crate::source::SourceError;

/// When to try again: an election takes a second, and a full queue drains in less.
const RETRY_AFTER_SECONDS: &str = "1";

/// A refusal.
#[derive(Debug)]
pub(super) struct ApiError(ErrorDetail);

pub(super) type ApiResult<T> = Result<T, ApiError>;

impl ApiError {
    pub(super) fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self(ErrorDetail { code, message: message.into() })
    }

    /// The same, said of a part of the request.
    pub(super) fn within(mut self, part: &str) -> Self {
        self.0.message = format!("{part}: {}", self.0.message);
        self
    }

    pub(super) fn is_conflict(&self) -> bool {
        self.0.code == ErrorCode::Conflict
    }

    pub(super) fn into_detail(self) -> ErrorDetail {
        self.0
    }

    pub(super) fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::Invalid, message)
    }

    pub(super) fn not_found(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::NotFound, message)
    }

    pub(super) fn conflict(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::Conflict, message)
    }

    pub(super) fn unavailable(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::Unavailable, message)
    }

    pub(super) fn busy(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::Busy, message)
    }

    /// A fault of ours: its cause goes to the log, not to the user.
    pub(super) fn internal(error: &dyn std::error::Error) -> Self {
        let mut chain = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            chain = format!("{chain}: {error}");
            cause = error.source();
        }
        tracing::error!(error = chain, "a request failed");
        Self::new(ErrorCode::Internal, "something went wrong in the controller; its log says what")
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let code = self.0.code;
        let status = StatusCode::from_u16(code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut answer = (status, Json(ErrorBody { error: self.0 })).into_response();
        // For the audit, which does not read bodies.
        answer.extensions_mut().insert(code);
        if matches!(code, ErrorCode::Unavailable | ErrorCode::Busy) {
            answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER_SECONDS));
        }
        answer
    }
}

impl From<Rejected> for ApiError {
    fn from(rejected: Rejected) -> Self {
        let code = match rejected.kind {
            RejectedKind::NotFound => ErrorCode::NotFound,
            RejectedKind::Conflict => ErrorCode::Conflict,
            RejectedKind::Invalid => ErrorCode::Invalid,
            RejectedKind::Expired => ErrorCode::Expired,
            RejectedKind::Busy => ErrorCode::Busy,
            RejectedKind::NeedsLevel => ErrorCode::Conflict,
        };
        Self::new(code, rejected.message)
    }
}

impl From<ProposeError> for ApiError {
    fn from(error: ProposeError) -> Self {
        match error {
            ProposeError::Rejected(rejected) => rejected.into(),
            ProposeError::TooLarge { .. } => {
                Self::new(ErrorCode::TooLarge, format!("the change was not made: {error}; split it"))
            }
            ProposeError::Encoding { .. } => Self::internal(&error),
            ProposeError::Busy => Self::busy(format!("the change was not made: {error}")),
            ProposeError::DiskFull { .. } => {
                Self::new(ErrorCode::DiskFull, format!("the change was not made: {error}"))
            }
            ProposeError::NeedsLevel { .. } => {
                Self::new(ErrorCode::Conflict, format!("the change was not made: {error}"))
            }
            ProposeError::NoLeader { .. } | ProposeError::Ended { .. } => {
                Self::unavailable(format!("it is not known that the change was made: {error}; look, or try again"))
            }
        }
    }
}

impl From<ReadError> for ApiError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::NoLeader { .. } => Self::unavailable(error.to_string()),
            ReadError::Busy => Self::busy(error.to_string()),
        }
    }
}

impl From<SourceError> for ApiError {
    fn from(error: SourceError) -> Self {
        Self::new(error.code(), error.to_string())
    }
}

impl From<BlobError> for ApiError {
    fn from(error: BlobError) -> Self {
        match error {
            BlobError::TooLarge { limit } => Self::new(
                ErrorCode::TooLarge,
                format!("the upload is larger than {limit}; list what is not source in .pontoonignore"),
            ),
            other => Self::internal(&other),
        }
    }
}

impl From<ReplicateError> for ApiError {
    fn from(error: ReplicateError) -> Self {
        Self::unavailable(error.to_string())
    }
}

impl From<FetchError> for ApiError {
    fn from(error: FetchError) -> Self {
        Self::not_found(format!("source {} is not stored; upload it first ({error})", error.digest))
    }
}

impl From<LogError> for ApiError {
    fn from(error: LogError) -> Self {
        Self::unavailable(error.to_string())
    }
}

pub(super) async fn no_such_path(request: Request) -> ApiError {
    let uri = request.uri().clone();
    unread(request.into_body()).await;
    ApiError::not_found(format!("there is nothing at {}; the API's paths begin with /v1/", uri.path()))
}

pub(super) async fn no_such_method(request: Request) -> Response {
    let (method, uri) = (request.method().clone(), request.uri().clone());
    unread(request.into_body()).await;
    let message = format!("{} does not take {method}", uri.path());
    let mut answer = ApiError::invalid(message).into_response();
    *answer.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
    answer
}
