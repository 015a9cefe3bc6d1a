//! Clients of every kind. None forgives anything: each answer must be there, whole and right.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::servos::{PARTS, QUICK, SLOW, TALK};

/// No answer takes longer.
const LONGEST: Duration = Duration::from_secs(30);
/// Between requests of one client: a load that leaves a core something for the rest.
const THINK: Duration = Duration::from_millis(5);
/// Messages of one conversation.
const MESSAGES: usize = 20;

/// What a client does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Hundreds of requests on one connection.
    Kept,
    /// A connection for each.
    Closed,
    /// Sends a body.
    Sending,
    /// Its answers take a second.
    Slow,
    /// Speaks another protocol.
    Talking,
}

const KINDS: [(Kind, &str, usize); 5] = [
    (Kind::Kept, "kept", 12),
    (Kind::Closed, "closed", 6),
    (Kind::Sending, "sending", 4),
    (Kind::Slow, "slow", 8),
    (Kind::Talking, "talking", 8),
];

/// What became of the requests.
#[derive(Debug, Default)]
pub(super) struct Tally {
    answered: [AtomicU64; KINDS.len()],
    pub(super) failed: AtomicU64,
    first: Mutex<Option<String>>,
}

impl Tally {
    pub(super) fn answered(&self) -> u64 {
        self.answered.iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }

    pub(super) fn by_kind(&self) -> Vec<(&'static str, u64)> {
        KINDS.iter().zip(&self.answered).map(|((_, name, _), count)| (*name, count.load(Ordering::Relaxed))).collect()
    }

    pub(super) fn first_failure(&self) -> String {
        self.first.lock().unwrap_or_else(PoisonError::into_inner).clone().unwrap_or_default()
    }

    fn fail(&self, kind: Kind, error: &anyhow::Error) {
        self.failed.fetch_add(1, Ordering::Relaxed);
        let mut first = self.first.lock().unwrap_or_else(PoisonError::into_inner);
        first.get_or_insert_with(|| format!("{kind:?}: {error:#}"));
    }
}

pub(super) struct Clients {
    over: Arc<AtomicBool>,
    tally: Arc<Tally>,
    tasks: JoinSet<()>,
}

impl Clients {
    pub(super) fn start(address: SocketAddr) -> Self {
        let mut clients = Self { over: Arc::default(), tally: Arc::default(), tasks: JoinSet::new() };
        for (at, (kind, _, count)) in KINDS.into_iter().enumerate() {
            for _ in 0..count {
                let (over, tally) = (clients.over.clone(), clients.tally.clone());
                clients.tasks.spawn(async move {
                    while !over.load(Ordering::Relaxed) {
                        let served = visit(address, kind, &over, &tally.answered[at]);
                        if let Err(error) = served.await {
                            tally.fail(kind, &error);
                        }
                    }
                });
            }
        }
        clients
    }

    pub(super) fn tally(&self) -> Arc<Tally> {
        self.tally.clone()
    }

    pub(super) async fn stop(mut self) -> Arc<Tally> {
        self.over.store(true, Ordering::Relaxed);
        while self.tasks.join_next().await.is_some() {}
        self.tally
    }
}

/// One connection and what happens on it.
async fn visit(address: SocketAddr, kind: Kind, over: &AtomicBool, answered: &AtomicU64) -> Result<()> {
    let stream = timeout(LONGEST, TcpStream::connect(address)).await.context("connect")??;
    stream.set_nodelay(true)?;
    let mut stream = BufReader::new(stream);
    let requests = if kind == Kind::Kept { 500 } else { 1 };
    for _ in 0..requests {
        timeout(LONGEST, once(&mut stream, kind)).await.context("an answer")??;
        answered.fetch_add(1, Ordering::Relaxed);
        if over.load(Ordering::Relaxed) {
            break;
        }
        sleep(THINK).await;
    }
    Ok(())
}

async fn once(stream: &mut BufReader<TcpStream>, kind: Kind) -> Result<()> {
    let (method, host, headers, body) = match kind {
        Kind::Kept => ("GET", QUICK, "", ""),
        Kind::Closed => ("GET", QUICK, "Connection: close\r\n", ""),
        // Repeatable, as a client that forgives nothing needs it: its servo may be killed.
        Kind::Sending => ("PUT", QUICK, "Content-Length: 10\r\n", "0123456789"),
        Kind::Slow => ("GET", SLOW, "", ""),
        Kind::Talking => ("GET", TALK, "Connection: Upgrade\r\nUpgrade: websocket\r\n", ""),
    };
    let request = format!("{method} /some/path HTTP/1.1\r\nHost: {host}\r\n{headers}\r\n{body}");
    stream.write_all(request.as_bytes()).await.context("write")?;
    let (status, len) = read_head(stream).await?;
    if kind == Kind::Talking {
        ensure!(status == 101, "status {status}");
        return converse(stream).await;
    }
    ensure!(status == 200, "status {status}");
    let read = match len {
        Some(len) => {
            let mut body = vec![0; len];
            stream.read_exact(&mut body).await.context("the body")?;
            body
        }
        None => read_chunks(stream).await?,
    };
    let wanted = match kind {
        Kind::Slow => "part".repeat(PARTS),
        _ => format!("{:>16}", body.len()),
    };
    ensure!(read == wanted.as_bytes(), "a wrong body of {} bytes", read.len());
    Ok(())
}

/// Status and content length.
async fn read_head(stream: &mut BufReader<TcpStream>) -> Result<(u16, Option<usize>)> {
    let (mut line, mut status, mut len) = (String::new(), None, None);
    loop {
        line.clear();
        if stream.read_line(&mut line).await.context("the head")? == 0 {
            bail!("the connection ended before an answer");
        }
        match (status, line.trim().split_once(':')) {
            (None, _) => status = Some(line.split(' ').nth(1).context("no status")?.parse()?),
            (Some(status), None) => return Ok((status, len)),
            (Some(_), Some((name, value))) if name.eq_ignore_ascii_case("content-length") => {
                len = Some(value.trim().parse()?);
            }
            (Some(_), Some(_)) => {}
        }
    }
}

async fn read_chunks(stream: &mut BufReader<TcpStream>) -> Result<Vec<u8>> {
    let (mut body, mut line) = (Vec::new(), String::new());
    loop {
        line.clear();
        stream.read_line(&mut line).await.context("a chunk")?;
        let len = usize::from_str_radix(line.trim(), 16).with_context(|| format!("a chunk's length {line:?}"))?;
        let start = body.len();
        body.resize(start + len, 0);
        stream.read_exact(&mut body[start..]).await.context("a chunk")?;
        line.clear();
        stream.read_line(&mut line).await.context("a chunk's end")?;
        if len == 0 {
            return Ok(body);
        }
    }
}

async fn converse(stream: &mut BufReader<TcpStream>) -> Result<()> {
    for number in 0..MESSAGES {
        let message = format!("message {number:>8}");
        stream.write_all(message.as_bytes()).await.context("a message")?;
        let mut echo = vec![0; message.len()];
        stream.read_exact(&mut echo).await.context("its echo")?;
        ensure!(echo == message.as_bytes(), "a wrong echo");
        sleep(THINK * 20).await;
    }
    Ok(())
}
