//! A sha256 taken while bytes pass.

use std::io::{self, Write};

use pontoon_model::Digest;
use sha2::{Digest as _, Sha256};

/// Passes on what is written, and remembers its sha256 and length.
pub(crate) struct Hashing<W> {
    inner: W,
    hash: Sha256,
    len: u64,
}

impl<W: Write> Hashing<W> {
    pub(crate) fn new(inner: W) -> Self {
        Self { inner, hash: Sha256::new(), len: 0 }
    }

    /// What was passed to, the sha256, and the length in bytes.
    pub(crate) fn finish(mut self) -> io::Result<(W, Digest, u64)> {
        self.inner.flush()?;
        Ok((self.inner, Digest(self.hash.finalize().into()), self.len))
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(bytes)?;
        self.hash.update(&bytes[..count]);
        self.len += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passes_is_hashed() {
        let mut hashing = Hashing::new(Vec::new());
        hashing.write_all(b"pon").unwrap();
        hashing.write_all(b"toon").unwrap();
        assert_eq!(hashing.finish().unwrap(), (b"pontoon".to_vec(), Digest::of(b"pontoon"), 7));
    }
}
