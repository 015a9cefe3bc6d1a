//! Whom a request is for: the host name in its target or `Host` header, checked strictly.

use http::header::HOST;
use http::request::Parts;
use http::{Method, Version};

/// Longest host name of DNS.
const LONGEST_HOST: usize = 253;

/// Why a request is refused before it is routed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadTarget {
    #[error("the request has no Host header")]
    NoHost,
    #[error("the request has more than one Host header")]
    TwoHosts,
    #[error("the Host header is not a host name with an optional port")]
    Malformed,
    #[error("the request line and the Host header name different hosts")]
    Contradiction,
    #[error("CONNECT is not offered here: this is no forward proxy")]
    Connect,
}

/// The host name that `request` is for: lower case, without port and final dot.
pub(super) fn host_of(request: &Parts) -> Result<String, BadTarget> {
    if request.method == Method::CONNECT {
        return Err(BadTarget::Connect);
    }
    let mut hosts = request.headers.get_all(HOST).iter();
    let given = match (hosts.next(), hosts.next()) {
        (_, Some(_)) => return Err(BadTarget::TwoHosts),
        (Some(host), None) => Some(host.to_str().map_err(|_| BadTarget::Malformed)?),
        (None, None) => None,
    };
    let authority = match (request.uri.authority(), given) {
        // HTTP/2 has no Host header; HTTP/1.1 must have one even beside an absolute target.
        (Some(target), None) if request.version == Version::HTTP_2 => target.as_str(),
        (_, None) => return Err(BadTarget::NoHost),
        (Some(target), Some(given)) if !target.as_str().eq_ignore_ascii_case(given) => {
            return Err(BadTarget::Contradiction);
        }
        (_, Some(given)) => given,
    };
    normalize(authority).ok_or(BadTarget::Malformed)
}

/// The host name in a `Host` header or an authority: lower case, without port and final dot.
pub(super) fn normalize(authority: &str) -> Option<String> {
    let (host, port) = match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, port)) => {
            address.parse::<std::net::Ipv6Addr>().ok()?;
            (&authority[..address.len() + 2], port)
        }
        None => {
            let (host, port) = authority.split_at(authority.find(':').unwrap_or(authority.len()));
            let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
            if !host.bytes().all(is_name) {
                return None;
            }
            (host.strip_suffix('.').unwrap_or(host), port)
        }
    };
    let port_is_good = match port.strip_prefix(':') {
        // An empty port is allowed by RFC 3986 and means the default.
        Some(digits) => digits.len() <= 5 && digits.bytes().all(|byte| byte.is_ascii_digit()),
        None => port.is_empty(),
    };
    let host_is_good = !host.is_empty() && host.len() <= LONGEST_HOST && !host.starts_with('.');
    (port_is_good && host_is_good).then(|| host.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    fn host(target: &str, hosts: &[&str]) -> Result<String, BadTarget> {
        let mut request = Request::builder().uri(target);
        for host in hosts {
            request = request.header(HOST, *host);
        }
        host_of(&request.body(()).unwrap().into_parts().0)
    }

    #[test]
    fn host_names_are_compared_without_case_port_and_final_dot() {
        for (given, host_name) in [
            ("guestbook.localhost:8000", "guestbook.localhost"),
            ("GuestBook.LocalHost", "guestbook.localhost"),
            ("a.example.", "a.example"),
            ("a.example:", "a.example"),
            ("10.0.0.1:80", "10.0.0.1"),
            ("[::1]:80", "[::1]"),
            ("my_app.example", "my_app.example"),
        ] {
            assert_eq!(host("/", &[given]).as_deref(), Ok(host_name), "{given}");
        }
    }

    #[test]
    fn what_is_no_host_name_is_refused() {
        for bad in ["", ".", ":80", "a b", "a/b", "user@a", "a:80:80", "a:x", "a:+1", "[::1", "[a]", "a,b", "a:999999"]
        {
            assert_eq!(host("/", &[bad]), Err(BadTarget::Malformed), "{bad:?}");
        }
        assert_eq!(host("/", &[&"a".repeat(254)]), Err(BadTarget::Malformed));
        assert_eq!(host("/", &[]), Err(BadTarget::NoHost));
        assert_eq!(host("/", &["a", "a"]), Err(BadTarget::TwoHosts));
    }

    #[test]
    fn an_absolute_target_must_agree_with_the_header() {
        assert_eq!(host("http://a.example/x", &["A.example"]).as_deref(), Ok("a.example"));
        assert_eq!(host("http://a.example/x", &["b.example"]), Err(BadTarget::Contradiction));
        assert_eq!(host("http://a.example/x", &[]), Err(BadTarget::NoHost));
    }
}
