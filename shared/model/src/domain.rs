//! Host names of users' own, and the part of their paths that an app answers for.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{AppName, Timestamp};

/// Where an app is reached: a host name and a path below it. Unique in the cluster.
///
/// `example.org` is that host; `*.example.org` any host with one more label in front (as a certificate's name would have
/// it), except those that are named themselves. `example.org/shop` is what is at or below `/shop`; the longest path wins.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Domain {
    host: String,
    path: String,
}

/// A text that is no [`Domain`]; the sentence is meant for the person who typed it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{given:?} is no domain: {rule}")]
pub struct InvalidDomain {
    given: String,
    rule: &'static str,
}

const LABELS: &str = "a host name has labels of letters, digits and -, with dots between, e.g. shop.example.org";
const NO_ADDRESS: &str =
    "an address leads to a balancer and not to an app; give a host name that leads there, e.g. shop.example.org";

impl Domain {
    /// Longest host name (RFC 1035).
    pub const MAX_HOST: usize = 253;
    /// Longest path: what people would type.
    pub const MAX_PATH: usize = 200;

    /// Lower case, no port; may begin with `*.`.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Begins with `/` and does not end with it, except `/` itself.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Whether people on the Internet could be led to it. Asked where somebody adds a domain and not where one is read:
    /// clusters have some that were taken before this was asked, and those must still be listed and removed.
    pub fn check_reachable(&self) -> Result<(), InvalidDomain> {
        let invalid = |rule| Err(InvalidDomain { given: self.to_string(), rule });
        let name = self.host.strip_prefix("*.").unwrap_or(&self.host);
        let last = name.rsplit('.').next().unwrap_or_default();
        if name.parse::<Ipv4Addr>().is_ok() {
            return invalid(NO_ADDRESS);
        }
        if last.bytes().all(|c| c.is_ascii_digit()) {
            return invalid("its last label is a number, which is read as an address; give one like shop.example.org");
        }
        if name.contains('_') {
            return invalid(LABELS);
        }
        if !name.contains('.') {
            return invalid("it is one label, which no DNS leads to the balancers; give one like shop.example.org");
        }
        Ok(())
    }

    /// What stands behind the `*`, with its dot, if it is a wildcard.
    pub fn wildcard(&self) -> Option<&str> {
        self.host.strip_prefix('*')
    }
}

impl FromStr for Domain {
    type Err = InvalidDomain;

    fn from_str(text: &str) -> Result<Self, InvalidDomain> {
        let invalid = |rule| InvalidDomain { given: text.chars().take(80).collect(), rule };
        if text.contains("://") {
            return Err(invalid("give the host name without http:// or https://, e.g. shop.example.org"));
        }
        let (host, path) = text.split_at(text.find('/').unwrap_or(text.len()));
        if host.trim_start_matches('[').trim_end_matches(']').parse::<Ipv6Addr>().is_ok() {
            return Err(invalid(NO_ADDRESS));
        }
        if host.contains(':') {
            return Err(invalid("give the host name without a port, e.g. shop.example.org"));
        }
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        let name = host.strip_prefix("*.").unwrap_or(&host);
        if name.contains('*') {
            return Err(invalid("a `*` may only be the whole first label, e.g. *.example.org"));
        }
        if !name.is_ascii() {
            return Err(invalid("write the host name in its ASCII form (xn--...), as the DNS has it"));
        }
        let is_label = |label: &str| {
            let fits = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-' || c == b'_';
            !label.is_empty()
                && label.len() <= 63
                && label.bytes().all(fits)
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        if host.len() > Self::MAX_HOST || !name.split('.').all(is_label) {
            return Err(invalid(LABELS));
        }
        if host.starts_with("*.") && !name.contains('.') {
            return Err(invalid("a wildcard needs two labels behind the `*`, e.g. *.example.org"));
        }
        let path = path.trim_end_matches('/');
        let path = if path.is_empty() { "/" } else { path };
        let fits = |c: u8| c.is_ascii_graphic() && !matches!(c, b'?' | b'#' | b'*' | b'\\' | b'"' | b'<' | b'>');
        if path.len() > Self::MAX_PATH || !path.bytes().all(fits) || path.contains("//") {
            return Err(invalid("a path is like /shop or /a/b, without spaces, queries or empty parts"));
        }
        if path.split('/').any(|part| part == "." || part == "..") {
            return Err(invalid("a path may not have . or .. in it"));
        }
        Ok(Self { host, path: path.to_owned() })
    }
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = if self.path == "/" { "" } else { self.path.as_str() };
        f.pad(&format!("{}{path}", self.host))
    }
}

/// A domain that an app has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DomainRow {
    /// Which.
    pub domain: Domain,
    /// Whose.
    pub app: AppName,
    /// Since when.
    pub added_at: Timestamp,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn domains_are_taken_in_one_form() {
        for (given, host, path, shown) in [
            ("Shop.Example.org", "shop.example.org", "/", "shop.example.org"),
            ("example.org.", "example.org", "/", "example.org"),
            ("example.org/", "example.org", "/", "example.org"),
            ("*.example.org/a/b/", "*.example.org", "/a/b", "*.example.org/a/b"),
            ("localhost", "localhost", "/", "localhost"),
        ] {
            let domain: Domain = given.parse().unwrap();
            assert_eq!((domain.host(), domain.path(), domain.to_string().as_str()), (host, path, shown));
        }
        assert_eq!("*.a.b".parse::<Domain>().unwrap().wildcard(), Some(".a.b"));
    }

    #[test]
    fn what_nobody_is_led_to_can_be_read_and_not_added() {
        for (given, says) in [
            ("1.2.3.4", "an address leads"),
            ("1.2.3.4/shop", "an address leads"),
            ("*.1.2", "a number"),
            ("shop.7", "a number"),
            ("bad_name.org", "letters, digits and -"),
            ("*._a.org", "letters, digits and -"),
            ("localhost", "one label"),
        ] {
            let domain: Domain = given.parse().unwrap();
            let error = domain.check_reachable().unwrap_err().to_string();
            assert!(error.contains(says) && error.contains(given), "{given}: {error}");
        }
        for given in ["example.org", "*.example.org/a", "7.example", "xn--bcher-kva.example", "a.b7"] {
            assert_eq!(given.parse::<Domain>().unwrap().check_reachable(), Ok(()), "{given}");
        }
    }

    #[test]
    fn what_is_no_domain_is_refused_with_its_reason() {
        for (given, says) in [
            ("https://a.b", "without http://"),
            ("a.b:80", "without a port"),
            ("[::1]", "an address leads"),
            ("2001:db8::1", "an address leads"),
            ("a.*.b", "whole first label"),
            ("*.b", "two labels"),
            ("bücher.example", "ASCII form"),
            ("", "has labels"),
            ("a..b", "has labels"),
            ("-a.b", "has labels"),
            ("a.b/x y", "a path is like"),
            ("a.b//x", "a path is like"),
            ("a.b/x?y", "a path is like"),
            ("a.b/../x", ". or .."),
        ] {
            let error = given.parse::<Domain>().unwrap_err().to_string();
            assert!(error.contains(says), "{given}: {error}");
        }
    }
}
