//! Output of servos and builds, from the agent that has it to whoever asked any controller: one hop at most.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::stream::FuturesUnordered;
use futures_util::{Stream, StreamExt};
use pontoon_model::HostName;
use pontoon_proto::{AgentDirective, LogChunk, LogPushed, LogRequest};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tonic::{Request, Status, Streaming};

use super::AgentDirectory;
use crate::raft::Peers;

/// Chunks on their way to one reader: a few thousand lines. Beyond that the agent waits.
const BUFFER: usize = 64;
/// An agent that was asked begins to push within this time.
const BEGIN: Duration = Duration::from_secs(5);
/// Another controller answers within this time whether it has the agent.
const ASK: Duration = Duration::from_secs(3);
/// A reader that takes nothing for this long has gone.
const STALLED: Duration = Duration::from_secs(60);

/// Why a log cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LogError {
    /// No controller has its agent.
    #[error(
        "host {host} is not connected to any controller, so its output cannot be read; `pontoon hosts` shows its state"
    )]
    NotConnected {
        /// Which.
        host: HostName,
    },
}

/// Opens logs wherever they are.
#[derive(Debug, Clone)]
pub struct Logs {
    directory: AgentDirectory,
    peers: Peers,
    streams: Streams,
}

#[derive(Debug, Clone, Default)]
struct Streams(Arc<Mutex<HashMap<u64, Wanted>>>);

#[derive(Debug)]
struct Wanted {
    host: HostName,
    /// Until its push begins; the push owns it then, so that readers see the push's end.
    sender: Option<mpsc::Sender<LogChunk>>,
}

/// Chunks of a log; the last one has `end` set. Dropped, it tells the agent that nobody reads any more.
#[derive(Debug)]
pub struct LogStream {
    chunks: mpsc::Receiver<LogChunk>,
    _unwanted: Option<Unwanted>,
}

impl Stream for LogStream {
    type Item = LogChunk;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<LogChunk>> {
        self.chunks.poll_recv(context)
    }
}

#[derive(Debug)]
struct Unwanted {
    stream: u64,
    host: HostName,
    directory: AgentDirectory,
    streams: Streams,
}

impl Drop for Unwanted {
    fn drop(&mut self) {
        self.streams.lock().remove(&self.stream);
        if let Some(outbox) = self.directory.outbox(&self.host) {
            // A full outbox is no harm: the agent's push finds its stream closed.
            let _ = outbox.try_send(Ok(AgentDirective::LogUnwanted { stream: self.stream }));
        }
    }
}

impl Streams {
    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Wanted>> {
        // Plain data: a panic elsewhere leaves it usable.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn ended(stream: u64, why: impl Into<String>) -> LogChunk {
    LogChunk { stream, lines: Vec::new(), end: Some(why.into()) }
}

impl Logs {
    /// Asks agents of `directory`, and else `peers`.
    pub fn new(directory: AgentDirectory, peers: Peers) -> Self {
        Self { directory, peers, streams: Streams::default() }
    }

    /// Opens a log, here or through the controller that has its agent.
    pub async fn open(&self, request: LogRequest) -> Result<LogStream, LogError> {
        if let Some(stream) = self.open_here(&request).await {
            return Ok(stream);
        }
        let mut asked: FuturesUnordered<_> = self
            .peers
            .others()
            .into_iter()
            .map(|peer| {
                let (mut client, request) = (peer.client(), request.clone());
                async move { timeout(ASK, client.open_log(Request::new(request))).await }
            })
            .collect();
        while let Some(answer) = asked.next().await {
            if let Ok(Ok(answer)) = answer {
                return Ok(forwarded(answer.into_inner()));
            }
        }
        Err(LogError::NotConnected { host: request.host })
    }

    /// Opens a log of an agent that is connected here.
    pub async fn open_here(&self, request: &LogRequest) -> Option<LogStream> {
        let outbox = self.directory.outbox(&request.host)?;
        let stream = rand::random();
        let (sender, chunks) = mpsc::channel(BUFFER);
        let wanted = Wanted { host: request.host.clone(), sender: Some(sender) };
        self.streams.lock().insert(stream, wanted);
        let unwanted = Unwanted {
            stream,
            host: request.host.clone(),
            directory: self.directory.clone(),
            streams: self.streams.clone(),
        };
        let directive = AgentDirective::LogWanted { stream, request: request.clone() };
        // An agent that does not read its directives is as good as gone.
        outbox.send_timeout(Ok(directive), BEGIN).await.ok()?;
        let streams = self.streams.clone();
        tokio::spawn(async move {
            tokio::time::sleep(BEGIN).await;
            let silent = streams.lock().get_mut(&stream).and_then(|wanted| wanted.sender.take());
            if let Some(sender) = silent {
                let _ =
                    sender.try_send(ended(stream, format!("its host has not sent it within {} s", BEGIN.as_secs())));
            }
        });
        Some(LogStream { chunks, _unwanted: Some(unwanted) })
    }

    /// Takes what the agent of `host` pushes, until the log ends or nobody reads it.
    pub(super) async fn accept(&self, host: &str, mut inbound: Streaming<LogChunk>) -> Result<LogPushed, Status> {
        let mut lines = 0;
        let Some(mut chunk) = timeout(BEGIN, inbound.message()).await.map_err(|_| silent())?? else {
            return Ok(LogPushed { lines });
        };
        let stream = chunk.stream;
        let sender = self.begin(host, stream)?;
        loop {
            if chunk.stream != stream {
                return Err(Status::invalid_argument("one push carries one stream"));
            }
            lines += chunk.lines.len() as u64;
            let last = chunk.end.is_some();
            // Closed or stalled: the reader has gone, and that is no fault of the agent's.
            if sender.send_timeout(chunk, STALLED).await.is_err() || last {
                return Ok(LogPushed { lines });
            }
            let next = tokio::select! {
                next = inbound.message() => next,
                () = sender.closed() => return Ok(LogPushed { lines }),
            };
            chunk = match next {
                Ok(Some(next)) => next,
                broken => {
                    let why =
                        broken.err().map_or("its host broke off".to_owned(), |status| status.message().to_owned());
                    let _ = sender.try_send(ended(stream, why));
                    return Ok(LogPushed { lines });
                }
            };
        }
    }

    fn begin(&self, host: &str, stream: u64) -> Result<mpsc::Sender<LogChunk>, Status> {
        let mut streams = self.streams.lock();
        let wanted = streams.get_mut(&stream).ok_or_else(|| Status::not_found("nobody wants this log any more"))?;
        if wanted.host.as_str() != host {
            return Err(Status::permission_denied("another host was asked for this log"));
        }
        wanted
            .sender
            .take()
            .ok_or_else(|| Status::already_exists("this log is no longer waited for, or pushed already"))
    }
}

fn silent() -> Status {
    Status::deadline_exceeded("a push begins with its first chunk")
}

/// Another controller's stream as ours.
fn forwarded(mut inbound: Streaming<LogChunk>) -> LogStream {
    let (sender, chunks) = mpsc::channel(BUFFER);
    tokio::spawn(async move {
        loop {
            let next = tokio::select! {
                next = inbound.message() => next,
                () = sender.closed() => return,
            };
            let chunk = match next {
                Ok(Some(chunk)) => chunk,
                Ok(None) => return,
                Err(status) => ended(0, format!("the controller that has it broke off: {}", status.message())),
            };
            let last = chunk.end.is_some();
            if sender.send_timeout(chunk, STALLED).await.is_err() || last {
                return;
            }
        }
    });
    LogStream { chunks, _unwanted: None }
}
