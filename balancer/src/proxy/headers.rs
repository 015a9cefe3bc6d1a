//! What a proxy takes off and puts on: headers of one connection go, who asked and how is added.

use bytes::Bytes;
use http::Uri;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::uri::{Authority, PathAndQuery, Scheme};

use super::client::Client;
use crate::peers::links::HOP;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
/// Names a request through all that handle it.
pub(super) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Headers that speak of one connection (RFC 9110, 7.6.1). `Trailer` is not one of them.
const HOP_BY_HOP: [HeaderName; 8] = [
    header::CONNECTION,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];

/// Names that `Connection` may not take off: what they say is needed to read the message or to route it.
const KEPT: [HeaderName; 2] = [header::HOST, header::CONTENT_LENGTH];

/// The protocol both sides shall change to, if the message asks for it or agrees to it.
///
/// `h2c` is left out: a servo that took it would be spoken to past our rules.
pub(super) fn upgrade_of(headers: &HeaderMap) -> Option<HeaderValue> {
    let asked = connection_names(headers).any(|name| name.eq_ignore_ascii_case("upgrade"));
    let protocol = headers.get(header::UPGRADE).filter(|_| asked)?;
    let is_h2c =
        protocol.as_bytes().split(|&byte| byte == b',').any(|one| one.trim_ascii().eq_ignore_ascii_case(b"h2c"));
    (!is_h2c).then(|| protocol.clone())
}

/// Takes off what belongs to one connection, including what `Connection` names.
pub(super) fn strip(headers: &mut HeaderMap) {
    if headers.contains_key(header::CONNECTION) {
        let named: Vec<HeaderName> = connection_names(headers)
            .filter_map(|name| name.parse().ok())
            .filter(|name| !KEPT.contains(name))
            .collect();
        for name in named {
            headers.remove(name);
        }
    }
    for name in &HOP_BY_HOP {
        headers.remove(name);
    }
}

/// Puts the wish (or the agreement) to change to `protocol` back on.
pub(super) fn put_upgrade(headers: &mut HeaderMap, protocol: HeaderValue) {
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, protocol);
}

/// Says to the servo who asked, for which host and how.
pub(super) fn describe_client(headers: &mut HeaderMap, client: &Client) {
    let address = HeaderValue::from_str(client.text()).unwrap_or_else(|_| HeaderValue::from_static("unknown"));
    append_to_list(headers, &X_FORWARDED_FOR, address);
    headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static(client.scheme()));
    if let Some(host) = headers.get(header::HOST).cloned() {
        append_to_list(headers, &header::FORWARDED, forwarded(client, &host));
        headers.insert(X_FORWARDED_HOST, host);
    }
    if !headers.contains_key(&X_REQUEST_ID)
        && let Ok(id) = HeaderValue::try_from(format!("{:032x}", rand::random::<u128>()))
    {
        headers.insert(X_REQUEST_ID, id);
    }
    // CGI-like servers would read it as the variable HTTP_PROXY.
    headers.remove("proxy");
    // Only balancers say this, to each other.
    headers.remove(HOP);
    // Already answered here: the body is sent without waiting.
    headers.remove(header::EXPECT);
}

/// Puts `last` behind what the header lists already.
fn append_to_list(headers: &mut HeaderMap, name: &HeaderName, last: HeaderValue) {
    let chain = headers.get_all(name).iter().fold(Vec::new(), |mut chain, part| {
        chain.extend_from_slice(part.as_bytes());
        chain.extend_from_slice(b", ");
        chain
    });
    let chain = if chain.is_empty() {
        last
    } else {
        // Both parts came out of header values, so that the whole is one.
        HeaderValue::from_bytes(&[&chain, last.as_bytes()].concat()).unwrap_or(last)
    };
    headers.insert(name, chain);
}

/// The host was checked: it has no quote in it.
fn forwarded(client: &Client, host: &HeaderValue) -> HeaderValue {
    let [before, behind] = client.forwarded();
    let line = [before.as_bytes(), host.as_bytes(), behind.as_bytes()].concat();
    HeaderValue::from_maybe_shared(Bytes::from(line)).unwrap_or_else(|_| HeaderValue::from_static("for=unknown"))
}

/// Whether the client reads what comes behind a body.
pub(super) fn takes_trailers(headers: &HeaderMap) -> bool {
    let values = headers.get_all(header::TE).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|one| one.trim().eq_ignore_ascii_case("trailers"))
}

/// Puts the headers of an HTTP/2 request into the form of HTTP/1.1: with a `Host`, and cookies in one line (RFC 9113, 8.2.3).
pub(super) fn as_http1(headers: &mut HeaderMap, uri: &Uri) {
    if !headers.contains_key(header::HOST)
        && let Some(host) = uri.authority().and_then(|host| HeaderValue::try_from(host.as_str()).ok())
    {
        headers.insert(header::HOST, host);
    }
    let lines: Vec<_> = headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if lines.len() > 1
        && let Ok(joined) = HeaderValue::from_bytes(&lines.join(&b"; "[..]))
    {
        headers.insert(header::COOKIE, joined);
    }
}

/// The target as a servo expects it: path and query.
pub(super) fn origin_form(uri: &Uri) -> Uri {
    if uri.authority().is_none() {
        return uri.clone();
    }
    uri.path_and_query().map_or_else(|| Uri::from_static("/"), |path| Uri::from(path.clone()))
}

/// The same as HTTP/2 has it.
pub(super) fn absolute_form(host: Option<Authority>, path: Uri) -> Uri {
    let mut parts = path.into_parts();
    parts.path_and_query.get_or_insert_with(|| PathAndQuery::from_static("/"));
    if host.is_some() {
        (parts.scheme, parts.authority) = (Some(Scheme::HTTP), host);
    }
    Uri::from_parts(parts).unwrap_or_else(|_| Uri::from_static("/"))
}

fn connection_names(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let values = headers.get_all(header::CONNECTION).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim).filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(lines: &[(&str, &str)]) -> HeaderMap {
        let pair = |(name, value): &(&str, &str)| (name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
        lines.iter().map(pair).fold(HeaderMap::new(), |mut map, (name, value): (_, HeaderValue)| {
            map.append(name, value);
            map
        })
    }

    #[test]
    fn what_belongs_to_one_connection_goes() {
        let mut headers = map(&[
            ("connection", "keep-alive, X-Secret"),
            ("connection", "host, content-length"),
            ("keep-alive", "timeout=5"),
            ("x-secret", "1"),
            ("te", "trailers"),
            ("upgrade", "websocket"),
            ("host", "a"),
            ("content-length", "3"),
            ("trailer", "x-sum"),
            ("accept", "*/*"),
        ]);
        strip(&mut headers);
        let mut left: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["accept", "content-length", "host", "trailer"]);
    }

    fn client(address: &str) -> Client {
        Client::new(address.parse().unwrap(), false)
    }

    #[test]
    fn the_client_is_added_to_the_chain() {
        let mut headers = map(&[("host", "a:80"), ("x-forwarded-for", "1.1.1.1"), ("x-forwarded-for", "2.2.2.2")]);
        headers.insert("x-forwarded-proto", HeaderValue::from_static("https"));
        headers.insert("x-forwarded-host", HeaderValue::from_static("evil"));
        headers.insert("forwarded", HeaderValue::from_static("for=1.1.1.1"));
        headers.insert("expect", HeaderValue::from_static("100-continue"));
        describe_client(&mut headers, &client("::ffff:10.0.0.9"));
        assert_eq!(headers["x-forwarded-for"], "1.1.1.1, 2.2.2.2, 10.0.0.9");
        assert_eq!(headers["x-forwarded-proto"], "http");
        assert_eq!(headers["x-forwarded-host"], "a:80");
        assert_eq!(headers["forwarded"], "for=1.1.1.1, for=10.0.0.9;host=\"a:80\";proto=http");
        assert_eq!(headers["x-request-id"].len(), 32);
        assert!(!headers.contains_key("expect"));
    }

    #[test]
    fn a_request_id_of_the_client_is_kept() {
        let mut headers = map(&[("x-request-id", "mine"), ("host", "a")]);
        let client = Client::new("2001:db8::1".parse().unwrap(), true);
        describe_client(&mut headers, &client);
        assert_eq!(headers["x-request-id"], "mine");
        assert_eq!(headers["x-forwarded-for"], "2001:db8::1");
        assert_eq!(headers["forwarded"], "for=\"[2001:db8::1]\";host=\"a\";proto=https");
    }

    #[test]
    fn a_request_of_http2_gets_a_host_and_one_line_of_cookies() {
        let mut headers = map(&[("cookie", "a=b"), ("cookie", "c=d"), ("te", "gzip, Trailers")]);
        assert!(takes_trailers(&headers));
        as_http1(&mut headers, &"https://a.example/x".parse().unwrap());
        assert_eq!(headers["host"], "a.example");
        assert_eq!(headers.get_all("cookie").iter().collect::<Vec<_>>(), ["a=b; c=d"]);
        assert!(!takes_trailers(&map(&[("te", "gzip")])));
    }

    #[test]
    fn upgrades_need_both_headers_and_are_never_h2c() {
        assert!(upgrade_of(&map(&[("upgrade", "websocket")])).is_none());
        assert!(upgrade_of(&map(&[("connection", "upgrade")])).is_none());
        assert!(upgrade_of(&map(&[("connection", "Upgrade, HTTP2-Settings"), ("upgrade", "h2c")])).is_none());
        let wanted = upgrade_of(&map(&[("connection", "keep-alive, Upgrade"), ("upgrade", "websocket")]));
        assert_eq!(wanted.unwrap(), "websocket");
    }

    #[test]
    fn absolute_targets_become_paths() {
        assert_eq!(origin_form(&"http://a.example/x?y=1".parse().unwrap()), "/x?y=1");
        assert_eq!(origin_form(&"http://a.example".parse().unwrap()), "/");
        assert_eq!(origin_form(&"/x".parse().unwrap()), "/x");
        assert_eq!(origin_form(&"*".parse().unwrap()), "*");
    }
}
