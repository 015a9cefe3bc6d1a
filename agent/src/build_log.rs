//! A build's output in a file: lines of `milliseconds o|e text`, written live and read live.

use std::io;
use std::path::{Path, PathBuf};

use pontoon_model::{BuildId, Timestamp};
use pontoon_proto::LogLine;
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::lines;

/// More output than this is no longer read by anyone.
const MAX_BYTES: u64 = 8 * 1024 * 1024;
/// Read at a time.
const READ_BYTES: u64 = 256 * 1024;

pub(crate) fn path(folder: &Path, build: BuildId) -> PathBuf {
    folder.join(format!("{build}.log"))
}

/// Writes a build's log.
pub(crate) struct Writer {
    file: File,
    left: u64,
}

impl Writer {
    /// Begins the log at `path` anew.
    pub(crate) async fn create(path: &Path) -> io::Result<Self> {
        Ok(Self { file: File::create(path).await?, left: MAX_BYTES })
    }

    pub(crate) async fn write(&mut self, line: &LogLine) -> io::Result<()> {
        if self.left == 0 {
            return Ok(());
        }
        let mut text = encode(line);
        match self.left.checked_sub(text.len() as u64) {
            Some(left) => self.left = left,
            None => {
                self.left = 0;
                let cut =
                    format!("… the output is longer than {} MiB; the rest is left out", MAX_BYTES / (1024 * 1024));
                text = encode(&LogLine { text: cut, ..line.clone() });
            }
        }
        self.file.write_all(text.as_bytes()).await?;
        self.file.flush().await
    }
}

fn encode(line: &LogLine) -> String {
    let kind = if line.stderr { 'e' } else { 'o' };
    let at = line.at.map_or(0, |at| at.0);
    format!("{at} {kind} {}\n", line.text.replace('\n', " "))
}

fn decode(text: &str) -> LogLine {
    let mut parts = text.splitn(3, ' ');
    let (at, kind, rest) = (parts.next(), parts.next(), parts.next());
    LogLine {
        at: at.and_then(|at| at.parse().ok()).filter(|at| *at > 0).map(Timestamp),
        stderr: kind == Some("e"),
        text: lines::clip(rest.unwrap_or_default()),
    }
}

/// Reads a build's log while it grows.
pub(crate) struct Reader {
    path: PathBuf,
    file: Option<File>,
    rest: Vec<u8>,
}

impl Reader {
    pub(crate) fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), file: None, rest: Vec::new() }
    }

    /// Whether there is a log at all.
    pub(crate) fn exists(&self) -> bool {
        self.file.is_some()
    }

    /// The whole lines that came since the last call.
    pub(crate) async fn read(&mut self) -> io::Result<Vec<LogLine>> {
        if self.file.is_none() {
            match File::open(&self.path).await {
                Ok(file) => self.file = Some(file),
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
                Err(error) => return Err(error),
            }
        }
        let Some(file) = &mut self.file else { return Ok(Vec::new()) };
        let mut lines = Vec::new();
        while (&mut *file).take(READ_BYTES).read_to_end(&mut self.rest).await? > 0 {
            let Some(end) = self.rest.iter().rposition(|byte| *byte == b'\n') else { continue };
            let whole = String::from_utf8_lossy(&self.rest[..end]).into_owned();
            self.rest.drain(..=end);
            lines.extend(whole.split('\n').map(decode));
        }
        Ok(lines)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(at: Option<u64>, stderr: bool, text: &str) -> LogLine {
        LogLine { at: at.map(Timestamp), stderr, text: text.into() }
    }

    #[tokio::test]
    async fn what_is_written_is_read_while_it_grows() {
        let folder = tempfile::tempdir().unwrap();
        let path = path(folder.path(), BuildId(3));
        let mut reader = Reader::new(&path);
        assert_eq!(reader.read().await.unwrap(), []);
        assert!(!reader.exists());
        let mut writer = Writer::create(&path).await.unwrap();
        let first = [line(Some(5), false, "a b c"), line(None, true, "")];
        for line in &first {
            writer.write(line).await.unwrap();
        }
        assert_eq!(reader.read().await.unwrap(), first);
        writer.write(&line(Some(6), true, "end")).await.unwrap();
        assert_eq!(reader.read().await.unwrap(), [line(Some(6), true, "end")]);
        assert_eq!(reader.read().await.unwrap(), []);
    }

    #[tokio::test]
    async fn endless_output_is_cut_and_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let mut writer = Writer { file: File::create(&path).await.unwrap(), left: 30 };
        for _ in 0..9 {
            writer.write(&line(Some(1), false, "ten letters")).await.unwrap();
        }
        let lines = Reader::new(&path).read().await.unwrap();
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(lines[1].text.contains("left out"), "{lines:?}");
    }
}
