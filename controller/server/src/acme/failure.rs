//! Why there is no certificate, in sentences that say what to do.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use instant_acme::{Error as AcmeError, Problem};
use pontoon_core::certificates::wait_after;
use pontoon_model::ChallengeKind;

use crate::error::with_causes;
use crate::raft::ProposeError;

/// After what was nobody's fault: an authority that cannot be reached, no balancer.
const FIRST_WAIT: Duration = Duration::from_secs(15);
/// Then twice as long each time, up to this: whoever has mended it does not wait for long.
const LONGEST_WAIT: Duration = Duration::from_secs(3600);
/// An authority that says only that there were too many orders, and not for how long.
const BUSY: Duration = Duration::from_secs(3600);
/// Longest text of an authority that is kept: they are pages at times.
const MOST_TEXT: usize = 600;

/// Problems of an authority, as RFC 8555 names them.
const URN: &str = "urn:ietf:params:acme:error:";

/// Why an order, or the making of an account, has failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// The authority looked, and did not find what it should.
    Unproven {
        /// Each way, and what it says.
        tried: Vec<(ChallengeKind, Problem)>,
    },
    /// The authority will not.
    Refused(Problem),
    /// The authority cannot be reached, or what it says makes no sense.
    Authority {
        /// Why.
        why: String,
    },
    /// No balancer is connected to any controller, so nobody would answer.
    NoBalancer,
    /// The order took too long.
    Slow,
    /// Something of this controller's own.
    Here {
        /// In a sentence.
        why: String,
    },
    /// What was decided could not be written; the next leader goes on.
    Unwritten(ProposeError),
}

impl From<AcmeError> for Failure {
    fn from(error: AcmeError) -> Self {
        match error {
            AcmeError::Api(problem) => Self::Refused(problem),
            AcmeError::Timeout(_) => Self::Slow,
            AcmeError::Other(error) => Self::Authority { why: with_causes(error.as_ref()) },
            error => Self::Authority { why: with_causes(&error) },
        }
    }
}

impl From<ProposeError> for Failure {
    fn from(error: ProposeError) -> Self {
        Self::Unwritten(error)
    }
}

impl From<rcgen::Error> for Failure {
    fn from(error: rcgen::Error) -> Self {
        Self::Here { why: format!("a key or a request for a certificate cannot be made: {error}") }
    }
}

impl Failure {
    /// How long not to try again, after so many failures in a row, if the authority has said `wish`.
    pub(super) fn wait(&self, failures: u32, wish: Option<Duration>) -> Duration {
        let own = match self {
            Self::Unproven { .. } => wait_after(failures),
            Self::Refused(problem) if is(problem, "rateLimited") => wish.unwrap_or(BUSY),
            Self::Refused(_) => wait_after(failures),
            _ => FIRST_WAIT.saturating_mul(2u32.saturating_pow(failures.saturating_sub(1))).min(LONGEST_WAIT),
        };
        own.max(wish.unwrap_or_default())
    }

    /// How long the authority wants nothing else either.
    pub(super) fn pause(&self, wish: Option<Duration>) -> Option<Duration> {
        match self {
            Self::Refused(problem) if is(problem, "rateLimited") => Some(wish.unwrap_or(BUSY)),
            _ => wish,
        }
    }

    /// Whether the authority does not know the account (any more).
    pub(super) fn is_unknown_account(&self) -> bool {
        matches!(self, Self::Refused(problem) if is(problem, "accountDoesNotExist"))
    }

    /// What went wrong with `host`, and what to do; `balancers` are their addresses.
    pub(super) fn explain(&self, host: &str, balancers: &[IpAddr]) -> String {
        let text = match self {
            Self::Unproven { tried } => unproven(host, tried, balancers),
            Self::Refused(problem) => refused(problem),
            Self::Authority { why } => format!(
                "the ACME directory cannot be reached or does not answer as it should: {why}; see whether the controllers may \
                 connect to it, and whether its URL is right (`pontoon acme show`)"
            ),
            Self::NoBalancer => format!(
                "no balancer is connected, so nobody would answer when the authority looks at {host}; start one, `pontoon \
                 balancers` shows them"
            ),
            Self::Slow => "the authority took too long to look, or to make the certificate".to_owned(),
            Self::Here { why } => why.clone(),
            Self::Unwritten(error) => error.to_string(),
        };
        shortened(text)
    }
}

fn is(problem: &Problem, kind: &str) -> bool {
    problem.r#type.as_deref().and_then(|text| text.strip_prefix(URN)) == Some(kind)
}

/// Whether the other way may succeed where this one has failed: what is wrong with the name itself is so for both.
pub(super) fn other_way_may_do(problem: &Problem) -> bool {
    ["connection", "unauthorized", "incorrectResponse", "tls", "serverInternal"].iter().any(|kind| is(problem, kind))
}

fn unproven(host: &str, tried: &[(ChallengeKind, Problem)], balancers: &[IpAddr]) -> String {
    let addresses = match balancers {
        [] => "the balancers' addresses".to_owned(),
        some => {
            let texts: Vec<String> = some.iter().map(ToString::to_string).collect();
            format!("the balancers ({}, or their public addresses)", texts.join(", "))
        }
    };
    let said: Vec<String> = tried
        .iter()
        .map(|(kind, problem)| {
            let way = match kind {
                ChallengeKind::Http01 => "on port 80",
                ChallengeKind::TlsAlpn01 => "on port 443",
            };
            format!("{way}: {}", words(problem))
        })
        .collect();
    let any = |kind: &str| tried.iter().any(|(_, problem)| is(problem, kind));
    let advice = if any("dns") {
        format!("the DNS has no usable address for {host}: let it lead to {addresses}")
    } else if any("caa") {
        format!(
            "a CAA record in the DNS forbids this authority to give certificates for {host}: change it, or the authority"
        )
    } else if any("connection") {
        format!(
            "the authority cannot reach {host}: let the DNS lead to {addresses}, and let everybody reach port 80 there, or port \
             443 where balancers listen for TLS"
        )
    } else if any("unauthorized") || any("incorrectResponse") || any("tls") {
        format!(
            "something else than this cluster's balancers answers for {host}: let the DNS lead to {addresses} and to nothing \
             else (look for an old A or AAAA record, and for a proxy in front)"
        )
    } else {
        format!("the authority could not see that {host} is yours")
    };
    format!("{advice}. It says, {}", said.join("; "))
}

fn refused(problem: &Problem) -> String {
    let advice = if is(problem, "rateLimited") {
        "the authority wants no more orders for now; it is tried again by itself"
    } else if is(problem, "externalAccountRequired") {
        "this authority gives certificates only to who has an account with it already: make one there, and give what it calls \
         EAB key id and HMAC key to `pontoon acme set --eab-kid … --eab-hmac …`"
    } else if is(problem, "rejectedIdentifier") {
        "the authority gives no certificate for this name; except it (`pontoon acme set --except`), or upload one"
    } else if is(problem, "invalidContact") || is(problem, "unsupportedContact") {
        "the authority does not take the e-mail address; give another to `pontoon acme set --email`"
    } else if is(problem, "userActionRequired") {
        "the authority wants its terms to be agreed to again; read what it says, then give `pontoon acme set … --agree-tos`"
    } else if is(problem, "accountDoesNotExist") {
        "the authority does not know the cluster's account any more; another is made"
    } else {
        "the authority refuses"
    };
    format!("{advice}: {}", words(problem))
}

/// What the authority says, without what is for programs.
fn words(problem: &Problem) -> String {
    let kind = problem.r#type.as_deref().map(|text| text.strip_prefix(URN).unwrap_or(text)).unwrap_or("unknown");
    let details = problem.subproblems.iter().filter_map(|sub| sub.detail.as_deref());
    let text: Vec<&str> = problem.detail.as_deref().into_iter().chain(details).collect();
    if text.is_empty() { kind.to_owned() } else { format!("{} ({kind})", text.join("; ")) }
}

fn shortened(text: String) -> String {
    let clean: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    match clean.char_indices().nth(MOST_TEXT) {
        Some((at, _)) => format!("{}…", &clean[..at]),
        None => clean,
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.explain("the name", &[]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(kind: &str, detail: &str) -> Problem {
        serde_json::from_value(serde_json::json!({"type": format!("{URN}{kind}"), "detail": detail})).unwrap()
    }

    #[test]
    fn each_failure_says_what_to_do() {
        let unproven = |tried: &[(ChallengeKind, &str)]| Failure::Unproven {
            tried: tried.iter().map(|(kind, what)| (*kind, problem(what, "its words"))).collect(),
        };
        let (http, tls) = (ChallengeKind::Http01, ChallengeKind::TlsAlpn01);
        for (failure, parts) in [
            (
                unproven(&[(http, "dns")]),
                ["no usable address for a.b", "(192.0.2.1, or their public", "on port 80: its words (dns)"],
            ),
            (
                unproven(&[(http, "connection"), (tls, "connection")]),
                ["cannot reach a.b", "reach port 80 there", "on port 443: its words"],
            ),
            (
                unproven(&[(http, "unauthorized"), (tls, "tls")]),
                ["something else than this cluster", "old A or AAAA", "(tls)"],
            ),
            (unproven(&[(http, "caa")]), ["CAA record", "forbids this authority", "its words"]),
            (Failure::Refused(problem("rateLimited", "too many")), ["no more orders", "by itself", "too many"]),
            (Failure::Refused(problem("externalAccountRequired", "who?")), ["EAB key id", "--eab-kid", "who?"]),
            (Failure::Refused(problem("rejectedIdentifier", "policy")), ["for this name", "--except", "policy"]),
            (Failure::Authority { why: "refused".into() }, ["cannot be reached", "refused", "pontoon acme show"]),
            (Failure::NoBalancer, ["no balancer is connected", "looks at a.b", "`pontoon balancers`"]),
        ] {
            let said = failure.explain("a.b", &[[192, 0, 2, 1].into()]);
            for part in parts {
                assert!(said.contains(part), "{part}: {said}");
            }
        }
        let long = Failure::Here { why: "é\n".repeat(1000) }.explain("a.b", &[]);
        assert!(long.chars().count() == MOST_TEXT + 1 && !long.contains('\n'));
    }

    #[test]
    fn what_the_authority_wishes_is_kept_and_its_patience_is_not_tried() {
        let limited = || Failure::Refused(problem("rateLimited", "x"));
        let hours = Duration::from_secs(7 * 3600);
        let wish = Some(hours);
        assert_eq!((limited().wait(1, wish), limited().pause(wish)), (hours, wish));
        assert_eq!((limited().wait(1, None), limited().pause(None)), (BUSY, Some(BUSY)));
        let unproven = Failure::Unproven { tried: vec![(ChallengeKind::Http01, problem("dns", "x"))] };
        assert_eq!((unproven.wait(3, None), unproven.pause(None)), (wait_after(3), None));
        assert_eq!(unproven.wait(1, wish), hours);
        assert_eq!(Failure::NoBalancer.wait(1, None), FIRST_WAIT);
        assert_eq!(Failure::Slow.wait(u32::MAX, None), LONGEST_WAIT);
    }

    #[test]
    fn the_other_way_is_tried_where_it_may_do() {
        for (kind, may) in [("connection", true), ("unauthorized", true), ("tls", true), ("dns", false), ("caa", false)]
        {
            assert_eq!(other_way_may_do(&problem(kind, "")), may, "{kind}");
        }
    }
}
