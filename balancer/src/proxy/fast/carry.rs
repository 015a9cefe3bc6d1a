//! A request on its way to one servo after another, until one answers.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Buf;
use tokio::io::AsyncWrite;
use tokio::net::TcpStream;
use tokio_util::io::poll_read_buf;

use super::super::attempts::{Attempts, Next};
use super::super::forward::Sides;
use super::super::pages::Page;
use super::super::upstream::{self, Raw};
use super::answer::{self, Answer};
use super::{Ask, Connection, Stream};
use crate::table::{Failure as Fault, InFlight, Route, Servo};

/// Largest head of an answer: what hyper's way takes too.
const MOST_HEAD_BYTES: usize = 256 * 1024;

/// A servo's answer, of which the head has come, and its connection.
pub(super) struct Carried {
    pub(super) servo: Raw,
    pub(super) in_flight: InFlight,
    pub(super) answer: Answer,
}

/// Why there is none.
pub(super) enum Stop {
    /// This is said instead.
    Page(Page),
    /// The client has gone.
    Gone,
    /// Another site's balancer is to be asked: the other way does that, and goes on with these attempts.
    Elsewhere,
}

/// Why a try gave no answer.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Failure {
    Servo(Fault),
    /// It is the client that went away.
    Gone,
    /// This machine has nothing left to make a connection with.
    Ours,
}

impl<S: Stream> Connection<'_, S> {
    /// Tries one servo after another with the request in the buffers.
    pub(super) async fn carry(
        &mut self,
        sides: &Sides<'_>,
        route: &mut Arc<Route>,
        attempts: &mut Attempts,
        ask: &Ask,
    ) -> Result<Carried, Stop> {
        loop {
            let next = match attempts.pick_now(sides, route) {
                Ok(next) => next,
                Err(found) => {
                    let waited = self.unless_gone(attempts.wait(sides, route, found, false)).await;
                    waited.ok_or(Stop::Gone)?.map_err(Stop::Page)?
                }
            };
            let Next::Servo(in_flight) = next else { return Err(Stop::Elsewhere) };
            let fault = match self.try_servo(sides, in_flight.servo(), ask).await {
                Ok((servo, answer)) => {
                    in_flight.servo().trust();
                    attempts.answered();
                    return Ok(Carried { servo, in_flight, answer });
                }
                Err(Failure::Gone) => return Err(Stop::Gone),
                Err(Failure::Ours) => return Err(Stop::Page(Page::NoRoom)),
                Err(Failure::Servo(fault)) => fault,
            };
            let failed = attempts.failed(sides, route, in_flight, fault, ask.idempotent);
            self.unless_gone(failed).await.ok_or(Stop::Gone)?.map_err(Stop::Page)?;
        }
    }

    /// Tries one servo: over a kept connection if there is one, then over a new one.
    async fn try_servo(&mut self, sides: &Sides<'_>, servo: &Servo, ask: &Ask) -> Result<(Raw, Answer), Failure> {
        let first_byte = Duration::from_millis(sides.settings.traffic.first_byte_ms.into());
        let pool = &sides.worker.pool;
        let mut broken = None;
        if let Some(mut raw) = pool.take_raw(servo.address, !ask.idempotent) {
            match self.send(&mut raw.stream, first_byte, ask).await {
                Ok(answer) => return Ok((raw, answer)),
                Err(Failure::Servo(Fault::Unreached)) => {}
                Err(Failure::Servo(Fault::Broken)) if ask.idempotent => broken = Some(raw),
                Err(failure) => return Err(failure),
            }
            // The servo was restarted, or closed what was idle: the other kept connections are as dead.
            pool.forget(servo.address);
        }
        let mut raw = match self.unless_gone(pool.connect_raw(servo.address)).await {
            Some(Ok(raw)) => raw,
            Some(Err(error)) if error.is_ours() => return Err(Failure::Ours),
            Some(Err(error)) => {
                tracing::debug!(servo = %servo.id, address = %servo.address, %error, "cannot connect");
                return Err(Failure::Servo(
                    broken.map_or(Fault::Unreached, |raw| upstream::fault_if_refused(&raw.stream)),
                ));
            }
            None => return Err(Failure::Gone),
        };
        let answer = self.send(&mut raw.stream, first_byte, ask).await?;
        Ok((raw, answer))
    }

    /// Sends the request and reads the answer's head; what came behind it is in the servo's buffer.
    async fn send(&mut self, servo: &mut TcpStream, first_byte: Duration, ask: &Ask) -> Result<Answer, Failure> {
        self.arm(first_byte);
        self.buffers().servo.clear();
        let mut sent = Sent { bytes: 0, done: false };
        std::future::poll_fn(|cx| {
            if !sent.done
                && let Err(failure) = self.poll_send(cx, servo, &mut sent)
            {
                return Poll::Ready(Err(failure));
            }
            match self.poll_head(cx, servo, ask) {
                // Nothing was sent, so nothing was processed.
                Poll::Ready(Err(Failure::Servo(Fault::Broken))) if sent.bytes == 0 => {
                    Poll::Ready(Err(Failure::Servo(Fault::Unreached)))
                }
                Poll::Ready(done) => Poll::Ready(done),
                Poll::Pending if self.is_gone(cx) => Poll::Ready(Err(Failure::Gone)),
                Poll::Pending if self.is_over(cx) => Poll::Ready(Err(Failure::Servo(Fault::TimedOut))),
                Poll::Pending => Poll::Pending,
            }
        })
        .await
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, servo: &mut TcpStream, sent: &mut Sent) -> Result<(), Failure> {
        let request = &self.buffers().request;
        while sent.bytes < request.len() {
            match Pin::new(&mut *servo).poll_write(cx, &request[sent.bytes..]) {
                Poll::Ready(Ok(len @ 1..)) => sent.bytes += len,
                Poll::Ready(_) if sent.bytes == 0 => return Err(Failure::Servo(Fault::Unreached)),
                // It may have answered without having read all, and then closed.
                Poll::Ready(_) => break,
                Poll::Pending => return Ok(()),
            }
        }
        sent.done = true;
        Ok(())
    }

    fn poll_head(&mut self, cx: &mut Context<'_>, servo: &mut TcpStream, ask: &Ask) -> Poll<Result<Answer, Failure>> {
        let buffers = self.buffers();
        loop {
            buffers.room_for_servo();
            match poll_read_buf(Pin::new(&mut *servo), cx, &mut buffers.servo) {
                Poll::Ready(Ok(1..)) => {}
                Poll::Ready(_) => return Poll::Ready(Err(Failure::Servo(Fault::Broken))),
                Poll::Pending => return Poll::Pending,
            }
            loop {
                buffers.answer.clear();
                match answer::read(&buffers.servo, ask.to_head, &mut buffers.answer) {
                    Ok(Some((answer, len))) => {
                        buffers.servo.advance(len);
                        // Informational ones are for us; 101 is the last on its connection.
                        if !matches!(answer.status, 100..=199) || answer.status == 101 {
                            return Poll::Ready(Ok(answer));
                        }
                    }
                    Ok(None) if buffers.servo.len() < MOST_HEAD_BYTES => break,
                    Ok(None) => return Poll::Ready(Err(Failure::Servo(Fault::Broken))),
                    Err(error) => {
                        tracing::debug!(%error, "a servo's answer is not understood");
                        return Poll::Ready(Err(Failure::Servo(Fault::Broken)));
                    }
                }
            }
        }
    }
}

/// How much of a request was sent.
struct Sent {
    bytes: usize,
    /// All, or as much as the servo took.
    done: bool,
}
