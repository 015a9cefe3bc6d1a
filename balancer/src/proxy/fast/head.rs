//! What requests' and answers' heads are made of.

/// Appends an answer's first line.
pub(super) fn put_status(to: &mut Vec<u8>, status: u16, reason: &str) {
    to.extend_from_slice(b"HTTP/1.1 ");
    to.extend_from_slice(status.to_string().as_bytes());
    to.push(b' ');
    to.extend_from_slice(reason.as_bytes());
    to.extend_from_slice(b"\r\n");
}

/// Appends a header.
pub(super) fn put_header(to: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    to.extend_from_slice(name);
    to.extend_from_slice(b": ");
    to.extend_from_slice(value);
    to.extend_from_slice(b"\r\n");
}

/// A `Content-Length` of at most `most_digits`, up to 18. Digits only: Rust's own reading takes a sign.
pub(super) fn length(value: &[u8], most_digits: usize) -> Option<u64> {
    let digits = (1..=most_digits).contains(&value.len()) && value.iter().all(u8::is_ascii_digit);
    digits.then(|| value.iter().fold(0, |length, digit| length * 10 + u64::from(digit - b'0')))
}
