//! Refusals as JSON, whatever refused.

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::{Method, StatusCode, Uri};
use pontoon_api::{ErrorBody, ErrorCode, ErrorDetail};
use pontoon_core::{Rejected, RejectedKind};

use crate::blobs::{BlobError, FetchError, ReplicateError};
use crate::raft::ProposeError;
use crate::sessions::LogError;
use crate::source::SourceError;

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

    pub(super) fn into_detail(self) -> ErrorDetail {
        self.0
    }

    pub(super) fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::Invalid, message)
    }

    pub(super) fn not_found(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::NotFound, message)
    }

    pub(super) fn unavailable(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::Unavailable, message)
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
        let status = StatusCode::from_u16(self.0.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (status, Json(ErrorBody { error: self.0 })).into_response()
    }
}

impl From<Rejected> for ApiError {
    fn from(rejected: Rejected) -> Self {
        let code = match rejected.kind {
            RejectedKind::NotFound => ErrorCode::NotFound,
            RejectedKind::Conflict => ErrorCode::Conflict,
            RejectedKind::Invalid => ErrorCode::Invalid,
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
            ProposeError::NoLeader { .. } | ProposeError::Busy | ProposeError::Ended { .. } => {
                Self::unavailable(format!("the change was not made: {error}; try again"))
            }
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

pub(super) async fn no_such_path(uri: Uri) -> ApiError {
    ApiError::not_found(format!("there is nothing at {}; the API's paths begin with /v1/", uri.path()))
}

pub(super) async fn no_such_method(method: Method, uri: Uri) -> Response {
    let message = format!("{} does not take {method}", uri.path());
    let mut answer = ApiError::invalid(message).into_response();
    *answer.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
    answer
}
