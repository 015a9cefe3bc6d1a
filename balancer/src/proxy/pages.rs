//! Answers of the balancer itself. Plain text: they are read in terminals and logs as often as in browsers.

use std::time::Duration;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue, LOCATION, RETRY_AFTER};
use http::{Response, StatusCode};
use pontoon_model::Traffic;

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
    /// The client stopped in the middle of its body.
    BodyStalled,
    /// No app has this host name.
    UnknownHost(String),
    /// The app has no servo.
    NoServo { host: String, reason: String },
    /// No servo could be reached; none saw the request.
    Unreachable { host: String, tried: usize },
    /// The connections to so many servos broke after the request was sent.
    Broken { host: String, servos: usize },
    /// All servos have as many requests as they may, or too many wait for one.
    Crowded { host: String },
    /// This balancer can make no connection more.
    NoRoom,
    /// The app says so.
    Maintenance { host: String },
    /// The app takes requests over TLS only.
    UseHttps { location: String },
    /// The client sends more requests than the app takes of one address.
    TooMany { wait: Duration },
    /// The request's target and headers are larger than the app takes.
    HeadTooLarge { most: u32 },
    /// Its body is.
    BodyTooLarge { most: u64 },
    /// A servo did not begin to answer in time.
    TimedOut { host: String, millis: u32 },
    /// A servo agreed to a change of protocol that nobody asked for.
    UnaskedUpgrade { host: String },
}

impl Page {
    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::BadTarget(_) | Self::BodyCut => StatusCode::BAD_REQUEST,
            Self::BodyStalled => StatusCode::REQUEST_TIMEOUT,
            Self::UnknownHost(_) => StatusCode::NOT_FOUND,
            Self::NoServo { .. }
            | Self::Unreachable { .. }
            | Self::Crowded { .. }
            | Self::NoRoom
            | Self::Maintenance { .. } => StatusCode::SERVICE_UNAVAILABLE,
            // Keeps the method and the body, unlike 301 and 302.
            Self::UseHttps { .. } => StatusCode::PERMANENT_REDIRECT,
            Self::TooMany { .. } => StatusCode::TOO_MANY_REQUESTS,
            Self::HeadTooLarge { .. } => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::BodyTooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Broken { .. } | Self::UnaskedUpgrade { .. } => StatusCode::BAD_GATEWAY,
            Self::TimedOut { .. } => StatusCode::GATEWAY_TIMEOUT,
        }
    }

    fn word(&self) -> &'static str {
        match self {
            Self::BadTarget(_) | Self::BodyCut => "bad-request",
            Self::BodyStalled => "body-stalled",
            Self::UnknownHost(_) => "unknown-host",
            Self::NoServo { .. } => "no-servo",
            Self::Unreachable { .. } => "unreachable",
            Self::Broken { .. } => "broken",
            Self::Crowded { .. } => "crowded",
            Self::NoRoom => "no-room",
            Self::Maintenance { .. } => "maintenance",
            Self::UseHttps { .. } => "use-https",
            Self::TooMany { .. } => "too-many-requests",
            Self::HeadTooLarge { .. } => "head-too-large",
            Self::BodyTooLarge { .. } => "body-too-large",
            Self::TimedOut { .. } => "timeout",
            Self::UnaskedUpgrade { .. } => "unasked-upgrade",
        }
    }

    fn text(&self) -> String {
        match self {
            Self::BadTarget(why) => format!("The request cannot be routed: {why}.\n"),
            Self::BodyCut => "The request's body ended before it was complete.\n".into(),
            Self::BodyStalled => "Nothing came of the rest of the request's body for too long.\n".into(),
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
            Self::Broken { host, servos: 0 | 1 } => format!(
                "A servo of {host} closed the connection before it answered. The request may have been processed, so it \
                 was not sent again.\n"
            ),
            Self::Broken { host, servos } => format!(
                "{servos} servos of {host} closed the connection before they answered. The request was not sent to another.\n"
            ),
            Self::Crowded { host } => {
                format!("{host} has too many requests at the moment; this one was not processed. Try again.\n")
            }
            Self::NoRoom => {
                "This balancer has too many connections at the moment; the request was not processed. Try again.\n"
                    .into()
            }
            Self::Maintenance { host } => format!("{host} is in maintenance.\n"),
            Self::UseHttps { location } => format!("This app is reached at {location}\n"),
            Self::TooMany { wait } => {
                format!("Too many requests came from your address. Try again in {} s.\n", wait.as_secs())
            }
            Self::HeadTooLarge { most } => {
                format!("The request's target and headers are larger than {most} bytes, which is the most here.\n")
            }
            Self::BodyTooLarge { most } => {
                format!("The request's body is larger than {most} bytes, which is the most here.\n")
            }
            Self::TimedOut { host, millis } => {
                format!("A servo of {host} did not begin to answer within {} s.\n", f64::from(*millis) / 1_000.0)
            }
            Self::UnaskedUpgrade { host } => format!("A servo of {host} changed the protocol without being asked.\n"),
        }
    }

    /// The app's own page for this case, if it has one.
    fn own<'a>(&self, traffic: Option<&'a Traffic>) -> Option<&'a str> {
        let page = match (self, traffic?) {
            (Self::Maintenance { .. }, traffic) => &traffic.maintenance_page,
            (page, traffic) if page.status().is_server_error() => &traffic.error_page,
            _ => return None,
        };
        (!page.is_empty()).then_some(page)
    }

    /// As a response; `traffic` is that of the app that was asked for.
    pub(super) fn into_response(self, traffic: Option<&Traffic>) -> Response<Bytes> {
        let (kind, text) = match self.own(traffic) {
            Some(page) => ("text/html; charset=utf-8", Bytes::copy_from_slice(page.as_bytes())),
            None => ("text/plain; charset=utf-8", Bytes::from(self.text())),
        };
        let mut response = Response::new(text);
        *response.status_mut() = self.status();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(X_PONTOON_ERROR, HeaderValue::from_static(self.word()));
        match &self {
            Self::TooMany { wait } => {
                headers.insert(RETRY_AFTER, HeaderValue::from(wait.as_secs()));
            }
            // The host was checked, and the path came out of a target.
            Self::UseHttps { location } => {
                if let Ok(location) = HeaderValue::try_from(location) {
                    headers.insert(LOCATION, location);
                }
            }
            _ if self.status() == StatusCode::SERVICE_UNAVAILABLE => {
                headers.insert(RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER_SECONDS));
            }
            _ => {}
        }
        response
    }
}
