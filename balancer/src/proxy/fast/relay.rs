//! An answer on its way to the client: a servo's as it comes, or our own.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Buf;
use http::HeaderValue;
use tokio::net::TcpStream;
use tokio_util::io::poll_read_buf;

use super::super::forward::Sides;
use super::super::pages::Page;
use super::answer::Framing;
use super::carry::Carried;
use super::chunks::{Chunks, Piece};
use super::head::{put_header, put_status};
use super::{Ask, Buffers, Connection, Ends, Flow, Stream};

/// Read at once of a large body.
const LARGE_BYTES: usize = 256 * 1024;
/// Read at once of a body whose length is not known: it is copied into chunks.
const CHUNK_BYTES: usize = 32 * 1024;

/// What is left of a body.
enum Left {
    Nothing,
    Bytes(u64),
    Chunks(Chunks),
    ToTheEnd,
}

impl Left {
    fn is_over(&self) -> bool {
        match self {
            Self::Nothing | Self::Bytes(0) => true,
            Self::Chunks(chunks) => chunks.is_ended(),
            Self::Bytes(_) | Self::ToTheEnd => false,
        }
    }
}

/// The answer cannot be passed on to its end: the connection ends in the middle of it, so that the client sees that.
struct Cut;

impl<S: Stream> Connection<'_, S> {
    /// Passes on an answer, of which the head is in the buffers, without the empty line.
    pub(super) async fn relay(
        &mut self,
        sides: &Sides<'_>,
        carried: Carried,
        ask: &Ask,
        cookie: Option<HeaderValue>,
        ends: &mut Ends,
    ) -> Flow {
        let close = self.finish_head(sides, ask, cookie.as_ref(), carried.answer.dated);
        let left = match carried.answer.framing {
            Framing::Nothing => Left::Nothing,
            Framing::Length(bytes) => Left::Bytes(bytes),
            Framing::Chunked => Left::Chunks(Chunks::default()),
            Framing::Close => Left::ToTheEnd,
        };
        let relayed = self.relay_body(sides, carried, left, ends).await;
        if relayed.is_err() || close { self.end().await } else { Flow::Next }
    }

    /// Answers ourselves.
    pub(super) async fn page(&mut self, page: Page, sides: &Sides<'_>, ask: &Ask, ends: &mut Ends) -> Flow {
        let response = page.into_response(Some(&sides.settings.traffic));
        let to = &mut self.buffers().answer;
        to.clear();
        put_status(to, response.status().as_u16(), response.status().canonical_reason().unwrap_or_default());
        for (name, value) in response.headers() {
            put_header(to, name.as_str().as_bytes(), value.as_bytes());
        }
        put_header(to, b"content-length", response.body().len().to_string().as_bytes());
        let close = self.finish_head(sides, ask, None, false);
        if !ask.to_head {
            self.buffers().answer.extend_from_slice(response.body());
            ends.sent(response.body().len());
        }
        if self.write_answer(None).await.is_err() || close { self.end().await } else { Flow::Next }
    }

    /// Adds what is ours to the head; whether the connection ends with the answer.
    fn finish_head(&mut self, sides: &Sides<'_>, ask: &Ask, cookie: Option<&HeaderValue>, dated: bool) -> bool {
        let close = ask.close || self.activity.is_ending() || self.worker.is_leaving();
        let (worker, to) = (self.worker, &mut self.buffers().answer);
        if !dated {
            worker.date.put(to);
        }
        if let Some(cookie) = cookie {
            put_header(to, b"set-cookie", cookie.as_bytes());
        }
        let hsts = sides.settings.traffic.hsts_seconds;
        if sides.client.secure && hsts > 0 {
            put_header(to, b"strict-transport-security", format!("max-age={hsts}").as_bytes());
        }
        if close {
            put_header(to, b"connection", b"close");
        }
        to.extend_from_slice(b"\r\n");
        close
    }

    async fn relay_body(
        &mut self,
        sides: &Sides<'_>,
        carried: Carried,
        mut left: Left,
        ends: &mut Ends,
    ) -> Result<(), Cut> {
        let Carried { mut servo, in_flight, answer } = carried;
        let idle = sides.settings.idle();
        // What came with the head goes out with it.
        self.take_in(&mut left, ends)?;
        while !left.is_over() {
            self.write_answer(idle).await?;
            if let Some(idle) = idle {
                self.arm(idle);
            }
            let read = std::future::poll_fn(|cx| self.poll_servo(cx, &mut servo.stream, &left, idle.is_some())).await?;
            match (&mut left, read) {
                (Left::ToTheEnd, 0) => {
                    self.buffers().answer.extend_from_slice(b"0\r\n\r\n");
                    left = Left::Nothing;
                }
                (_, 0) => return Err(Cut),
                (Left::Bytes(bytes), read) => {
                    let len = (*bytes).min(read as u64);
                    *bytes -= len;
                    ends.sent(len as usize);
                    self.write_servo_bytes(len as usize, idle).await?;
                }
                _ => self.take_in(&mut left, ends)?,
            }
        }
        // Before the client has read it all: another may use the connection, and a drain need not wait.
        if answer.keep && self.buffers().servo.is_empty() {
            self.worker.pool.put_raw(in_flight.servo().address, servo);
        }
        drop(in_flight);
        self.write_answer(idle).await
    }

    /// Moves what is in the servo's buffer behind the answer, in the client's framing.
    fn take_in(&mut self, left: &mut Left, ends: &mut Ends) -> Result<(), Cut> {
        let Buffers { servo, answer, .. } = self.buffers();
        match left {
            Left::Nothing => {}
            Left::Bytes(bytes) => {
                let len = (servo.len() as u64).min(*bytes) as usize;
                answer.extend_from_slice(&servo[..len]);
                servo.advance(len);
                *bytes -= len as u64;
                ends.sent(len);
            }
            Left::Chunks(chunks) => {
                let mut from = 0;
                loop {
                    match chunks.next(servo, &mut from).map_err(|_| Cut)? {
                        Piece::Data(at) => {
                            ends.sent(at.len());
                            put_chunk(answer, &servo[at]);
                        }
                        Piece::More => break,
                        Piece::End => {
                            answer.extend_from_slice(b"0\r\n\r\n");
                            break;
                        }
                    }
                }
                servo.advance(from);
            }
            Left::ToTheEnd => {
                ends.sent(servo.len());
                put_chunk(answer, servo);
                servo.clear();
            }
        }
        Ok(())
    }

    /// Reads what comes next of the body; sees meanwhile that the client has gone.
    fn poll_servo(
        &mut self,
        cx: &mut Context<'_>,
        servo: &mut TcpStream,
        left: &Left,
        timed: bool,
    ) -> Poll<Result<usize, Cut>> {
        let buffers = self.buffers();
        let room = match left {
            Left::Bytes(bytes) => LARGE_BYTES.min(usize::try_from(*bytes).unwrap_or(LARGE_BYTES)),
            _ => CHUNK_BYTES,
        };
        buffers.servo.reserve(room);
        match poll_read_buf(Pin::new(servo), cx, &mut buffers.servo) {
            Poll::Ready(read) => Poll::Ready(read.map_err(|_| Cut)),
            Poll::Pending if self.is_gone(cx) || (timed && self.is_over(cx)) => Poll::Ready(Err(Cut)),
            Poll::Pending => Poll::Pending,
        }
    }

    /// Writes what is ready for the client. `idle`: how long it may take nothing.
    async fn write_answer(&mut self, idle: Option<Duration>) -> Result<(), Cut> {
        let mut answer = std::mem::take(&mut self.buffers().answer);
        let written = self.write(&answer, idle).await;
        answer.clear();
        self.buffers().answer = answer;
        written
    }

    /// The same of `len` bytes as they came from the servo.
    async fn write_servo_bytes(&mut self, len: usize, idle: Option<Duration>) -> Result<(), Cut> {
        let mut bytes = std::mem::take(&mut self.buffers().servo);
        let written = self.write(&bytes[..len], idle).await;
        bytes.advance(len);
        self.buffers().servo = bytes;
        written
    }

    async fn write(&mut self, bytes: &[u8], idle: Option<Duration>) -> Result<(), Cut> {
        if let Some(idle) = idle {
            self.arm(idle);
        }
        let mut at = 0;
        std::future::poll_fn(|cx| {
            let before = at;
            let written = poll_write_all(Pin::new(&mut self.stream), cx, bytes, &mut at);
            if let Some(idle) = idle.filter(|_| at > before) {
                self.arm(idle);
            }
            match written {
                Poll::Ready(written) => Poll::Ready(written.map_err(|_| Cut)),
                Poll::Pending if idle.is_some() && self.is_over(cx) => Poll::Ready(Err(Cut)),
                Poll::Pending => Poll::Pending,
            }
        })
        .await
    }

    /// Ends the connection; over TLS with a word of it, without which the client would take it for cut off.
    async fn end(&mut self) -> Flow {
        if self.client.secure {
            // It has gone, then.
            let _ = std::future::poll_fn(|cx| Pin::new(&mut self.stream).poll_shutdown(cx)).await;
        }
        Flow::Ended
    }
}

fn poll_write_all(
    mut stream: Pin<&mut impl Stream>,
    cx: &mut Context<'_>,
    bytes: &[u8],
    at: &mut usize,
) -> Poll<io::Result<()>> {
    while *at < bytes.len() {
        let len = ready!(stream.as_mut().poll_write(cx, &bytes[*at..]))?;
        if len == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        *at += len;
    }
    // TLS keeps what the socket did not take.
    stream.poll_flush(cx)
}

impl Ends {
    fn sent(&mut self, bytes: usize) {
        if let Some(log) = &mut self.log {
            log.sent(bytes);
        }
    }
}

/// An empty one would be the last.
fn put_chunk(to: &mut Vec<u8>, data: &[u8]) {
    if !data.is_empty() {
        to.extend_from_slice(format!("{:x}\r\n", data.len()).as_bytes());
        to.extend_from_slice(data);
        to.extend_from_slice(b"\r\n");
    }
}
