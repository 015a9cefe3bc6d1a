//! Where a head ends, before anything in it is read.

use memchr::memchr_iter;

/// What the beginning of a request or answer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scan {
    /// Its end has not come; the next look may begin at this place.
    Partial(usize),
    /// It is so long, the empty line included.
    Whole(usize),
    /// A line ends without a carriage return: readers differ in what that means.
    BareLineFeed,
}

/// Looks for the empty line in `bytes`; `from` is where an earlier look left off.
pub(super) fn head_end(bytes: &[u8], from: usize) -> Scan {
    for at in memchr_iter(b'\n', &bytes[from..]).map(|at| from + at) {
        if at == 0 || bytes[at - 1] != b'\r' {
            return Scan::BareLineFeed;
        }
        if at >= 3 && bytes[at - 3..at - 1] == *b"\r\n" {
            return Scan::Whole(at + 1);
        }
    }
    Scan::Partial(bytes.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_ends_with_the_empty_line_however_it_comes_in_pieces() {
        let head = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        let all = [&head[..], b"more\n"].concat();
        for cut in 0..head.len() {
            let Scan::Partial(from) = head_end(&all[..cut], 0) else { panic!("{cut}") };
            assert_eq!(head_end(&all, from), Scan::Whole(head.len()), "{cut}");
        }
    }

    #[test]
    fn a_line_without_carriage_return_is_told_apart() {
        for bad in ["GET / HTTP/1.1\nHost: a\r\n\r\n", "GET / HTTP/1.1\r\nHost: a\n\n", "\n", "a\r\n\n"] {
            assert_eq!(head_end(bad.as_bytes(), 0), Scan::BareLineFeed, "{bad:?}");
        }
    }
}
