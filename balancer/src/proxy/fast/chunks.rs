//! A chunked body (RFC 9112, 7.1), read strictly: what is not understood ends the answer.

use std::ops::Range;

/// Longest line with a chunk's size, its extensions included.
const LONGEST_SIZE_LINE: usize = 256;
/// Most bytes of lines behind the last chunk.
const LONGEST_TRAILER: usize = 16 * 1024;
/// Digits of a chunk's size: 2^60 bytes are enough.
const MOST_DIGITS: usize = 15;

/// Where in the body the reader is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Chunks {
    at: At,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    /// In the line with a size, with so many digits.
    Size {
        size: u64,
        digits: usize,
    },
    /// Behind the digits, up to the line's end; so long so far.
    Extension {
        size: u64,
        line: usize,
    },
    /// The carriage return of that line was read.
    SizeEnd {
        size: u64,
    },
    Data {
        left: u64,
    },
    DataEnd,
    DataEndReturn,
    /// In the lines behind the last chunk: bytes in this line, and in all.
    Trailer {
        line: usize,
        all: usize,
    },
    TrailerReturn {
        line: usize,
        all: usize,
    },
    End,
}

/// What came next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    /// Data, at this place of the bytes.
    Data(Range<usize>),
    /// The bytes are used up.
    More,
    /// The body has ended; what comes behind it was not read.
    End,
}

/// Not a chunked body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the body is not in chunks as it says")]
pub(crate) struct BadChunk;

impl Default for Chunks {
    fn default() -> Self {
        Self { at: At::START }
    }
}

impl Chunks {
    /// Reads on in `bytes` from `from`, which is moved behind what was read.
    pub(crate) fn next(&mut self, bytes: &[u8], from: &mut usize) -> Result<Piece, BadChunk> {
        while *from < bytes.len() {
            if let At::Data { left } = self.at {
                let len = left.min((bytes.len() - *from) as u64) as usize;
                let data = *from..*from + len;
                *from += len;
                let left = left - len as u64;
                self.at = if left == 0 { At::DataEnd } else { At::Data { left } };
                return Ok(Piece::Data(data));
            }
            if self.at == At::End {
                break;
            }
            self.at = self.at.step(bytes[*from])?;
            *from += 1;
        }
        Ok(if self.at == At::End { Piece::End } else { Piece::More })
    }

    /// Whether it has ended.
    pub(crate) fn is_ended(&self) -> bool {
        self.at == At::End
    }
}

impl At {
    const START: Self = Self::Size { size: 0, digits: 0 };

    fn step(self, byte: u8) -> Result<Self, BadChunk> {
        Ok(match (self, byte) {
            (Self::Size { size, digits }, _) if byte.is_ascii_hexdigit() && digits < MOST_DIGITS => {
                let digit = (byte as char).to_digit(16).ok_or(BadChunk)?;
                Self::Size { size: size << 4 | u64::from(digit), digits: digits + 1 }
            }
            (Self::Size { size, digits: 1.. }, b'\r') => Self::SizeEnd { size },
            (Self::Size { size, digits: digits @ 1.. }, b';' | b' ' | b'\t') => {
                Self::Extension { size, line: digits + 1 }
            }
            (Self::Extension { size, .. }, b'\r') => Self::SizeEnd { size },
            (Self::Extension { size, line }, b'\t' | b' '..=b'~') if line < LONGEST_SIZE_LINE => {
                Self::Extension { size, line: line + 1 }
            }
            (Self::SizeEnd { size: 0 }, b'\n') => Self::Trailer { line: 0, all: 0 },
            (Self::SizeEnd { size }, b'\n') => Self::Data { left: size },
            (Self::DataEnd, b'\r') => Self::DataEndReturn,
            (Self::DataEndReturn, b'\n') => Self::START,
            (Self::Trailer { line, all }, b'\r') => Self::TrailerReturn { line, all },
            (Self::Trailer { line, all }, _) if byte != b'\n' && all < LONGEST_TRAILER => {
                Self::Trailer { line: line + 1, all: all + 1 }
            }
            (Self::TrailerReturn { line: 0, .. }, b'\n') => Self::End,
            (Self::TrailerReturn { all, .. }, b'\n') => Self::Trailer { line: 0, all },
            _ => return Err(BadChunk),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The data of `pieces`, and how much of the last was left when the body ended.
    fn read(pieces: &[&[u8]]) -> Result<(Vec<u8>, Option<usize>), BadChunk> {
        let (mut chunks, mut data) = (Chunks::default(), Vec::new());
        for piece in pieces {
            let mut from = 0;
            loop {
                match chunks.next(piece, &mut from)? {
                    Piece::Data(at) => data.extend_from_slice(&piece[at]),
                    Piece::More => break,
                    Piece::End => return Ok((data, Some(piece.len() - from))),
                }
            }
        }
        Ok((data, None))
    }

    const BODY: &[u8] = b"4\r\nWiki\r\n5;a=\"b\"\r\npedia\r\nA \r\n in chunks\r\n00\r\nX-Sum: 1\r\n\r\nnext";

    #[test]
    fn the_data_comes_out_however_the_bytes_are_cut() {
        let whole = (b"Wikipedia in chunks".to_vec(), Some(4));
        assert_eq!(read(&[BODY]).unwrap(), whole);
        for cut in 1..BODY.len() - 4 {
            assert_eq!(read(&[&BODY[..cut], &BODY[cut..]]).unwrap(), whole, "{cut}");
        }
        assert_eq!(read(&[&BODY[..BODY.len() - 5]]).unwrap().1, None, "the end has not come");
    }

    #[test]
    fn what_is_not_in_chunks_is_refused() {
        let long_line = [b"1;".as_slice(), &[b'a'; LONGEST_SIZE_LINE], b"\r\na\r\n"].concat();
        let long_trailer = [b"0\r\n".as_slice(), &[b'a'; LONGEST_TRAILER + 1], b"\r\n\r\n"].concat();
        for bad in [
            b"\r\n".as_slice(),
            b"g\r\n",
            b"+4\r\nWiki\r\n",
            b"-4\r\n",
            b"0x4\r\nWiki\r\n",
            b" 4\r\nWiki\r\n",
            b"4\nWiki\r\n",
            b"4\rWiki\r\n",
            b"4\r\nWikip\r\n",
            b"4\r\nWiki\n",
            b"4;a\0\r\nWiki\r\n",
            b"4;a\nb\r\nWiki\r\n",
            b"1234567890123456\r\n",
            b"0\r\na\n\r\n",
            b"0\r\n\n",
            &long_line,
            &long_trailer,
        ] {
            assert_eq!(read(&[bad]), Err(BadChunk), "{:?}", String::from_utf8_lossy(&bad[..bad.len().min(40)]));
        }
    }
}
