//! Files that a person names and that are read as a whole: never more of them than they can rightly have.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// Of certificates, keys and authorities: the REST API takes this much in one request, and the bundle of all authorities of
/// a system has a quarter of it.
pub(crate) const MOST_PEM: u64 = 1024 * 1024;
/// Of a configuration or `pontoon.toml`, which people write by hand: a thousand times what they have.
pub(crate) const MOST_TOML: u64 = 1024 * 1024;
/// Of a file or a stream whose one line is a secret. Not less: the file may be any that was at hand, of which the first
/// line counts.
pub(crate) const MOST_SECRET: u64 = 1024 * 1024;
/// Of variables for an app: several times what an app may have of them.
pub(crate) const MOST_ENV: u64 = 1024 * 1024;

/// The text of the file at `path`, which has at most `most` bytes.
pub(crate) fn read(path: &Path, most: u64) -> io::Result<String> {
    let file = File::open(path)?;
    let long = |has: String| io::Error::other(format!("it has {has} bytes; the most is {most}: is it the right file?"));
    let metadata = file.metadata()?;
    if metadata.is_file() && metadata.len() > most {
        return Err(long(metadata.len().to_string()));
    }
    read_from(file, most)?.ok_or_else(|| long(format!("more than {most}")))
}

/// The text of the file at `path`, or of standard input if that is `-`.
pub(crate) fn read_or_stdin(path: &Path, most: u64) -> io::Result<String> {
    if path != Path::new("-") {
        return read(path, most);
    }
    let long = || io::Error::other(format!("it has more than {most} bytes: is it the right input?"));
    read_from(io::stdin(), most)?.ok_or_else(long)
}

/// The text that `from` gives to its end; none if that are more than `most` bytes. A pipe, a device or a file that grows has
/// no length that can be looked at first.
pub(crate) fn read_from(from: impl Read, most: u64) -> io::Result<Option<String>> {
    let mut bytes = Vec::new();
    from.take(most + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        return Ok(None);
    }
    String::from_utf8(bytes).map(Some).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.utf8_error()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_is_read_than_may_be_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let has = |bytes: u64| File::create(&path).unwrap().set_len(bytes).unwrap();
        has(10);
        assert_eq!(read(&path, 10).unwrap(), "\0".repeat(10));
        // A sparse file of 1 TiB, which no machine reads whole.
        has(1 << 40);
        let error = read(&path, 10).unwrap_err().to_string();
        assert!(error.starts_with("it has 1099511627776 bytes; the most is 10"), "{error}");
        let error = read(Path::new("/dev/zero"), 10).unwrap_err().to_string();
        assert!(error.starts_with("it has more than 10 bytes; the most is 10"), "{error}");
        std::fs::write(&path, b"\xff").unwrap();
        assert_eq!(read(&path, 10).unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert_eq!(read(&folder.path().join("none"), 10).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
