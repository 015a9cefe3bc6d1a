//! Why a call gave no result.

use std::error::Error;
use std::io;
use std::path::PathBuf;

use pontoon_api::{ErrorBody, ErrorCode};

/// Why a call gave no result, in words for the person at the keyboard.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// An address that cannot be one.
    #[error("{url:?} is not the URL of a controller; write for example http://127.0.0.1:7700")]
    Address {
        /// What was given.
        url: String,
    },
    /// An address with https, and nobody whose signature counts.
    #[error(
        "the address has https, but no certificate is known that its controllers' are signed with: `pontoon login` takes it \
         with --ca FILE or --fingerprint SHA256, PONTOON_CA names a file"
    )]
    NoAuthority,
    /// A certificate that cannot be used.
    #[error("the certificate that the controllers' shall be signed with cannot be used: {why}")]
    Authority {
        /// What is wrong.
        why: String,
    },
    /// The HTTP client could not be made.
    #[error("cannot set up HTTP")]
    Setup {
        /// Why.
        source: reqwest::Error,
    },
    /// Nothing answers at any address.
    #[error("no controller answers at {urls} ({reason}): is the cluster running? `pontoon dev` starts one here")]
    Unreachable {
        /// All that were tried.
        urls: String,
        /// Why the last one failed.
        reason: String,
    },
    /// The controllers answer, but cannot serve for now, also after several tries.
    #[error("{message}")]
    Unavailable {
        /// The controller's own words.
        message: String,
    },
    /// The controller says no.
    #[error("{message}")]
    Refused {
        /// For programs.
        code: ErrorCode,
        /// The controller's own words.
        message: String,
    },
    /// An answer that is not one of ours.
    #[error("{url} answered {status} to {what}, which is not how a Pontoon controller answers: {hint}")]
    Foreign {
        /// Who.
        url: String,
        /// HTTP status.
        status: u16,
        /// Method and path.
        what: String,
        /// What may be the matter.
        hint: &'static str,
    },
    /// The connection broke while an answer was streamed.
    #[error("the connection to the controller broke: {reason}")]
    Broken {
        /// Why.
        reason: String,
    },
    /// The packed source cannot be read.
    #[error("cannot read the packed source {}", path.display())]
    Archive {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl ClientError {
    /// The controller's reason for its refusal, if it was one.
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Refused { code, .. } => Some(*code),
            Self::Unavailable { .. } => Some(ErrorCode::Unavailable),
            _ => None,
        }
    }

    /// Whether the controller said that there is no such thing.
    pub fn is_not_found(&self) -> bool {
        self.code() == Some(ErrorCode::NotFound)
    }

    /// Whether another controller, or the same one a little later, may answer. Every call may be repeated: reads
    /// change nothing, changes carry their key, an upload is named by its content.
    pub(super) fn is_passing(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Unavailable { .. } | Self::Broken { .. })
    }

    /// From an answer whose status is not a success.
    pub(super) fn of_answer(url: &str, what: &str, status: u16, body: &[u8]) -> Self {
        let Ok(ErrorBody { error }) = serde_json::from_slice(body) else {
            return match status {
                // What stands before a controller says so in its own words.
                502..=504 => Self::Unavailable { message: format!("{url} answered {status}; try again later") },
                _ => Self::Foreign {
                    url: url.to_owned(),
                    status,
                    what: what.to_owned(),
                    hint: "check the address, and that client and cluster have the same version",
                },
            };
        };
        match error.code {
            ErrorCode::Unavailable | ErrorCode::Busy => Self::Unavailable { message: error.message },
            code => Self::Refused { code, message: error.message },
        }
    }
}

/// The innermost cause: what the system said, without the layers that carried it.
pub(crate) fn innermost(error: &(dyn Error + 'static)) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
