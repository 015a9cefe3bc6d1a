//! Why a call gave no result.

use std::error::Error;
use std::io;
use std::path::PathBuf;

use pontoon_api::{ErrorBody, ErrorCode};
use pontoon_kit::tls::TlsFailure;

use crate::verb::init::{GRPC_PORT, REST_PORT};

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
    /// No certificate that is shown is the one that was asked for.
    #[error(
        "none of the certificates that {url} shows has the sha256 {fingerprint}: it is another cluster's, or the cluster's \
         authority was changed since it was told (`pontoon ca rotate`); `pontoon ca status`, where somebody is logged in, \
         shows the one of now"
    )]
    Fingerprint {
        /// Who was asked.
        url: String,
        /// For what.
        fingerprint: String,
    },
    /// The address answers, but not with TLS that can be trusted.
    #[error("{}", tls_in_words(url, failure))]
    Tls {
        /// Which.
        url: String,
        /// What is the matter.
        failure: TlsFailure,
    },
    /// The address answers, but not with HTTP.
    #[error("{}", no_http_in_words(url))]
    NotHttp {
        /// Which.
        url: String,
    },
    /// Nothing answers at any address.
    #[error("no controller answers at {urls} ({reason}): is the cluster running?{}", dev_if_here(urls))]
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

/// Where all that were asked are on this machine and without TLS, as `pontoon dev` has them.
fn dev_if_here(urls: &str) -> &'static str {
    let here = |url: &str| {
        let url = reqwest::Url::parse(url).ok().filter(|url| url.scheme() == "http");
        url.is_some_and(|url| url.host_str().is_some_and(|host| host == "localhost" || host.starts_with("127.")))
    };
    if urls.split(", ").all(here) { " `pontoon dev` starts one here" } else { "" }
}

/// What does answer: most often the port beside the one that is meant.
fn no_http_in_words(url: &str) -> String {
    let ports = format!("machines join at {GRPC_PORT} and people log in at {REST_PORT} unless it was chosen otherwise");
    match url.starts_with("https://") {
        true => format!(
            "what answers at {url} speaks TLS, but not HTTP with people, as a controller does at the port of machines (gRPC): {ports}; \
             `pontoon controllers` shows both"
        ),
        false => format!(
            "what answers at {url} does not speak plain HTTP: if that controller has `rest_tls`, its URL begins with https://; if \
             this is its port of machines (gRPC), take the other ({ports}); else another program listens there"
        ),
    }
}

/// What happened in a handshake, and what to do next.
fn tls_in_words(url: &str, failure: &TlsFailure) -> String {
    let clock = "check the clock of this machine; a controller renews its certificate by itself, so if the clock is right, its \
                 own clock or its log says more";
    match failure {
        TlsFailure::UnknownAuthority | TlsFailure::NotTheAuthority { .. } => format!(
            "{url} shows a certificate that no authority known here has signed: another cluster answers there, or the \
             cluster's authority was changed (`pontoon ca rotate`) more than five times since the last command, or more than once \
             by controllers of an older version. If the address is right, ask an admin for the fingerprint that `pontoon ca status` shows, and log in anew: `pontoon login {url} \
             --fingerprint SHA256`"
        ),
        TlsFailure::Ended => format!("the certificate of {url} has ended by this machine's clock: {clock}"),
        TlsFailure::NotYet => format!("the certificate of {url} is not good yet by this machine's clock: {clock}"),
        TlsFailure::Revoked => format!("the certificate of {url} was revoked: ask another controller"),
        TlsFailure::OtherName(names) if names.is_empty() => {
            format!("the certificate of {url} is for another name: use the one that it was made for")
        }
        TlsFailure::OtherName(names) => {
            format!("the certificate of {url} is for {} only: use one of these in the URL", names.join(", "))
        }
        TlsFailure::NotTls => format!(
            "what answers at {url} does not speak TLS: if that controller has no `rest_tls`, its URL begins with http://; else \
             another program listens there"
        ),
        TlsFailure::Refused(alert) => format!(
            "{url} has ended the TLS handshake{}: the log of that controller says why",
            alert.as_str().map_or_else(String::new, |word| format!(" ({word})"))
        ),
        TlsFailure::Other(why) => format!("no TLS connection can be made with {url}: {why}"),
    }
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

    /// Whether nobody needed to be asked to know that it is wrong.
    pub fn is_wrong_usage(&self) -> bool {
        matches!(self, Self::Address { .. })
    }

    /// Whether another controller, or the same one a little later, may answer. Every call may be repeated: reads
    /// change nothing, changes carry their key, an upload is named by its content.
    pub(super) fn is_passing(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Unavailable { .. } | Self::Broken { .. })
    }

    /// Whether it is a controller's own words.
    pub(super) fn is_an_answer(&self) -> bool {
        matches!(self, Self::Unavailable { .. } | Self::Refused { .. })
    }

    /// Whether this controller will not answer, however often it is asked; another one may.
    pub(super) fn is_of_one_controller(&self) -> bool {
        matches!(self, Self::Tls { .. } | Self::NotHttp { .. })
    }

    /// From a request that had no answer; `urls` are all controllers.
    pub(super) fn of_failure(url: &str, urls: &str, error: &reqwest::Error) -> Self {
        if let Some(failure) = TlsFailure::of(error) {
            return Self::Tls { url: url.to_owned(), failure };
        }
        if is_no_http(error) {
            return Self::NotHttp { url: url.to_owned() };
        }
        let timed_out = error.is_timeout() && !error.is_connect();
        let reason = if timed_out { "it does not answer in time".to_owned() } else { innermost(error) };
        Self::Unreachable { urls: urls.to_owned(), reason }
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

/// Whether what came back cannot be read as HTTP.
fn is_no_http(error: &(dyn Error + 'static)) -> bool {
    std::iter::successors(Some(error), |error| (*error).source())
        .any(|error| error.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_parse))
}

/// The innermost cause: what the system said, without the layers that carried it.
pub(crate) fn innermost(error: &(dyn Error + 'static)) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
