//! A servo's answer: its head read and written anew for the client, in one pass.

use std::mem::MaybeUninit;

use super::head::{length, put_header, put_status};

/// Headers of one answer: what hyper takes too.
const MOST_HEADERS: usize = 100;

/// Digits of a body's length: what fits.
const MOST_DIGITS: usize = 18;

/// Where the body of an answer ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    /// There is none.
    Nothing,
    /// After so many bytes.
    Length(u64),
    /// As its chunks say.
    Chunked,
    /// With the connection.
    Close,
}

/// A servo's head.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) framing: Framing,
    /// Whether the servo takes another request on this connection.
    pub(super) keep: bool,
    /// It says itself when it was made.
    pub(super) dated: bool,
}

/// It cannot be read, or can be read in two ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the answer's head is not HTTP/1, or where its body ends is not clear")]
pub(super) struct BadAnswer;

/// Reads the head that `bytes` begin with, once it is whole, and appends to `to` what the client gets of it, without the
/// empty line: without what speaks of the servo's connection, with the body's framing. Also says how long the head is.
/// `to_head`: it answers a HEAD.
///
/// Of an informational one (1xx) only the status counts.
pub(super) fn read(bytes: &[u8], to_head: bool, to: &mut Vec<u8>) -> Result<Option<(Answer, usize)>, BadAnswer> {
    let mut headers = [MaybeUninit::uninit(); MOST_HEADERS];
    let mut parsed = httparse::Response::new(&mut []);
    let parsing = httparse::ParserConfig::default();
    let whole = parsing.parse_response_with_uninit_headers(&mut parsed, bytes, &mut headers).map_err(|_| BadAnswer)?;
    let httparse::Status::Complete(len) = whole else { return Ok(None) };
    let (status, minor) = parsed.code.zip(parsed.version).ok_or(BadAnswer)?;
    let reason = parsed.reason.unwrap_or_default();
    put_status(to, status, reason);
    let named = parsed.headers.iter().filter(|header| header.name.eq_ignore_ascii_case("connection"));
    let mut said = Said { keep: minor == 1, ..Said::default() };
    for header in named {
        said.connection(header.value);
    }
    for header in parsed.headers.iter() {
        if said.notice(header.name, header.value)? && !said.names(parsed.headers, header.name) {
            put_header(to, header.name.as_bytes(), header.value);
        }
    }
    let framing = match (said.chunked, said.length) {
        _ if to_head || matches!(status, 100..=199 | 204 | 304) => Framing::Nothing,
        // RFC 9112, 6.1: HTTP/1.0 knows no chunks.
        (true, _) if minor == 0 => return Err(BadAnswer),
        // Both are what smuggling is made of.
        (true, Some(_)) => return Err(BadAnswer),
        (true, None) => Framing::Chunked,
        (false, Some(0)) => Framing::Nothing,
        (false, Some(length)) => Framing::Length(length),
        (false, None) => Framing::Close,
    };
    // RFC 9110, 8.6: 204 has none.
    if let Some(length) = said.length.filter(|_| status != 204) {
        put_header(to, b"content-length", length.to_string().as_bytes());
    }
    if matches!(framing, Framing::Chunked | Framing::Close) {
        to.extend_from_slice(b"transfer-encoding: chunked\r\n");
    }
    let answer = Answer { status, framing, keep: said.keep && framing != Framing::Close, dated: said.dated };
    Ok(Some((answer, len)))
}

/// What some headers said.
#[derive(Default)]
struct Said {
    keep: bool,
    /// `Connection` names other headers.
    names_others: bool,
    length: Option<u64>,
    chunked: bool,
    dated: bool,
}

impl Said {
    fn connection(&mut self, value: &[u8]) {
        for name in value.split(|&byte| byte == b',').map(<[u8]>::trim_ascii) {
            if name.eq_ignore_ascii_case(b"close") {
                self.keep = false;
            } else if !name.eq_ignore_ascii_case(b"keep-alive") && !name.is_empty() {
                self.names_others = true;
            }
        }
    }

    /// Whether `Connection` takes this header off. As in [`super::super::headers::strip`].
    fn names(&self, headers: &[httparse::Header<'_>], name: &str) -> bool {
        let connection = headers.iter().filter(|header| header.name.eq_ignore_ascii_case("connection"));
        let mut named = connection.flat_map(|header| header.value.split(|&byte| byte == b','));
        self.names_others && named.any(|one| one.trim_ascii().eq_ignore_ascii_case(name.as_bytes()))
    }

    /// Takes note of a header; whether it is passed on as it is.
    fn notice(&mut self, name: &str, value: &[u8]) -> Result<bool, BadAnswer> {
        let is = |other: &str| name.eq_ignore_ascii_case(other);
        Ok(match name.len() {
            2 => !is("te"),
            4 if is("date") => {
                self.dated = true;
                true
            }
            7 => !is("upgrade"),
            10 => !is("connection") && !is("keep-alive"),
            14 if is("content-length") => {
                let length = length(value, MOST_DIGITS).ok_or(BadAnswer)?;
                if self.length.replace(length).is_some_and(|before| before != length) {
                    return Err(BadAnswer);
                }
                false
            }
            16 => !is("proxy-connection"),
            17 if is("transfer-encoding") => {
                if !value.eq_ignore_ascii_case(b"chunked") || std::mem::replace(&mut self.chunked, true) {
                    return Err(BadAnswer);
                }
                false
            }
            18 => !is("proxy-authenticate"),
            19 => !is("proxy-authorization"),
            _ => true,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(head: &str, to_head: bool) -> Result<(Answer, String), BadAnswer> {
        let mut to = Vec::new();
        let (answer, len) = read(head.as_bytes(), to_head, &mut to)?.expect("a whole head");
        assert_eq!(len, head.len());
        Ok((answer, String::from_utf8(to).unwrap()))
    }

    fn framing(lines: &str) -> Result<(Framing, bool), BadAnswer> {
        of(&format!("{lines}\r\n"), false).map(|(answer, _)| (answer.framing, answer.keep))
    }

    #[test]
    fn what_speaks_of_the_servos_connection_goes() {
        let (answer, client) = of(
            "HTTP/1.1 200 Fine\r\nContent-Length: 3\r\nKeep-Alive: 5\r\nConnection: keep-alive, X-Own\r\nX-Own: 1\r\n\
             Upgrade: h2c\r\nDate: now\r\nSet-Cookie: a\r\nSet-Cookie: b\r\n\r\n",
            false,
        )
        .unwrap();
        assert_eq!(answer, Answer { status: 200, framing: Framing::Length(3), keep: true, dated: true });
        assert_eq!(client, "HTTP/1.1 200 Fine\r\nDate: now\r\nSet-Cookie: a\r\nSet-Cookie: b\r\ncontent-length: 3\r\n");
    }

    #[test]
    fn the_body_ends_where_the_head_says() {
        for (lines, framing_is, keep) in [
            ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n", Framing::Nothing, true),
            ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 3\r\n", Framing::Length(3), true),
            ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n", Framing::Length(3), false),
            ("HTTP/1.1 200 OK\r\ntransfer-encoding: Chunked\r\n", Framing::Chunked, true),
            ("HTTP/1.1 200 OK\r\n", Framing::Close, false),
            ("HTTP/1.1 200\r\n", Framing::Close, false),
            ("HTTP/1.0 200 OK\r\nContent-Length: 3\r\n", Framing::Length(3), false),
            ("HTTP/1.1 204 No Content\r\n", Framing::Nothing, true),
            ("HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n", Framing::Nothing, true),
            ("HTTP/1.1 100 Continue\r\n", Framing::Nothing, true),
        ] {
            assert_eq!(framing(lines), Ok((framing_is, keep)), "{lines:?}");
        }
        let (answer, client) = of("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", true).unwrap();
        assert_eq!((answer.framing, client.contains("content-length: 9")), (Framing::Nothing, true));
        assert!(!of("HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n", false).unwrap().1.contains("length"));
    }

    #[test]
    fn what_can_be_read_in_two_ways_is_refused() {
        for lines in [
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: +3\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 3, 3\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length:\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n",
            "HTTP/2 200 OK\r\n",
            "HTTP/1.1 20 OK\r\n",
            "HTTP/1.1 200 OK\r\nX-A : b\r\n",
            "HTTP/1.1 200 OK\r\nX-A: b\r\n c\r\n",
            "hello\r\n",
        ] {
            assert_eq!(framing(lines), Err(BadAnswer), "{lines:?}");
        }
    }
}
