//! Answers of the balancer itself. Plain text: they are read in terminals and logs as often as in browsers.

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER};
use http::{Response, StatusCode};

use super::authority::BadTarget;

/// Says that the answer is the balancer's own, and which; apps' answers pass as they are.
const X_PONTOON_ERROR: HeaderName = HeaderName::from_static("x-pontoon-error");
/// Seconds: servos of a deployment or restart are ready within a few.
const RETRY_AFTER_SECONDS: &str = "2";

/// An answer of our own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Page {
    /// The request cannot be routed.
    BadTarget(BadTarget),
    /// The client did not send the body it announced.
    BodyCut,
    /// No app has this host name.
    UnknownHost(String),
    /// The app has no servo.
    NoServo { host: String, reason: String },
    /// No servo could be reached; none saw the request.
    Unreachable { host: String, tried: usize },
    /// The connection to a servo broke after the request was sent.
    Broken { host: String },
    /// A servo did not begin to answer in time.
    TimedOut { host: String, seconds: u64 },
    /// A servo agreed to a change of protocol that nobody asked for.
    UnaskedUpgrade { host: String },
}

impl Page {
    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::BadTarget(_) | Self::BodyCut => StatusCode::BAD_REQUEST,
            Self::UnknownHost(_) => StatusCode::NOT_FOUND,
            Self::NoServo { .. } | Self::Unreachable { .. } => StatusCode::SERVICE_UNAVAILABLE,
            Self::Broken { .. } | Self::UnaskedUpgrade { .. } => StatusCode::BAD_GATEWAY,
            Self::TimedOut { .. } => StatusCode::GATEWAY_TIMEOUT,
        }
    }

    fn word(&self) -> &'static str {
        match self {
            Self::BadTarget(_) | Self::BodyCut => "bad-request",
            Self::UnknownHost(_) => "unknown-host",
            Self::NoServo { .. } => "no-servo",
            Self::Unreachable { .. } => "unreachable",
            Self::Broken { .. } => "broken",
            Self::TimedOut { .. } => "timeout",
            Self::UnaskedUpgrade { .. } => "unasked-upgrade",
        }
    }

    fn text(&self) -> String {
        match self {
            Self::BadTarget(why) => format!("The request cannot be routed: {why}.\n"),
            Self::BodyCut => "The request's body ended before it was complete.\n".into(),
            Self::UnknownHost(host) => format!(
                "No app answers for {host} here.\n\nIf it is yours: `pontoon routes` lists the host names that have an app, \
                 `pontoon app list` the apps.\n"
            ),
            Self::NoServo { host, reason } if reason.is_empty() => {
                format!("{host} has no running servo at the moment.\n\n`pontoon ps` shows its servos.\n")
            }
            Self::NoServo { host, reason } => format!("{host} cannot answer now: {reason}\n"),
            Self::Unreachable { host, tried } => format!(
                "{host} cannot answer now: {tried} servo(s) tried, none could be reached. The request was not processed; \
                 try again.\n"
            ),
            Self::Broken { host } => format!(
                "A servo of {host} closed the connection before it answered. The request may have been processed, so it \
                 was not sent again.\n"
            ),
            Self::TimedOut { host, seconds } => {
                format!("A servo of {host} did not begin to answer within {seconds} s.\n")
            }
            Self::UnaskedUpgrade { host } => format!("A servo of {host} changed the protocol without being asked.\n"),
        }
    }

    /// As a response.
    pub(super) fn into_response(self) -> Response<Bytes> {
        let mut response = Response::new(Bytes::from(self.text()));
        *response.status_mut() = self.status();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(X_PONTOON_ERROR, HeaderValue::from_static(self.word()));
        if self.status() == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER_SECONDS));
        }
        response
    }
}
