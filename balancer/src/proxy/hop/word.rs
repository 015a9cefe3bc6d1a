//! What balancers say to each other about a request, in one header that users neither send nor see.

use std::net::IpAddr;

use http::header::HeaderValue;
use http::{Method, StatusCode};
use pontoon_model::ServoId;

/// Nothing stands here.
const NONE: &str = "-";
/// Most servos that one request ends: a larger number is nonsense.
const MOST_KILLED: usize = 100;

/// Of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::proxy) struct Ask {
    /// Whose request it is.
    pub(in crate::proxy) client: IpAddr,
    /// Whether it came over TLS.
    pub(in crate::proxy) secure: bool,
    /// The host name of the route that it was found to be for.
    pub(in crate::proxy) route: String,
    /// Where the client's session is.
    pub(in crate::proxy) session: Option<ServoId>,
    /// Servos that it has ended already.
    pub(in crate::proxy) killed: usize,
    /// Its method and the protocol that it asks to change to: then it comes as CONNECT (RFC 8441).
    pub(in crate::proxy) upgrade: Option<(Method, String)>,
}

impl Ask {
    pub(in crate::proxy) fn to_value(&self) -> Option<HeaderValue> {
        let Self { client, secure, route, session, killed, upgrade } = self;
        let scheme = if *secure { "https" } else { "http" };
        let session = session.map_or_else(|| NONE.to_owned(), |servo| servo.0.to_string());
        let mut text = format!("{client} {scheme} {route} {session} {killed}");
        if let Some((method, protocol)) = upgrade {
            text.push_str(&format!(" {method} {protocol}"));
        }
        // Only a protocol that a client has asked for could make it none.
        HeaderValue::try_from(text).ok()
    }

    pub(in crate::proxy) fn parse(value: &HeaderValue) -> Option<Self> {
        let mut words = value.to_str().ok()?.splitn(7, ' ');
        let client = words.next()?.parse().ok()?;
        let secure = match words.next()? {
            "https" => true,
            "http" => false,
            _ => return None,
        };
        let route = words.next().filter(|route| !route.is_empty())?.to_owned();
        let session = match words.next()? {
            NONE => None,
            servo => Some(ServoId(servo.parse().ok()?)),
        };
        let killed = words.next()?.parse().ok().filter(|killed| *killed <= MOST_KILLED)?;
        let upgrade = match (words.next(), words.next()) {
            (None, None) => None,
            (Some(method), Some(protocol)) if !protocol.is_empty() => Some((method.parse().ok()?, protocol.to_owned())),
            _ => return None,
        };
        Some(Self { client, secure, route, session, killed, upgrade })
    }
}

/// Of an answer: whose it is, or why there is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::proxy) enum Verdict {
    /// A servo's answer. `status`: its own, where the connection needs another.
    Answer { servo: ServoId, status: Option<StatusCode> },
    /// A servo has changed the protocol.
    Upgraded { servo: ServoId, protocol: String },
    /// No servo saw any of it.
    Untaken,
    /// So many servos broke their connections, and what became of it is not known.
    Lost { killed: usize },
    /// As [`Self::Lost`]; the last of them did not begin to answer in time.
    TimedOut { killed: usize },
    /// The client's body did not come to its end.
    Cut,
    /// The client stopped in its body.
    Stalled,
}

impl Verdict {
    pub(in crate::proxy) fn to_value(&self) -> HeaderValue {
        let text = match self {
            Self::Answer { servo, status: None } => format!("answer {}", servo.0),
            Self::Answer { servo, status: Some(status) } => format!("answer {} {}", servo.0, status.as_u16()),
            Self::Upgraded { servo, protocol } => format!("upgraded {} {protocol}", servo.0),
            Self::Untaken => "untaken".to_owned(),
            Self::Lost { killed } => format!("lost {killed}"),
            Self::TimedOut { killed } => format!("timeout {killed}"),
            Self::Cut => "cut".to_owned(),
            Self::Stalled => "stalled".to_owned(),
        };
        // Words, numbers, and a protocol that came out of a header.
        HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static("lost 1"))
    }

    pub(in crate::proxy) fn parse(value: &HeaderValue) -> Option<Self> {
        let mut words = value.to_str().ok()?.splitn(3, ' ');
        let word = words.next()?;
        let mut number = || words.next()?.parse::<u64>().ok();
        let killed = |number: u64| usize::try_from(number).ok().filter(|killed| *killed <= MOST_KILLED);
        let verdict = match word {
            "answer" => {
                let servo = ServoId(number()?);
                let status = words.next().map(|status| StatusCode::from_bytes(status.as_bytes()));
                Self::Answer { servo, status: status.transpose().ok()? }
            }
            "upgraded" => {
                let servo = ServoId(number()?);
                Self::Upgraded { servo, protocol: words.next()?.to_owned() }
            }
            "untaken" => Self::Untaken,
            "lost" => Self::Lost { killed: killed(number()?)? },
            "timeout" => Self::TimedOut { killed: killed(number()?)? },
            "cut" => Self::Cut,
            "stalled" => Self::Stalled,
            _ => return None,
        };
        Some(verdict)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_says_the_other_reads() {
        let plain = Ask {
            client: "2001:db8::1".parse().unwrap(),
            secure: true,
            route: "shop.example".into(),
            session: None,
            killed: 0,
            upgrade: None,
        };
        let upgrade = Some((Method::GET, "websocket, other/1".to_owned()));
        let full = Ask { session: Some(ServoId(u64::MAX)), killed: 2, upgrade, secure: false, ..plain.clone() };
        for ask in [plain, full] {
            assert_eq!(Ask::parse(&ask.to_value().unwrap()), Some(ask));
        }
        let servo = ServoId(7);
        for verdict in [
            Verdict::Answer { servo, status: None },
            Verdict::Answer { servo, status: Some(StatusCode::OK) },
            Verdict::Upgraded { servo, protocol: "websocket, other/1".into() },
            Verdict::Untaken,
            Verdict::Lost { killed: 3 },
            Verdict::TimedOut { killed: 1 },
            Verdict::Cut,
            Verdict::Stalled,
        ] {
            assert_eq!(Verdict::parse(&verdict.to_value()), Some(verdict));
        }
    }

    #[test]
    fn what_is_not_said_so_is_nothing() {
        let value = |text: &str| HeaderValue::try_from(text).unwrap();
        for text in [
            "",
            "probe",
            "10.0.0.1",
            "10.0.0.1 ftp a - 0",
            "host http a - 0",
            "10.0.0.1 http  - 0",
            "10.0.0.1 http a x 0",
            "10.0.0.1 http a - 101",
            "10.0.0.1 http a - -1",
            "10.0.0.1 http a - 0 GET",
            "10.0.0.1 http a - 0 GET ",
            "10.0.0.1 http a - 0 ",
        ] {
            assert_eq!(Ask::parse(&value(text)), None, "{text:?}");
        }
        for text in ["", "answer", "answer x", "answer 1 abc", "upgraded 1", "lost", "lost 1000", "untakenn"] {
            assert_eq!(Verdict::parse(&value(text)), None, "{text:?}");
        }
    }
}
