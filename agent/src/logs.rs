//! Output on its way to a reader.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use pontoon_model::{BuildId, ServoId, ServoStatus, Timestamp};
use pontoon_proto::{LogChunk, LogLine, LogRequest, LogSource};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::board::BoardFeed;
use crate::build_log;
use crate::controllers::Client;
use crate::runtime::{Runtime, RuntimeError};

/// Lines in one chunk (as `LogChunk` promises).
const LINES_PER_CHUNK: usize = 200;
/// Chunks on the way: a slow reader slows the reading, not the servo.
const QUEUE: usize = 4;
/// How often something that is not there yet is looked for.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// How long a log of something unknown is waited for: its assignment may be on its way.
const UNKNOWN_FOR: Duration = Duration::from_secs(5);

/// Reads logs for sessions.
#[derive(Clone)]
pub(crate) struct LogReader {
    pub(crate) runtime: Arc<dyn Runtime>,
    pub(crate) board: BoardFeed,
    pub(crate) builds: PathBuf,
}

type Sink = mpsc::Sender<LogChunk>;

impl LogReader {
    /// Sends what `request` asks for to the controller as `stream`, to its end.
    pub(crate) async fn push(self, mut client: Client, stream: u64, request: LogRequest) {
        let (sink, receiver) = mpsc::channel(QUEUE);
        let reading = async move {
            let end = match request.source {
                LogSource::Servo(servo) => self.servo(stream, servo, &request, &sink).await,
                LogSource::Build(build) => self.build(stream, build, &request, &sink).await,
            };
            let end = Some(end.err().unwrap_or_default());
            // Fails only when the reader has gone, and then nobody needs it.
            let _ = sink.send(LogChunk { stream, lines: Vec::new(), end }).await;
        };
        let pushing = client.push_log(ReceiverStream::new(receiver));
        if let (Err(status), ()) = tokio::join!(pushing, reading) {
            tracing::debug!(why = status.message(), "a log's reader went away");
        }
    }

    async fn servo(&self, stream: u64, servo: ServoId, request: &LogRequest, sink: &Sink) -> Result<(), String> {
        self.until_known(servo).await?;
        let (mut tail, mut since) = (request.tail, None);
        let mut any = false;
        loop {
            let lines = self.runtime.logs(servo, tail, since, request.follow);
            let mut chunks = std::pin::pin!(lines.ready_chunks(LINES_PER_CHUNK));
            let mut failed = None;
            while let Some(chunk) = chunks.next().await {
                let mut lines = Vec::with_capacity(chunk.len());
                for line in chunk {
                    match line {
                        Ok(line) => lines.push(line),
                        Err(error) => failed = Some(error),
                    }
                }
                since = lines.iter().filter_map(|line: &LogLine| line.at).max().or(since);
                any |= !lines.is_empty();
                if !lines.is_empty() && sink.send(LogChunk { stream, lines, end: None }).await.is_err() {
                    return Ok(());
                }
            }
            let said_all = any && failed.is_none() && self.board.borrow().one_offs.contains(&servo);
            if !request.follow || said_all || !self.may_say_more(servo) {
                return match failed {
                    // Its container is gone, or not there yet.
                    Some(RuntimeError::NoLog(_)) if any || !self.is_ready(servo) => Ok(()),
                    Some(error) => Err(error.to_string()),
                    None => Ok(()),
                };
            }
            // It is not made yet, or it ended and is about to be started again.
            tail = None;
            since = since.or(Some(Timestamp(0)));
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// Waits until the servo is on the board.
    async fn until_known(&self, servo: ServoId) -> Result<(), String> {
        let mut board = self.board.clone();
        let known = board.wait_for(|board| board.servos.contains_key(&servo));
        match tokio::time::timeout(UNKNOWN_FOR, known).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(format!("servo {servo} is not on this host any more")),
        }
    }

    fn may_say_more(&self, servo: ServoId) -> bool {
        let board = self.board.borrow();
        match board.servos.get(&servo).map(|report| &report.status) {
            None | Some(ServoStatus::Gone) => false,
            Some(ServoStatus::Exited(_)) => !board.one_offs.contains(&servo),
            Some(_) => true,
        }
    }

    fn is_ready(&self, servo: ServoId) -> bool {
        self.board.borrow().servos.get(&servo).is_some_and(|report| report.status == ServoStatus::Ready)
    }

    async fn build(&self, stream: u64, build: BuildId, request: &LogRequest, sink: &Sink) -> Result<(), String> {
        let mut reader = build_log::Reader::new(&build_log::path(&self.builds, build));
        let mut skip_to = request.tail;
        let mut unknown_since = None;
        loop {
            // Asked before reading: what was written before the end is then surely read.
            let ended = self.build_ended(build);
            let mut lines =
                reader.read().await.map_err(|error| format!("cannot read the log of build {build}: {error}"))?;
            if let Some(tail) = skip_to.take_if(|_| !lines.is_empty() || ended.is_some()) {
                lines.drain(..lines.len().saturating_sub(tail as usize));
            }
            for part in lines.chunks(LINES_PER_CHUNK) {
                if sink.send(LogChunk { stream, lines: part.to_vec(), end: None }).await.is_err() {
                    return Ok(());
                }
            }
            match ended {
                Some(true) => return Ok(()),
                Some(false) if !request.follow => return Ok(()),
                Some(false) => unknown_since = None,
                // Not assigned: over long ago, or not yet here.
                None if reader.exists() => return Ok(()),
                None => {
                    let since = *unknown_since.get_or_insert_with(tokio::time::Instant::now);
                    if !request.follow || since.elapsed() >= UNKNOWN_FOR {
                        return Err(format!("the log of build {build} is not on this host any more"));
                    }
                }
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    fn build_ended(&self, build: BuildId) -> Option<bool> {
        self.board.borrow().builds.get(&build).map(Option::is_some)
    }
}

/// Removes all but the newest build logs.
pub(crate) fn collect_garbage(folder: &Path) -> std::io::Result<()> {
    /// Enough to look back; each is at most a few MiB.
    const KEPT: usize = 30;
    let mut logs: Vec<(std::time::SystemTime, PathBuf)> = std::fs::read_dir(folder)?
        .map(|entry| entry.and_then(|entry| Ok((entry.metadata()?.modified()?, entry.path()))))
        .collect::<Result<_, _>>()?;
    logs.sort_by(|one, other| other.cmp(one));
    logs.into_iter().skip(KEPT).try_for_each(|(_, path)| std::fs::remove_file(path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::board::Board;
    use crate::runtime::Launch;
    use crate::runtime::fake::FakeRuntime;
    use crate::testing::spec;
    use pontoon_model::{Exit, HostName, ServoReport};
    use tokio::sync::watch;

    /// Lines and end of a log of servo 1, which is on the board with this status.
    async fn log(runtime: FakeRuntime, status: ServoStatus, follow: bool) -> (Vec<String>, Result<(), String>) {
        let servo = ServoId(1);
        let report = ServoReport { servo, status, address: None, restarts: 0, limits_enforced: true };
        let board =
            Board { servos: [(servo, Arc::new(report))].into(), one_offs: [servo].into(), ..Default::default() };
        let (_board, feed) = watch::channel(Arc::new(board));
        let reader = LogReader { runtime: Arc::new(runtime), board: feed, builds: PathBuf::new() };
        let host = HostName::new("h1").unwrap();
        let request = LogRequest { host, source: LogSource::Servo(servo), follow, tail: None };
        let (sink, mut chunks) = mpsc::channel(QUEUE);
        let end = reader.servo(1, servo, &request, &sink).await;
        drop(sink);
        let mut lines = Vec::new();
        while let Some(chunk) = chunks.recv().await {
            lines.extend(chunk.lines.into_iter().map(|line| line.text));
        }
        (lines, end)
    }

    fn engine() -> FakeRuntime {
        FakeRuntime::new([127, 0, 0, 1].into())
    }

    #[tokio::test]
    async fn a_log_that_is_gone_ends_without_a_word() {
        let exit = Exit { code: 0, reason: "exited".into(), last_lines: Vec::new() };
        for status in [ServoStatus::exited(exit), ServoStatus::Gone, ServoStatus::Starting] {
            assert_eq!(log(engine(), status, false).await, (vec![], Ok(())));
        }
    }

    #[tokio::test]
    async fn a_running_servo_without_a_log_is_told() {
        let (lines, end) = log(engine(), ServoStatus::Ready, false).await;
        assert!(lines.is_empty() && end.as_ref().is_err_and(|why| why.contains("s1 has no log")), "{end:?}");
    }

    #[tokio::test]
    async fn a_one_offs_log_is_followed_once_even_if_its_exit_is_not_known_yet() {
        let engine = engine();
        let launch = Launch { spec: spec(1), bundle: PathBuf::new(), port: None };
        engine.start(launch).await.unwrap();
        assert_eq!(log(engine, ServoStatus::Ready, true).await, (vec!["output of s1".to_owned()], Ok(())));
    }
}
