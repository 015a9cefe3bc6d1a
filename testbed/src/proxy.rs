//! A link between two processes that can be cut in either direction and made slow: a TCP proxy in user space.
//!
//! A cut link behaves as one whose packets are lost: connections stay open and nothing arrives, new ones are not
//! completed. When it is healed, what was under way still arrives, late: as TCP would send it again.

use std::net::SocketAddr;
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep_until};

/// Read at once.
const CHUNK: usize = 16 * 1024;

/// Chunks under way in one direction of one connection: 4 MiB carry 100 MB/s over a delay of 40 ms.
const UNDER_WAY: usize = 256;

/// Connections at a time: a controller has a handful to each other.
const CONNECTIONS: usize = 256;

/// One direction of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Way {
    /// Nothing arrives.
    pub cut: bool,
    /// How long everything takes.
    pub delay: Duration,
}

/// Both directions of a link, as seen by who connects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Link {
    /// What the caller sends.
    pub there: Way,
    /// What the called answers.
    pub back: Way,
}

/// Forwards connections to one address.
pub struct Proxy {
    address: SocketAddr,
    link: watch::Sender<Link>,
    accepting: JoinHandle<()>,
}

/// All proxies of the process share a thread of their own, so that they also serve tests without a runtime.
fn runtime() -> Result<&'static Runtime> {
    static RUNTIME: OnceLock<Option<Runtime>> = OnceLock::new();
    let start =
        || tokio::runtime::Builder::new_multi_thread().worker_threads(1).thread_name("proxies").enable_all().build();
    RUNTIME.get_or_init(|| start().ok()).as_ref().context("the proxies' runtime does not start")
}

impl Proxy {
    /// Starts one in front of `target`, on a free port of the loopback interface.
    pub fn start(target: SocketAddr) -> Result<Self> {
        let runtime = runtime()?;
        let listener = runtime.block_on(TcpListener::bind(("127.0.0.1", 0)))?;
        let address = listener.local_addr()?;
        let (link, seen) = watch::channel(Link::default());
        let accepting = runtime.spawn(accept(listener, target, seen));
        Ok(Self { address, link, accepting })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Changes the link, for connections that are open and for new ones.
    pub fn change(&self, change: impl FnOnce(&mut Link)) {
        self.link.send_modify(change);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, target: SocketAddr, link: watch::Receiver<Link>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if connections.len() < CONNECTIONS => {
                if let Ok((caller, _)) = accepted {
                    connections.spawn(forward(caller, target, link.clone()));
                }
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

/// One connection, until both directions have ended or one has failed.
async fn forward(caller: TcpStream, target: SocketAddr, mut link: watch::Receiver<Link>) {
    // A connection is made by packets of both directions.
    if link.wait_for(|link| !link.there.cut && !link.back.cut).await.is_err() {
        return;
    }
    let Ok(called) = TcpStream::connect(target).await else { return };
    let _ = (caller.set_nodelay(true), called.set_nodelay(true));
    let ((from_caller, to_caller), (from_called, to_called)) = (caller.into_split(), called.into_split());
    let there = pump(from_caller, to_called, link.clone(), |link| link.there);
    let back = pump(from_called, to_caller, link, |link| link.back);
    let _ = tokio::try_join!(there, back);
}

/// One direction of one connection.
async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    link: watch::Receiver<Link>,
    way: fn(&Link) -> Way,
) -> std::io::Result<()> {
    let (queue, mut arriving) = mpsc::channel::<(Instant, Vec<u8>)>(UNDER_WAY);
    let mut sending = link.clone();
    let read = async move {
        loop {
            let mut chunk = vec![0; CHUNK];
            let length = from.read(&mut chunk).await?;
            chunk.truncate(length);
            let delay = way(&sending.borrow_and_update()).delay;
            if length == 0 || queue.send((Instant::now() + delay, chunk)).await.is_err() {
                return Ok(());
            }
        }
    };
    let mut receiving = link;
    let write = async move {
        while let Some((due, chunk)) = arriving.recv().await {
            sleep_until(due).await;
            if receiving.wait_for(|link| !way(link).cut).await.is_err() {
                break;
            }
            to.write_all(&chunk).await?;
        }
        // The end of the stream is cut and delayed as everything else.
        let _ = receiving.wait_for(|link| !way(link).cut).await;
        to.shutdown().await
    };
    tokio::try_join!(read, write).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{ErrorKind, Read, Write};
    use std::net::TcpStream as Stream;

    /// How long nothing must arrive to count as cut. Only a fault that is there is missed by a slow machine.
    const QUIET: Duration = Duration::from_millis(100);

    /// A connection through a proxy to a server that sends back what it gets.
    fn echo() -> (Proxy, Stream) {
        let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let proxy = Proxy::start(server.local_addr().unwrap()).unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = server.accept().unwrap();
            let mut byte = [0];
            while stream.read_exact(&mut byte).is_ok() && stream.write_all(&byte).is_ok() {}
        });
        let stream = Stream::connect(proxy.address()).unwrap();
        (proxy, stream)
    }

    fn is_quiet(stream: &mut Stream) -> bool {
        stream.set_read_timeout(Some(QUIET)).unwrap();
        let error = stream.read_exact(&mut [0]).err().map(|error| error.kind());
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        matches!(error, Some(ErrorKind::WouldBlock | ErrorKind::TimedOut))
    }

    fn comes_back(stream: &mut Stream) -> u8 {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        byte[0]
    }

    #[test]
    fn a_cut_in_either_direction_holds_what_is_sent_until_it_is_healed() {
        for cut in [|link: &mut Link| link.there.cut = true, |link: &mut Link| link.back.cut = true] {
            let (proxy, mut stream) = echo();
            stream.write_all(&[1]).unwrap();
            assert_eq!(comes_back(&mut stream), 1);
            proxy.change(cut);
            stream.write_all(&[2]).unwrap();
            assert!(is_quiet(&mut stream));
            proxy.change(|link| *link = Link::default());
            assert_eq!(comes_back(&mut stream), 2);
        }
    }

    #[test]
    fn a_delay_is_paid_in_each_direction() {
        let (proxy, mut stream) = echo();
        let delay = Way { cut: false, delay: Duration::from_millis(60) };
        proxy.change(|link| *link = Link { there: delay, back: delay });
        let begun = std::time::Instant::now();
        stream.write_all(&[1]).unwrap();
        comes_back(&mut stream);
        assert!(begun.elapsed() >= Duration::from_millis(120), "{:?}", begun.elapsed());
    }

    #[test]
    fn the_end_of_the_server_is_the_end_of_the_connection() {
        let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let proxy = Proxy::start(server.local_addr().unwrap()).unwrap();
        let mut stream = Stream::connect(proxy.address()).unwrap();
        drop(server.accept().unwrap());
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        assert_eq!(stream.read(&mut [0]).unwrap_or(0), 0);
    }
}
