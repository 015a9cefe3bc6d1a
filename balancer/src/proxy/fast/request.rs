//! A request's head: read, judged, and written anew for the servo, in one pass.
//!
//! Only what every reader understands the same way is taken. Whatever else comes is not refused here: it goes the other way
//! ([`read`] returns none), and hyper's verdict counts. So this path is never laxer than the other.

use std::mem::MaybeUninit;
use std::ops::Range;

use super::super::client::Client;
use super::head::{length, put_header};

/// Headers of one request; with more it goes the other way.
const MOST_HEADERS: usize = 64;
/// Values of `X-Forwarded-For`, and of `Forwarded`, in lines of their own: as many proxies stand before us.
const MOST_IN_CHAIN: usize = 8;
/// Digits of a body's length: more than is carried here.
const MOST_DIGITS: usize = 9;

/// A request that is carried here. The ranges are places in the bytes it was read from.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) method: Method,
    /// Path and query.
    pub(super) target: Range<usize>,
    /// How much of the target is the path.
    pub(super) path_len: usize,
    /// The `Host` header.
    pub(super) host: Range<usize>,
    /// The `X-Request-Id` header.
    pub(super) id: Option<Range<usize>>,
    /// The `Cookie` header.
    pub(super) cookie: Option<Range<usize>>,
    /// Bytes of the body.
    pub(super) body: usize,
    /// The client wants no further request on this connection.
    pub(super) close: bool,
}

/// The methods that are carried here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Method {
    Get,
    Head,
    Post,
    Put,
    Delete,
    Patch,
    Options,
}

impl Method {
    fn of(name: &str) -> Option<Self> {
        Some(match name {
            "GET" => Self::Get,
            "HEAD" => Self::Head,
            "POST" => Self::Post,
            "PUT" => Self::Put,
            "DELETE" => Self::Delete,
            "PATCH" => Self::Patch,
            "OPTIONS" => Self::Options,
            _ => return None,
        })
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Delete => "DELETE",
            Self::Patch => "PATCH",
            Self::Options => "OPTIONS",
        }
    }

    /// RFC 9110, 9.2.2.
    pub(super) fn is_idempotent(self) -> bool {
        !matches!(self, Self::Post | Self::Patch)
    }
}

/// Reads `head`, which is whole ([`super::scan`]), and appends to `to` what the servo gets of it: without what speaks of
/// this connection, with who asked. The body is not in it. None: it goes the other way.
pub(super) fn read(head: &[u8], client: &Client, to: &mut Vec<u8>) -> Option<Head> {
    // httparse takes empty lines before a request.
    if !head.first()?.is_ascii_uppercase() {
        return None;
    }
    let mut headers = [MaybeUninit::uninit(); MOST_HEADERS];
    let mut parsed = httparse::Request::new(&mut []);
    let whole = parsed.parse_with_uninit_headers(head, &mut headers).ok()?;
    if whole != httparse::Status::Complete(head.len()) || parsed.version != Some(1) {
        return None;
    }
    let method = Method::of(parsed.method?)?;
    let target = parsed.path?;
    let path_len = is_plain(target).then(|| target.find('?').unwrap_or(target.len()))?;
    let place = Places::in_bytes(head);
    to.extend_from_slice(method.name().as_bytes());
    to.push(b' ');
    to.extend_from_slice(target.as_bytes());
    to.extend_from_slice(b" HTTP/1.1\r\n");
    let mut special = Special::default();
    for header in parsed.headers.iter() {
        if special.notice(header.name, header.value)? {
            put_header(to, header.name.as_bytes(), header.value);
        }
    }
    let host = special.host?;
    describe_client(to, client, host, &special);
    Some(Head {
        method,
        target: place.of(target.as_bytes())?,
        path_len,
        host: place.of(host)?,
        id: place.of_optional(special.id)?,
        cookie: place.of_optional(special.cookie)?,
        body: special.body.map_or(Some(0), |body| body.try_into().ok())?,
        close: special.close,
    })
}

/// What some headers said.
#[derive(Default)]
struct Special<'a> {
    host: Option<&'a [u8]>,
    id: Option<&'a [u8]>,
    cookie: Option<&'a [u8]>,
    body: Option<u64>,
    connection: bool,
    close: bool,
    forwarded_for: Chain<'a>,
    forwarded: Chain<'a>,
}

/// Values of one header, in their order.
#[derive(Default)]
struct Chain<'a> {
    values: [&'a [u8]; MOST_IN_CHAIN],
    len: usize,
}

impl<'a> Chain<'a> {
    fn push(&mut self, value: &'a [u8]) -> Option<()> {
        *self.values.get_mut(self.len)? = value;
        self.len += 1;
        Some(())
    }

    /// Each with the comma behind it.
    fn put(&self, to: &mut Vec<u8>) {
        for value in &self.values[..self.len] {
            to.extend_from_slice(value);
            to.extend_from_slice(b", ");
        }
    }
}

impl<'a> Special<'a> {
    /// Takes note of a header; whether it is passed on as it is. None: the request goes the other way.
    fn notice(&mut self, name: &str, value: &'a [u8]) -> Option<bool> {
        let is = |other: &str| name.eq_ignore_ascii_case(other);
        match name.len() {
            2 if is("te") => return None,
            4 if is("host") => once(&mut self.host, value)?,
            5 if is("proxy") => return None,
            6 if is("expect") => return None,
            6 if is("cookie") => once(&mut self.cookie, value)?,
            7 if is("upgrade") || is("trailer") => return None,
            9 if is("forwarded") => {
                self.forwarded.push(value)?;
                return Some(false);
            }
            10 if is("connection") => {
                if std::mem::replace(&mut self.connection, true) {
                    return None;
                }
                self.close = value.eq_ignore_ascii_case(b"close");
                return (self.close || value.eq_ignore_ascii_case(b"keep-alive")).then_some(false);
            }
            10 if is("keep-alive") => return None,
            12 if is("x-request-id") => once(&mut self.id, value)?,
            // Whoever sends this is no balancer: it is taken off the other way.
            13 if is("x-pontoon-hop") => return None,
            14 if is("content-length") => once(&mut self.body, length(value, MOST_DIGITS)?)?,
            14 if is("http2-settings") => return None,
            15 if is("x-forwarded-for") => {
                self.forwarded_for.push(value)?;
                return Some(false);
            }
            16 if is("x-forwarded-host") => return Some(false),
            16 if is("proxy-connection") => return None,
            17 if is("x-forwarded-proto") => return Some(false),
            17 if is("transfer-encoding") => return None,
            18 if is("proxy-authenticate") => return None,
            19 if is("proxy-authorization") => return None,
            _ => {}
        }
        Some(true)
    }
}

/// The second one is one too many.
fn once<T>(slot: &mut Option<T>, value: T) -> Option<()> {
    slot.replace(value).is_none().then_some(())
}

/// A path and query with nothing in it that RFC 3986 does not allow there.
fn is_plain(target: &str) -> bool {
    target.starts_with('/') && target.bytes().all(|byte| PLAIN[usize::from(byte)])
}

const PLAIN: [bool; 256] = {
    let mut plain = [false; 256];
    let allowed = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~!$&'()*+,;=:@/?%";
    let mut at = 0;
    while at < allowed.len() {
        plain[allowed[at] as usize] = true;
        at += 1;
    }
    plain
};

/// As [`super::super::headers::describe_client`] does.
fn describe_client(to: &mut Vec<u8>, client: &Client, host: &[u8], special: &Special<'_>) {
    to.extend_from_slice(b"x-forwarded-for: ");
    special.forwarded_for.put(to);
    to.extend_from_slice(client.text().as_bytes());
    to.extend_from_slice(b"\r\nx-forwarded-proto: ");
    to.extend_from_slice(client.scheme().as_bytes());
    to.extend_from_slice(b"\r\nx-forwarded-host: ");
    to.extend_from_slice(host);
    to.extend_from_slice(b"\r\nforwarded: ");
    special.forwarded.put(to);
    let [before, behind] = client.forwarded();
    to.extend_from_slice(before.as_bytes());
    to.extend_from_slice(host);
    to.extend_from_slice(behind.as_bytes());
    to.extend_from_slice(b"\r\n");
    if special.id.is_none() {
        to.extend_from_slice(b"x-request-id: ");
        put_hex(to, rand::random());
        to.extend_from_slice(b"\r\n");
    }
    to.extend_from_slice(b"\r\n");
}

fn put_hex(to: &mut Vec<u8>, number: u128) {
    let digit = |nibble: u8| if nibble < 10 { b'0' + nibble } else { b'a' + nibble - 10 };
    to.extend(number.to_be_bytes().iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]));
}

/// Places of slices in the bytes they were cut out of.
struct Places(Range<usize>);

impl Places {
    fn in_bytes(bytes: &[u8]) -> Self {
        let start = bytes.as_ptr() as usize;
        Self(start..start + bytes.len())
    }

    /// None if it is not one of them; an empty one need not be.
    fn of(&self, part: &[u8]) -> Option<Range<usize>> {
        let start = (part.as_ptr() as usize).checked_sub(self.0.start)?;
        (start + part.len() <= self.0.len()).then(|| start..start + part.len())
    }

    /// The same of one that need not be there.
    fn of_optional(&self, part: Option<&[u8]>) -> Option<Option<Range<usize>>> {
        part.map_or(Some(None), |part| self.of(part).map(Some))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client() -> Client {
        Client::new("10.0.0.9".parse().unwrap(), false)
    }

    /// The head and what the servo gets, without the random part.
    fn carried(head: &str) -> Option<(Head, String)> {
        let mut to = Vec::new();
        let head = read(head.as_bytes(), &client(), &mut to)?;
        Some((head, String::from_utf8(to).unwrap()))
    }

    fn request(lines: &str) -> String {
        format!("GET /a/b?c=d HTTP/1.1\r\nHost: A.example:80\r\n{lines}\r\n")
    }

    #[test]
    fn a_plain_request_is_passed_on_with_who_asked() {
        let text = request("Accept: */*\r\nX-Request-Id: mine\r\nConnection: Keep-Alive\r\nX-Forwarded-Host: evil\r\n");
        let (head, servo) = carried(&text).unwrap();
        assert_eq!((head.method, &text[head.target.clone()], head.path_len), (Method::Get, "/a/b?c=d", 4));
        assert_eq!((&text[head.host.clone()], &text[head.id.unwrap()]), ("A.example:80", "mine"));
        assert_eq!((head.body, head.close), (0, false));
        assert_eq!(
            servo,
            "GET /a/b?c=d HTTP/1.1\r\nHost: A.example:80\r\nAccept: */*\r\nX-Request-Id: mine\r\n\
             x-forwarded-for: 10.0.0.9\r\nx-forwarded-proto: http\r\nx-forwarded-host: A.example:80\r\n\
             forwarded: for=10.0.0.9;host=\"A.example:80\";proto=http\r\n\r\n"
        );
    }

    #[test]
    fn the_chain_of_proxies_is_kept_and_an_id_is_made() {
        let text = request("X-Forwarded-For: 1.1.1.1\r\nforwarded: for=1.1.1.1\r\nx-forwarded-for: 2.2.2.2\r\n");
        let (_, servo) = carried(&text).unwrap();
        assert!(servo.contains("x-forwarded-for: 1.1.1.1, 2.2.2.2, 10.0.0.9\r\n"), "{servo}");
        assert!(servo.contains("forwarded: for=1.1.1.1, for=10.0.0.9;"), "{servo}");
        let id = servo.lines().find_map(|line| line.strip_prefix("x-request-id: ")).unwrap();
        assert!(id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()), "{id}");
    }

    #[test]
    fn a_body_and_a_wish_to_close_are_seen() {
        let (head, servo) = carried(&request("Content-Length: 012\r\nConnection: close\r\n")).unwrap();
        assert_eq!((head.body, head.close), (12, true));
        assert!(!servo.contains("Connection"));
    }

    #[test]
    fn whatever_is_not_plain_goes_the_other_way() {
        for line in [
            "Host: b",
            "Content-Length: +4",
            "Content-Length: 4, 4",
            "Content-Length: -1",
            "Content-Length:",
            "Content-Length: 9999999999",
            "Content-Length: 4\r\nContent-Length: 4",
            "Transfer-Encoding: chunked",
            "Transfer-Encoding: xchunked",
            "transfer-encoding: identity",
            "Connection: keep-alive, x-a",
            "Connection: upgrade",
            "Connection: close\r\nConnection: keep-alive",
            "Upgrade: websocket",
            "Expect: 100-continue",
            "TE: trailers",
            "Trailer: x",
            "Keep-Alive: 5",
            "Proxy: a",
            "Proxy-Authorization: a",
            "HTTP2-Settings: a",
            "Cookie: a=b\r\nCookie: c=d",
            "X-Request-Id: a\r\nX-Request-Id: b",
            "X-A : b",
            "X-A: b\r\n c",
            "X-A: b\rc",
            "X-A: b\0c",
            "X A: b",
            ": b",
        ] {
            assert!(carried(&request(&format!("{line}\r\n"))).is_none(), "{line}");
        }
        for head in [
            "GET / HTTP/1.0\r\nHost: a\r\n\r\n",
            "GET / HTTP/1.1\r\n\r\n",
            "GET http://a/ HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET * HTTP/1.1\r\nHost: a\r\n\r\n",
            "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET /\" HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET /\\ HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET /ü HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
            "CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n",
            "TRACE / HTTP/1.1\r\nHost: a\r\n\r\n",
            "get / HTTP/1.1\r\nHost: a\r\n\r\n",
            "PRI * HTTP/2.0\r\n\r\n",
            "\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        ] {
            assert!(carried(head).is_none(), "{head:?}");
        }
        let many = (0..MOST_HEADERS).map(|at| format!("x-{at}: y\r\n")).collect::<String>();
        assert!(carried(&request(&many)).is_none());
    }
}
