//! Servos' output in files.

use std::fs::{self, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::stream::{BoxStream, StreamExt};
use pontoon_model::ServoId;
use pontoon_proto::LogLine;
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::record::Record;
use crate::lines;
use crate::runtime::RuntimeError;

pub(super) const OUT: &str = "out.log";
pub(super) const ERR: &str = "err.log";
/// A file that grew beyond this is emptied: the newest output matters.
const MAX_BYTES: u64 = 8 * 1024 * 1024;
/// How often a followed file is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Lines not yet taken.
const QUEUE: usize = 256;

/// Keeps the files from filling the disk. The process appends, so it goes on at the file's new beginning.
pub(super) fn bound(folder: &Path) -> io::Result<()> {
    for name in [OUT, ERR] {
        let path = folder.join(name);
        if fs::metadata(&path).is_ok_and(|found| found.len() > MAX_BYTES) {
            OpenOptions::new().write(true).open(&path)?.set_len(0)?;
        }
    }
    Ok(())
}

/// The lines of both files, stdout first; followed until the servo is removed (a one-off: until it ended).
pub(super) fn read(
    servo: ServoId,
    folder: PathBuf,
    tail: Option<u32>,
    follow: bool,
) -> BoxStream<'static, Result<LogLine, RuntimeError>> {
    let (sender, receiver) = mpsc::channel(QUEUE);
    tokio::spawn(async move {
        if let Err(error) = copy(&folder, tail, follow, &sender).await {
            // Fails when the reader has gone.
            let _ = sender.send(Err(RuntimeError::Log { servo, why: error.to_string() })).await;
        }
    });
    ReceiverStream::new(receiver).boxed()
}

type Sink = mpsc::Sender<Result<LogLine, RuntimeError>>;

async fn copy(folder: &Path, tail: Option<u32>, follow: bool, sink: &Sink) -> io::Result<()> {
    let mut files = [Tailed::new(folder.join(OUT), false), Tailed::new(folder.join(ERR), true)];
    let mut first = true;
    loop {
        // Asked before reading: what was written before the end is then surely read.
        let may_grow = follow
            && Record::read(folder)?.is_some_and(|record| !record.one_off || record.is_alive())
            && !sink.is_closed();
        let mut found = Vec::new();
        for file in &mut files {
            found.extend(file.read(!may_grow).await?);
        }
        if let Some(tail) = tail.filter(|_| first) {
            found.drain(..found.len().saturating_sub(tail as usize));
        }
        first = false;
        for line in found {
            if sink.send(Ok(line)).await.is_err() {
                return Ok(());
            }
        }
        if !may_grow {
            return Ok(());
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

struct Tailed {
    path: PathBuf,
    stderr: bool,
    at: u64,
    rest: Vec<u8>,
}

impl Tailed {
    fn new(path: PathBuf, stderr: bool) -> Self {
        Self { path, stderr, at: 0, rest: Vec::new() }
    }

    /// The whole lines since the last call; with `all`, a last one without its end too.
    async fn read(&mut self, all: bool) -> io::Result<Vec<LogLine>> {
        let mut file = match tokio::fs::File::open(&self.path).await {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        if file.metadata().await?.len() < self.at {
            // It was emptied.
            (self.at, self.rest) = (0, Vec::new());
        }
        file.seek(io::SeekFrom::Start(self.at)).await?;
        // Bounded by the size at which files are emptied.
        self.at += file.take(2 * MAX_BYTES).read_to_end(&mut self.rest).await? as u64;
        let end = match self.rest.iter().rposition(|byte| *byte == b'\n') {
            _ if all => self.rest.len(),
            Some(end) => end + 1,
            None => return Ok(Vec::new()),
        };
        let whole: Vec<u8> = self.rest.drain(..end).collect();
        let text = String::from_utf8_lossy(&whole);
        let stderr = self.stderr;
        Ok(text.lines().map(|line| LogLine { at: None, stderr, text: lines::clip(line) }).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::TryStreamExt;

    async fn texts(folder: &Path, tail: Option<u32>) -> Vec<String> {
        let lines: Vec<LogLine> = read(ServoId(1), folder.to_owned(), tail, false).try_collect().await.unwrap();
        lines.into_iter().map(|line| line.text).collect()
    }

    #[tokio::test]
    async fn both_files_are_read_and_the_tail_is_the_newest() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(OUT), "1\n2\n").unwrap();
        fs::write(folder.path().join(ERR), "oh\nno end").unwrap();
        assert_eq!(texts(folder.path(), None).await, ["1", "2", "oh", "no end"]);
        assert_eq!(texts(folder.path(), Some(2)).await, ["oh", "no end"]);
    }

    #[tokio::test]
    async fn a_file_that_was_emptied_is_read_from_its_beginning() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(OUT);
        fs::write(&path, "a long line\n").unwrap();
        let mut tailed = Tailed::new(path.clone(), false);
        assert_eq!(tailed.read(false).await.unwrap().len(), 1);
        fs::write(&path, "new\n").unwrap();
        assert_eq!(tailed.read(false).await.unwrap()[0].text, "new");
    }
}
