//! A connection to a servo of which is noted how it ended: hyper says less of it.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::upstream::Ending;

/// The connection.
pub(super) struct WithEnding {
    stream: TcpStream,
    ending: Ending,
    /// The servo takes nothing more.
    shut: bool,
    /// And says nothing more.
    silent: bool,
}

impl WithEnding {
    pub(super) fn new(stream: TcpStream, ending: Ending) -> Self {
        Self { stream, ending, shut: false, silent: false }
    }

    /// What was `polled` of writing `len` bytes. A servo that takes no more of a body may have answered it before, and closed: hyper
    /// reads that only if it can go on writing. What it writes is dropped then.
    fn written(&mut self, polled: Poll<io::Result<usize>>, len: usize) -> Poll<io::Result<usize>> {
        let Poll::Ready(Err(_)) = polled else { return polled };
        self.ending.note(&self.stream);
        self.shut = true;
        if self.silent { polled } else { Poll::Ready(Ok(len)) }
    }

    /// What comes of writing `len` bytes to who takes nothing more.
    fn dropped(&self, len: usize) -> Poll<io::Result<usize>> {
        Poll::Ready(if self.silent { Err(io::ErrorKind::BrokenPipe.into()) } else { Ok(len) })
    }
}

impl AsyncRead for WithEnding {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let (before, room) = (buffer.filled().len(), buffer.remaining());
        let mut polled = Pin::new(&mut self.stream).poll_read(cx, buffer);
        let ended = match &polled {
            Poll::Ready(Ok(())) => room > 0 && buffer.filled().len() == before,
            Poll::Ready(Err(_)) => true,
            Poll::Pending => false,
        };
        if ended && self.shut {
            // The end that writing has met: no end of an answer.
            polled = Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        if ended {
            self.silent = true;
            self.ending.note(&self.stream);
        }
        polled
    }
}

impl AsyncWrite for WithEnding {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.shut {
            return self.dropped(bytes.len());
        }
        let polled = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.written(polled, bytes.len())
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let len = parts.iter().map(|part| part.len()).sum();
        if self.shut {
            return self.dropped(len);
        }
        let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, parts);
        self.written(polled, len)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
