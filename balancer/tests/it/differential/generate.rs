//! Cases out of seeds.

use std::collections::HashMap;
use std::fmt;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

/// What a client sends, and what servos answer.
pub struct Case {
    /// Begins each request's path.
    pub name: String,
    bytes: Vec<u8>,
    /// Where the bytes are cut into pieces.
    cuts: Vec<usize>,
    /// Of the requests, in order, as far as they are meant.
    pub methods: Vec<String>,
    /// By `case/request`.
    pub scripts: HashMap<String, Script>,
}

/// What a servo sends for a request.
#[derive(Debug, Clone)]
pub struct Script {
    pub answer: Vec<u8>,
    /// Whether it ends the connection after that.
    pub close: bool,
}

impl Default for Script {
    fn default() -> Self {
        Self { answer: b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\ndefault".to_vec(), close: false }
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let short = |bytes: &[u8]| {
            let text = String::from_utf8_lossy(bytes).into_owned();
            ["b", "r"].iter().fold(text, |text, body| text.replace(&body.repeat(50), "~"))
        };
        writeln!(f, "sent: {:?}, cut at {:?}", short(&self.bytes), self.cuts)?;
        for (key, script) in &self.scripts {
            writeln!(f, "{key}: {:?}, close {}", short(&script.answer), script.close)?;
        }
        Ok(())
    }
}

const METHODS: [&str; 12] =
    ["GET", "GET", "GET", "HEAD", "POST", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "get"];

const TARGETS: [&str; 14] =
    ["", "?a=b", "/x/y", "?q=%41", "/../x", "//x", "/a;b", "/\"", "/a#b", "/\\", "/ü", "/{x}", "?a=[1]", "/ x"];

/// Lines that are passed on, taken off, or refused.
const LINES: [&str; 48] = [
    "Accept: */*",
    "User-Agent: x (y; z)",
    "Cookie: a=b; c=d",
    "Cookie: e=f",
    "X-Long: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "X-Empty:",
    "X-Spaces:   a   ",
    "X-Tab:\ta\tb",
    "X-Latin: caf\u{e9}",
    "x-twice: 1",
    "X-Twice: 2",
    "X-Forwarded-For: 1.1.1.1",
    "x-forwarded-for: 2.2.2.2, 3.3.3.3",
    "X-Forwarded-Proto: https",
    "X-Forwarded-Host: evil",
    "Forwarded: for=1.1.1.1",
    "X-Request-Id: mine",
    "x-request-id: other",
    "Connection: keep-alive",
    "Connection: close",
    "Connection: Close",
    "Connection: x-twice",
    "Connection: keep-alive, X-Twice",
    "Connection: host, content-length",
    "Connection: TE",
    "Keep-Alive: timeout=5",
    "Proxy-Connection: keep-alive",
    "Proxy-Authorization: Basic x",
    "Proxy: http://evil",
    "TE: trailers",
    "Trailer: X-Sum",
    "Upgrade: h2c",
    "Connection: Upgrade, HTTP2-Settings",
    "HTTP2-Settings: AAMAAABkAAQAAP__",
    "Expect: 100-continue",
    "Expect: x",
    "Transfer-Encoding: identity",
    "Transfer-Encoding: gzip",
    "transfer-encoding : chunked",
    "Content-Length : 3",
    "Content-Length: 0",
    "Content-Length: +3",
    "Content-Length: 3, 3",
    "Content-Length: 18446744073709551617",
    "X-Fold: a\r\n b",
    "X-Return: a\rb",
    "X Y: z",
    ": z",
];

impl Case {
    pub fn new(seed: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let mut case = Self {
            name: format!("c{seed}"),
            bytes: Vec::new(),
            cuts: Vec::new(),
            methods: Vec::new(),
            scripts: HashMap::new(),
        };
        let count = random.random_range(1..=3);
        for at in 0..count {
            case.add_request(&mut random, at);
        }
        // Mostly the connection's end comes with the last answer, so that nobody waits.
        let last = format!("GET /{}/last HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n", case.name);
        case.bytes.extend_from_slice(last.as_bytes());
        case.methods.push("GET".to_owned());
        let cuts = if random.random_bool(0.3) { random.random_range(1..=3) } else { 0 };
        case.cuts = (0..cuts).map(|_| random.random_range(0..case.bytes.len())).collect();
        case.cuts.sort_unstable();
        case
    }

    pub fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        let ends = self.cuts.iter().copied().chain([self.bytes.len()]);
        ends.scan(0, |from, end| {
            let piece = &self.bytes[*from..end];
            *from = end;
            Some(piece)
        })
    }

    fn add_request(&mut self, random: &mut StdRng, at: usize) {
        let method = pick(random, &METHODS);
        // Nearly all plain, or the rest of the case is seldom reached.
        let strange = random.random_bool(0.5);
        let target = if strange { pick(random, &TARGETS) } else { "" };
        let path = format!("/{}/{at}{target}", self.name);
        let target = match random.random_range(0..30) {
            0 if strange => format!("http://a.example{path}"),
            1 if strange => format!("http://b.example{path}"),
            2 if strange => "*".to_owned(),
            _ => path,
        };
        let version = if strange && random.random_bool(0.1) {
            pick(random, &["HTTP/1.0", "HTTP/1.2", "HTTP/2.0", "HTTP/1.1 "])
        } else {
            "HTTP/1.1"
        };
        let mut lines = vec![
            match random.random_range(0..20) {
                0 if strange => pick(random, &["Host: b.example", "Host:", "Host: a.example/x", "Host: x@a.example", "X: y"]),
                1 => "host: A.Example:8080",
                2 => "Host: a.example.",
                3 if strange => "Host: a.example\r\nHost: a.example",
                _ => "Host: a.example",
            }
            .as_bytes()
            .to_vec(),
        ];
        let extra = if strange { LINES.len() } else { 17 };
        for _ in 0..random.random_range(0..4) {
            lines.push(latin1(LINES[random.random_range(0..extra)]));
        }
        let body = "b".repeat(pick(random, &[0, 1, 10, 300, 17_000]));
        let mut sent = body.clone().into_bytes();
        match random.random_range(0..10) {
            0..5 if !body.is_empty() || method == "POST" => lines.push(format!("Content-Length: {}", body.len()).into_bytes()),
            5 if strange => {
                let off: i64 = pick(random, &[-1, 1, 40]);
                lines.push(format!("Content-Length: {}", body.len() as i64 + off).into_bytes());
            }
            6 | 7 => {
                lines.push(b"Transfer-Encoding: chunked".to_vec());
                sent = chunked(random, body.as_bytes(), strange);
            }
            8 if strange => {
                lines.push(b"Transfer-Encoding: chunked".to_vec());
                lines.push(format!("Content-Length: {}", body.len()).into_bytes());
                sent = chunked(random, body.as_bytes(), false);
            }
            _ => sent.clear(),
        }
        let shift = random.random_range(0..lines.len());
        lines.rotate_left(shift);
        let mut head = format!("{method} {target} {version}\r\n").into_bytes();
        for line in lines {
            head.extend_from_slice(&line);
            let end: &[u8] = if strange && random.random_bool(0.01) { b"\n" } else { b"\r\n" };
            head.extend_from_slice(end);
        }
        head.extend_from_slice(b"\r\n");
        if random.random_bool(0.1) {
            mutate(random, &mut head);
        }
        self.bytes.extend_from_slice(&head);
        self.bytes.extend_from_slice(&sent);
        self.methods.push(method.to_owned());
        self.scripts.insert(format!("{}/{at}", self.name), script(random));
    }
}

/// What a servo answers.
fn script(random: &mut StdRng) -> Script {
    let strange = random.random_bool(0.3);
    let body = "r".repeat(pick(random, &[0, 1, 10, 3_000, 40_000]));
    let status = pick(
        random,
        &["200 OK", "200 OK", "200 OK", "404 Not Found", "500 Oh", "204 No Content", "304 Not Modified", "200", "101 X", "99 X"]
            [..if strange { 10 } else { 7 }],
    );
    let mut head = Vec::new();
    for _ in 0..(if strange { random.random_range(0..3) } else { 0 }) {
        head.extend_from_slice(pick(random, &["HTTP/1.1 100 Continue\r\n\r\n", "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"]).as_bytes());
    }
    let version = if strange { pick(random, &["HTTP/1.1", "HTTP/1.0", "HTTP/2.0"]) } else { "HTTP/1.1" };
    head.extend_from_slice(format!("{version} {status}\r\n").as_bytes());
    let lines = [
        "Content-Type: text/plain",
        "Set-Cookie: a=b",
        "Set-Cookie: c=d",
        "Date: Thu, 01 Jan 1970 00:00:00 GMT",
        "Server: x",
        "Connection: keep-alive",
        "Keep-Alive: timeout=5",
        "Connection: close",
        "Connection: x-own",
        "X-Own: 1",
        "Upgrade: h2c",
        "Proxy-Authenticate: x",
        "X-Fold: a\r\n b",
        "X Y: z",
        "X-Y : z",
        "X-Latin: caf\u{e9}",
    ];
    for _ in 0..random.random_range(0..4) {
        head.extend(latin1(lines[random.random_range(0..if strange { lines.len() } else { 12 })]));
        head.extend_from_slice(b"\r\n");
    }
    let (mut sent, mut close) = (body.clone().into_bytes(), random.random_bool(0.2));
    match random.random_range(0..10) {
        0..5 => head.extend(format!("Content-Length: {}\r\n", body.len()).into_bytes()),
        5 if strange => {
            let off = pick(random, &[-1, 1]);
            head.extend(format!("Content-Length: {}\r\n", (body.len() as i64 + off).max(0)).into_bytes());
            close = true;
        }
        6 if strange => {
            head.extend(b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n");
            sent = chunked(random, body.as_bytes(), false);
        }
        7 | 8 => {
            head.extend(b"Transfer-Encoding: chunked\r\n");
            sent = chunked(random, body.as_bytes(), strange);
            close |= strange;
        }
        _ => close = true,
    }
    head.extend_from_slice(b"\r\n");
    if strange && random.random_bool(0.2) {
        mutate(random, &mut head);
        close = true;
    }
    head.extend_from_slice(&sent);
    Script { answer: head, close }
}

fn chunked(random: &mut StdRng, body: &[u8], strange: bool) -> Vec<u8> {
    let mut sent = Vec::new();
    for chunk in body.chunks(random.random_range(1..=4_000)) {
        let size = if strange && random.random_bool(0.02) {
            pick(random, &["+1", "0x1", " 1", "1 ", "1;a=b", "fffffffffffffffff", "", "-1"]).to_owned()
        } else {
            format!("{:x}", chunk.len())
        };
        sent.extend_from_slice(format!("{size}\r\n").as_bytes());
        sent.extend_from_slice(chunk);
        sent.extend_from_slice(b"\r\n");
    }
    sent.extend_from_slice(if strange && random.random_bool(0.1) { b"0\r\nX-Sum: 1\r\n\r\n" } else { b"0\r\n\r\n" });
    if strange && random.random_bool(0.05) {
        mutate(random, &mut sent);
    }
    sent
}

/// Changes, adds or takes away a byte.
fn mutate(random: &mut StdRng, bytes: &mut Vec<u8>) {
    let at = random.random_range(0..bytes.len());
    let byte = pick(random, b"\0\r\n \t:;,/aA0%\"\\\x7f\x80\xff");
    match random.random_range(0..3) {
        0 => bytes[at] = byte,
        1 => bytes.insert(at, byte),
        _ => drop(bytes.remove(at)),
    }
}

fn pick<T: Copy>(random: &mut StdRng, all: &[T]) -> T {
    all[random.random_range(0..all.len())]
}

/// Each character as one byte.
fn latin1(text: &str) -> Vec<u8> {
    text.chars().map(|character| character as u8).collect()
}
