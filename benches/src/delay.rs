//! A proxy that makes each direction of a connection take longer, as a distant peer does; order is kept.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

/// Pieces under way in one direction of a connection; at 16 KiB each, 16 MiB: more than a link of 1 Gbit/s holds in
/// 80 ms. Further ones wait in the sender's socket.
const UNDER_WAY: usize = 1_024;
const PIECE: usize = 16 * 1024;

/// Proxies, each `(where it listens, where it leads to)`; ended when dropped.
pub(crate) struct Delays {
    _stop: oneshot::Sender<()>,
}

impl Delays {
    /// Starts them on a thread of their own.
    pub(crate) fn start(pairs: Vec<(SocketAddr, SocketAddr)>, delay: Duration) -> Result<Self> {
        let (stop, stopped) = oneshot::channel::<()>();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let listeners = pairs
            .iter()
            .map(|(listen, _)| runtime.block_on(TcpListener::bind(listen)).with_context(|| listen.to_string()))
            .collect::<Result<Vec<_>>>()?;
        std::thread::spawn(move || {
            runtime.block_on(async move {
                for (listener, (_, to)) in listeners.into_iter().zip(pairs) {
                    tokio::spawn(accept(listener, to, delay));
                }
                let _ = stopped.await;
            });
        });
        Ok(Self { _stop: stop })
    }
}

async fn accept(listener: TcpListener, to: SocketAddr, delay: Duration) {
    while let Ok((from, _)) = listener.accept().await {
        tokio::spawn(async move {
            // The handshake takes its round trip too.
            tokio::time::sleep(delay * 2).await;
            let Ok(to) = TcpStream::connect(to).await else { return };
            let _ = (from.set_nodelay(true), to.set_nodelay(true));
            let ((from_read, from_write), (to_read, to_write)) = (from.into_split(), to.into_split());
            tokio::spawn(carry(from_read, to_write, delay));
            tokio::spawn(carry(to_read, from_write, delay));
        });
    }
}

async fn carry(from: OwnedReadHalf, to: OwnedWriteHalf, delay: Duration) {
    let (pieces, waiting) = mpsc::channel(UNDER_WAY);
    tokio::join!(take(from, pieces, delay), give(to, waiting));
}

async fn take(mut from: OwnedReadHalf, pieces: mpsc::Sender<(Instant, Vec<u8>)>, delay: Duration) {
    loop {
        let mut piece = Vec::with_capacity(PIECE);
        match from.read_buf(&mut piece).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        if pieces.send((Instant::now() + delay, piece)).await.is_err() {
            return;
        }
    }
}

async fn give(mut to: OwnedWriteHalf, mut waiting: mpsc::Receiver<(Instant, Vec<u8>)>) {
    while let Some((due, piece)) = waiting.recv().await {
        tokio::time::sleep_until(due).await;
        if to.write_all(&piece).await.is_err() {
            return;
        }
    }
    let _ = to.shutdown().await;
}
