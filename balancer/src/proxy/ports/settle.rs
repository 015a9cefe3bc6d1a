//! Whether a servo that took a connection has it to stay.
//!
//! Docker's port proxy takes connections for a process that does not listen, and ends them as soon as it has found out. While no
//! byte has moved either way nobody can tell such a connection from one that was refused, so the next servo may have the
//! client (docs/decisions/0026).

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pontoon_model::ServoId;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

use super::stream::Moved;

/// The end of a connection that comes later is the servo's own decision, even with no byte before it: protocols that give
/// silent clients up do so after seconds, and a port proxy hears that it is refused within milliseconds.
pub(crate) const SETTLED: Duration = Duration::from_secs(1);
/// How long a client's first bytes wait, on top of what the connect took: the end is as long on its way as the agreement was, and
/// docker-proxy needs up to 4 ms to be refused itself, 22 ms where eight other programs want its only core.
const FINDS_OUT: Duration = Duration::from_millis(25);
/// A servo that sent something this lately has a process behind it: clients' bytes go there at once. Looked at every second.
const LATELY: Duration = Duration::from_secs(2);

/// Returns whether the connection to a servo stays: false if the servo has ended it before a byte of either side had moved. What
/// `client` sends waits for `wait`; from then on its first byte is what settles it.
pub(super) async fn stays(servo: &TcpStream, client: &TcpStream, wait: Duration) -> bool {
    // Only looked at: it is read, or found broken, by who carries the bytes.
    let speaks = async { matches!(servo.peek(&mut [0]).await, Ok(1..)) };
    let client_moves = async {
        sleep(wait).await;
        let _ = client.peek(&mut [0]).await;
    };
    tokio::select! {
        biased;
        speaks = speaks => speaks,
        () = client_moves => true,
        () = sleep(SETTLED) => true,
    }
}

/// Servos of a port that have sent something lately.
#[derive(Debug, Default)]
pub(super) struct Proofs(Mutex<HashMap<ServoId, Instant>>);

impl Proofs {
    /// How long the first bytes for a servo wait, if the connect took so long.
    pub(super) fn wait_for(&self, servo: ServoId, connect: Duration) -> Duration {
        let proven = self.lock().get(&servo).is_some_and(|at| at.elapsed() < LATELY);
        if proven { Duration::ZERO } else { connect + FINDS_OUT }
    }

    /// Notes, every `look`, that bytes come from `servo`. Does not return.
    pub(super) async fn follow(&self, servo: ServoId, moved: &Moved, look: Duration) {
        let mut before = 0;
        loop {
            sleep(look).await;
            let sent = moved.sent();
            if sent > before {
                self.note(servo);
            }
            before = sent;
        }
    }

    /// Notes how a connection went that has ended.
    pub(super) fn ended(&self, servo: ServoId, moved: &Moved) {
        match moved.sent() {
            // Perhaps its process is gone.
            0 => drop(self.lock().remove(&servo)),
            _ => self.note(servo),
        }
    }

    fn note(&self, servo: ServoId) {
        let mut proofs = self.lock();
        proofs.retain(|_, at| at.elapsed() < LATELY);
        proofs.insert(servo, Instant::now());
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ServoId, Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    use super::*;

    /// Both ends of a connection.
    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (one, other) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
        (one.unwrap(), other.unwrap().0)
    }

    #[tokio::test]
    async fn what_a_servo_does_first_settles_it_and_then_what_the_client_does() {
        let ((mut servo, mut process), (client, mut user)) = (pair().await, pair().await);
        user.write_all(b"hello").await.unwrap();
        client.readable().await.unwrap();
        // Not sent on: the servo had the time of its connect for an end.
        drop(process);
        assert!(!stays(&servo, &client, SETTLED).await);
        (servo, process) = pair().await;
        socket2::SockRef::from(&process).set_linger(Some(Duration::ZERO)).unwrap();
        drop(process);
        assert!(!stays(&servo, &client, SETTLED).await, "a reset is an end");
        (servo, process) = pair().await;
        assert!(stays(&servo, &client, Duration::ZERO).await, "the client's byte may have been sent on");
        process.write_all(b"220 hello").await.unwrap();
        drop(process);
        assert!(stays(&servo, &client, SETTLED).await, "it has spoken");
    }

    #[tokio::test]
    async fn a_servo_that_sent_something_lately_gets_bytes_at_once() {
        let (proofs, moved, servo, connect) = (Proofs::default(), Moved::new(), ServoId(1), Duration::from_millis(3));
        let waits = || !proofs.wait_for(servo, connect).is_zero();
        assert_eq!(proofs.wait_for(servo, connect), connect + FINDS_OUT);
        moved.sent.store(5, std::sync::atomic::Ordering::Relaxed);
        proofs.ended(servo, &moved);
        assert!(!waits() && !proofs.wait_for(ServoId(2), connect).is_zero());
        proofs.lock().insert(servo, Instant::now().checked_sub(LATELY).unwrap());
        assert!(waits(), "long ago");
        let look = Duration::from_millis(1);
        let seen = async {
            while waits() {
                sleep(look).await;
            }
        };
        // On a connection that goes on.
        tokio::select! {
            () = proofs.follow(servo, &moved, look) => unreachable!(),
            () = seen => {}
        }
        proofs.ended(servo, &Moved::new());
        assert!(waits(), "one that ended without a byte");
    }
}
