//! What the fuzzer sees of this folder.

use super::super::client::Client;
use super::answer;
use super::chunks::{Chunks, Piece};
use super::request;
use super::scan::{self, Scan};

/// Names and values.
pub(crate) type Lines = Vec<(Vec<u8>, Vec<u8>)>;

pub(crate) fn carried(bytes: &[u8], client: &Client) -> Option<(String, Lines)> {
    let Scan::Whole(len) = scan::head_end(bytes, 0) else { return None };
    let mut to = Vec::new();
    request::read(&bytes[..len], client, &mut to)?;
    let (line, lines) = lines(&to);
    Some((String::from_utf8(line).expect("a first line of ASCII"), lines))
}

pub(crate) fn answered(bytes: &[u8], to_head: bool) -> Option<Lines> {
    let mut to = Vec::new();
    answer::read(bytes, to_head, &mut to).ok()??;
    to.extend_from_slice(b"\r\n");
    Some(lines(&to).1)
}

/// The data, and whether the body has ended; none if it is not in chunks.
pub(crate) fn dechunked(pieces: &[&[u8]]) -> Option<(Vec<u8>, bool)> {
    let (mut chunks, mut data) = (Chunks::default(), Vec::new());
    for piece in pieces {
        let mut from = 0;
        loop {
            match chunks.next(piece, &mut from).ok()? {
                Piece::Data(at) => data.extend_from_slice(&piece[at]),
                Piece::More => break,
                Piece::End => return Some((data, true)),
            }
        }
    }
    Some((data, false))
}

/// First line and headers of what must be exactly one head.
fn lines(head: &[u8]) -> (Vec<u8>, Lines) {
    assert_eq!(scan::head_end(head, 0), Scan::Whole(head.len()), "not one head");
    let text = head.strip_suffix(b"\r\n\r\n").expect("an empty line");
    assert!(!text.contains(&0), "a zero byte");
    let mut lines = text.split(|&byte| byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let first = lines.next().expect("a first line").to_vec();
    let pair = |line: &[u8]| {
        assert!(!line.contains(&b'\r'), "a bare carriage return");
        let colon = line.iter().position(|&byte| byte == b':').expect("a colon");
        (line[..colon].to_vec(), line[colon + 1..].trim_ascii().to_vec())
    };
    (first, lines.map(pair).collect())
}
