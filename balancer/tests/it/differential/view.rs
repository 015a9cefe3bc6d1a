//! What an end of a connection saw, without what may differ.

use super::super::support::http::Message;

/// Shown by its size and beginning.
#[derive(Clone, PartialEq, Eq)]
struct Body(Vec<u8>);

impl std::fmt::Debug for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes {:?}", self.0.len(), String::from_utf8_lossy(&self.0[..self.0.len().min(60)]))
    }
}

/// A request as it reached the servo.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reached {
    line: String,
    headers: Vec<String>,
    body: Body,
}

impl Reached {
    pub fn of(request: &Message) -> Self {
        let headers = headers(request.head.as_bytes())
            .into_iter()
            // Made at random; how a body is framed is the proxy's own.
            .filter(|(name, value)| !(name == "x-request-id" && value.len() == 32) && name != "transfer-encoding");
        let mut headers: Vec<_> = headers.map(|(name, value)| format!("{name}: {value}")).collect();
        headers.sort();
        // To a servo that answered with HTTP/1.0 hyper speaks HTTP/1.0, and asks it to keep the connection.
        let line = request.first_line().replace(" HTTP/1.0", " HTTP/1.1");
        if line != request.first_line() {
            headers.retain(|header| !header.starts_with("connection: keep-alive"));
        }
        Self { line, headers, body: Body(request.body.clone()) }
    }
}

/// A request that was tried twice counts once.
pub fn without_repeats(mut all: Vec<Reached>) -> Vec<Reached> {
    all.dedup();
    all
}

/// Name in lower case and value of each.
fn headers(head: &[u8]) -> Vec<(String, String)> {
    let lines = head.split(|&byte| byte == b'\n').skip(1);
    let pairs = lines.filter_map(|line| {
        let colon = line.iter().position(|&byte| byte == b':')?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        Some((text(&line[..colon]).to_ascii_lowercase(), text(&line[colon + 1..])))
    });
    pairs.collect()
}

/// What came back to the client.
#[derive(Debug, PartialEq, Eq)]
pub struct Answers(Vec<Answer>);

#[derive(Debug, PartialEq, Eq)]
struct Answer {
    status: String,
    headers: Vec<String>,
    body: Body,
    /// The connection ended in the middle of it.
    cut: bool,
}

impl Answers {
    /// `methods` of the requests, in order: an answer to HEAD has no body.
    pub fn of(mut bytes: &[u8], methods: &[String]) -> Self {
        let mut all = Vec::new();
        while let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            let (head, rest) = bytes.split_at(end + 4);
            let line = head.split(|&byte| byte == b'\r').next().unwrap_or_default();
            let status = String::from_utf8_lossy(line).into_owned();
            let headers = headers(head);
            let is_interim = status.split(' ').nth(1).is_some_and(|code| code.starts_with('1') && code != "101");
            if is_interim {
                bytes = rest;
                continue;
            }
            let to_head = methods.get(all.len()).is_some_and(|method| method == "HEAD");
            let (body, rest) = body(&headers, to_head, &status, rest);
            bytes = rest.unwrap_or_default();
            // A 304 may say how long the body would be, or not; of a 204 nobody reads it.
            let free = |name: &str| matches!(status.split(' ').nth(1).unwrap_or_default(), "304" | "204") && name == "content-length";
            let own =
                |(name, _): &&(String, String)| name != "date" && name != "transfer-encoding" && !free(name);
            let mut headers: Vec<_> = headers.iter().filter(own).map(|(name, value)| format!("{name}: {value}")).collect();
            headers.sort();
            all.push(Answer { status, headers, body: Body(body), cut: rest.is_none() });
        }
        Self(all)
    }

    /// Whether the last is a refusal of the balancer's: whether it reads on behind the body of what it refused is chance.
    pub fn is_refused(&self) -> bool {
        let own = |answer: &Answer| answer.headers.iter().any(|header| header.starts_with("x-pontoon-error"));
        self.0.last().is_some_and(own)
    }

    /// Whether a servo's answer was refused.
    pub fn has_bad_gateway(&self) -> bool {
        self.0.iter().any(|answer| answer.status.contains(" 502 "))
    }

    /// Whether each is the same, or a refusal in place of a servo's answer; after one that is cut or refused the
    /// connection may end.
    pub fn is_as_strict_as(&self, other: &Self) -> bool {
        for (at, theirs) in other.0.iter().enumerate() {
            let Some(ours) = self.0.get(at) else { return theirs.cut || self.is_refused() };
            if ours.cut && theirs.cut {
                // How much was passed on before the end is chance.
                return ours.status == theirs.status;
            }
            if ours != theirs {
                // hyper ends the connection, unread bytes and all, when the request behind the one it answers is refused.
                let refused = self.0.get(at + 1).is_some_and(|next| next.status.contains(" 400 "));
                if theirs.cut && refused {
                    return true;
                }
                return ours.status.contains(" 502 ") || ours.cut;
            }
        }
        // hyper ends a connection where we say that the servo's answer is not understood.
        if self.0.len() > other.0.len() && self.has_bad_gateway() {
            return true;
        }
        // An answer that is cut before its first byte is none.
        self.0.len() == other.0.len() || self.0[other.0.len()..].iter().all(|answer| answer.cut)
    }
}

/// The body and what comes behind it; none behind one that is cut.
fn body<'b>(
    headers: &[(String, String)],
    to_head: bool,
    status: &str,
    rest: &'b [u8],
) -> (Vec<u8>, Option<&'b [u8]>) {
    let code = status.split(' ').nth(1).unwrap_or_default();
    if to_head || matches!(code, "204" | "304") {
        return (Vec::new(), Some(rest));
    }
    let header = |name: &str| headers.iter().find(|(of, _)| of == name).map(|(_, value)| value.as_str());
    if header("transfer-encoding").is_some() {
        return chunked(rest);
    }
    let length = header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    if rest.len() < length {
        return (rest.to_vec(), None);
    }
    (rest[..length].to_vec(), Some(&rest[length..]))
}

fn chunked(mut rest: &[u8]) -> (Vec<u8>, Option<&[u8]>) {
    let mut body = Vec::new();
    loop {
        let Some(end) = rest.windows(2).position(|two| two == b"\r\n") else { return (body, None) };
        let size = std::str::from_utf8(&rest[..end]).ok().and_then(|size| usize::from_str_radix(size, 16).ok());
        rest = &rest[end + 2..];
        let Some(size) = size.filter(|size| rest.len() >= size + 2) else { return (body, None) };
        body.extend_from_slice(&rest[..size]);
        rest = &rest[size + 2..];
        if size == 0 {
            return (body, Some(rest));
        }
    }
}
