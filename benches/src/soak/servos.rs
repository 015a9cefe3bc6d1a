//! Servos that answer, and their ends: those of quick answers are killed, the others drained first, as controllers do it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep, timeout};

use super::controller::Controller;

pub(super) const QUICK: &str = "quick.test";
pub(super) const SLOW: &str = "slow.test";
pub(super) const TALK: &str = "talk.test";

/// Of each kind.
const EACH: usize = 3;
/// A slow answer comes in so many parts, this far from each other.
pub(super) const PARTS: usize = 20;
const PAUSE: Duration = Duration::from_millis(50);
/// No request takes longer, so a servo is let go of within this time.
const DRAINED: Duration = Duration::from_secs(30);

struct Servo {
    id: u64,
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Drop for Servo {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Servo {
    async fn start(id: u64, host: &'static str) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let task = tokio::spawn(async move {
            // Ended with this task.
            let mut connections = JoinSet::new();
            loop {
                tokio::select! {
                    accepted = listener.accept() => match accepted {
                        Ok((stream, _)) => drop(connections.spawn(serve(stream, host))),
                        Err(_) => sleep(PAUSE).await,
                    },
                    Some(_) = connections.join_next() => {}
                }
            }
        });
        Ok(Self { id, address, task })
    }
}

/// Answers until the other side ends.
async fn serve(stream: TcpStream, host: &'static str) {
    // What it says of an end is of no interest.
    let _ = stream.set_nodelay(true);
    let mut stream = BufReader::new(stream);
    while let Ok(Some(len)) = read_request(&mut stream).await {
        let served = match host {
            SLOW => dribble(&mut stream).await,
            TALK => return drop(talk(&mut stream).await),
            _ => {
                let body = format!("{len:>16}");
                let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
                stream.write_all(answer.as_bytes()).await
            }
        };
        if served.is_err() {
            return;
        }
    }
}

/// The length of a request's body, which is read; none at the end.
async fn read_request(stream: &mut BufReader<TcpStream>) -> std::io::Result<Option<usize>> {
    let (mut len, mut line) = (0, String::new());
    loop {
        line.clear();
        if stream.read_line(&mut line).await? == 0 {
            return Ok(None);
        }
        if line.trim().is_empty() {
            break;
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            len = value.trim().parse().map_err(std::io::Error::other)?;
        }
    }
    tokio::io::copy(&mut stream.take(len as u64), &mut tokio::io::sink()).await?;
    Ok(Some(len))
}

async fn dribble(stream: &mut BufReader<TcpStream>) -> std::io::Result<()> {
    stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await?;
    for _ in 0..PARTS {
        sleep(PAUSE).await;
        stream.write_all(b"4\r\npart\r\n").await?;
    }
    stream.write_all(b"0\r\n\r\n").await
}

/// Another protocol: what comes goes back.
async fn talk(stream: &mut BufReader<TcpStream>) -> std::io::Result<()> {
    let agreed = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    stream.write_all(agreed.as_bytes()).await?;
    let mut bytes = [0; 1_024];
    loop {
        match stream.read(&mut bytes).await? {
            0 => return Ok(()),
            len => stream.write_all(&bytes[..len]).await?,
        }
    }
}

/// All servos, and the routes to them.
pub(super) struct Fleet {
    controller: Arc<Controller>,
    kinds: Vec<(&'static str, Vec<Servo>)>,
    next_id: u64,
    turn: usize,
    pub(super) killed: u64,
    pub(super) drained: u64,
    draining: JoinSet<Result<()>>,
}

impl Fleet {
    pub(super) async fn start(controller: Arc<Controller>) -> Result<Self> {
        let mut fleet = Self {
            controller,
            kinds: Vec::new(),
            next_id: 0,
            turn: 0,
            killed: 0,
            drained: 0,
            draining: JoinSet::new(),
        };
        for host in [QUICK, SLOW, TALK] {
            let mut servos = Vec::new();
            for _ in 0..EACH {
                fleet.next_id += 1;
                servos.push(Servo::start(fleet.next_id, host).await?);
            }
            fleet.kinds.push((host, servos));
        }
        (0..fleet.kinds.len()).try_for_each(|kind| fleet.route(kind).map(drop))?;
        Ok(fleet)
    }

    fn route(&self, kind: usize) -> Result<pontoon_model::RouteVersion> {
        let (host, servos) = &self.kinds[kind];
        let servos: Vec<_> = servos.iter().map(|servo| (servo.id, servo.address)).collect();
        self.controller.route(host, &servos)
    }

    /// One servo ends, and another takes its place.
    pub(super) async fn replace_one(&mut self) -> Result<()> {
        let kind = self.turn % self.kinds.len();
        self.turn += 1;
        self.next_id += 1;
        let new = Servo::start(self.next_id, self.kinds[kind].0).await?;
        let (host, servos) = &mut self.kinds[kind];
        let old = servos.remove(0);
        servos.push(new);
        if *host == QUICK {
            // At once, with what it has in flight; the routes hear of it later.
            drop(old);
            self.killed += 1;
            self.route(kind)?;
        } else {
            let version = self.route(kind)?;
            let controller = self.controller.clone();
            self.drained += 1;
            self.draining.spawn(async move {
                timeout(DRAINED, controller.acknowledged(version))
                    .await
                    .context("a servo was not let go of in time")?;
                drop(old);
                Ok(())
            });
        }
        while let Some(drained) = self.draining.try_join_next() {
            drained??;
        }
        Ok(())
    }
}
