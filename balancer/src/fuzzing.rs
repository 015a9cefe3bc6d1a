//! The parsers of what strangers send, for the fuzzer (`balancer/fuzz`): each checks what must hold of any input.

use std::net::IpAddr;

use http::{HeaderName, HeaderValue, Uri};

use crate::proxy::fuzzing as proxy;

/// A request's head on the way without hyper: what it takes hyper's parts take too, and what the servo gets is one whole head
/// that says the same.
pub fn request_head(bytes: &[u8]) {
    let Some((line, lines)) = proxy::carried(bytes) else { return };
    let mut headers = [httparse::EMPTY_HEADER; 100];
    let mut given = httparse::Request::new(&mut headers);
    let status = given.parse(bytes).expect("httparse refuses what was taken");
    assert!(status.is_complete(), "it was taken before its end");
    let target = given.path.expect("a target");
    target.parse::<Uri>().expect("http refuses the target");
    assert_eq!(line, format!("{} {target} HTTP/1.1", given.method.expect("a method")));
    let hosts = given.headers.iter().filter(|header| header.name.eq_ignore_ascii_case("host")).count();
    assert_eq!(hosts, 1, "hosts");
    for (name, value) in &lines {
        HeaderName::from_bytes(name).expect("a header's name");
        HeaderValue::from_bytes(value).expect("a header's value");
    }
    let count = |name: &str| lines.iter().filter(|(of, _)| of.eq_ignore_ascii_case(name.as_bytes())).count();
    assert!(count("content-length") <= 1 && count("transfer-encoding") == 0, "two lengths");
    for once in ["host", "x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "forwarded", "x-request-id"] {
        assert_eq!(count(once), 1, "{once}");
    }
    for never in ["connection", "upgrade", "te", "keep-alive", "expect", "proxy"] {
        assert_eq!(count(never), 0, "{never}");
    }
}

/// A servo's head: what the client gets is one whole head with one framing.
pub fn answer_head(bytes: &[u8]) {
    for to_head in [false, true] {
        let Some(lines) = proxy::answered(bytes, to_head) else { continue };
        let count = |name: &str| lines.iter().filter(|(of, _)| of.eq_ignore_ascii_case(name.as_bytes())).count();
        assert!(count("content-length") + count("transfer-encoding") <= 1, "two framings");
        for never in ["connection", "upgrade", "te", "keep-alive"] {
            assert_eq!(count(never), 0, "{never}");
        }
    }
}

/// A chunked body: the same data wherever the bytes are cut.
pub fn chunks(bytes: &[u8]) {
    let whole = proxy::dechunked(&[bytes]);
    let at = bytes.first().map_or(0, |first| usize::from(*first) % bytes.len());
    let (one, other) = bytes.split_at(at);
    assert_eq!(whole, proxy::dechunked(&[one, other]), "cut at {at}");
}

/// A `Host` header: a name is lower case, without a port, and a name of itself.
pub fn host(text: &str) {
    let Some(host) = proxy::host(text) else { return };
    assert!(!host.is_empty() && host.len() <= 255 && !host.bytes().any(|byte| byte.is_ascii_uppercase()), "{host:?}");
    // One final dot is taken off; what ends with two is no name of itself.
    if !host.ends_with('.') {
        assert_eq!(proxy::host(&host).as_deref(), Some(host.as_str()));
    }
}

/// A header of the PROXY protocol: never more is taken than there is.
pub fn proxy_header(bytes: &[u8]) -> Option<IpAddr> {
    let (taken, source) = proxy::announced(bytes)?;
    assert!(taken <= bytes.len(), "{taken} of {}", bytes.len());
    source
}
