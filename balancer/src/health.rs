//! Looks after servos that failed, and after no others: one that answers again gets requests again at once.

use std::sync::{Arc, Weak};
use std::time::Duration;

use pontoon_kit::{Backoff, CancellationToken};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::proxy::deaths::Deaths;
use crate::proxy::ports::settle::SETTLED;
use crate::table::{Failure, Servo};

/// Between looks at one servo: a restarted one is back within a second, one that is gone leaves the table by itself.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// As a request has it.
const CONNECT: Duration = Duration::from_secs(1);
/// A servo that takes longer for an answer without a body is not well.
const ANSWER: Duration = Duration::from_secs(5);
/// Servos looked at in the same moment; the others of a site that vanished wait for their turn.
const AT_ONCE: usize = 64;

/// Takes servos that failed. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Watcher {
    // Not bounded by itself: each servo is in it once at most (`Servo::failed`).
    ailing: mpsc::UnboundedSender<Ailing>,
}

struct Ailing {
    // A servo that left the table is nobody's concern.
    servo: Weak<Servo>,
    failure: Failure,
    host: String,
}

impl Watcher {
    /// A watcher, which tells `deaths` what takes no connection, and what does its work until `shutdown`.
    pub(crate) fn new(deaths: Arc<Deaths>, shutdown: CancellationToken) -> (Self, impl Future<Output = ()>) {
        let (ailing, mut came) = mpsc::unbounded_channel();
        let work = async move {
            let places = Arc::new(Semaphore::new(AT_ONCE));
            // Ended with this task.
            let mut looks = JoinSet::new();
            loop {
                tokio::select! {
                    ailing = came.recv() => match ailing {
                        Some(ailing) => drop(looks.spawn(look_after(ailing, deaths.clone(), places.clone()))),
                        None => return,
                    },
                    Some(_) = looks.join_next() => {}
                    () = shutdown.cancelled() => return,
                }
            }
        };
        (Self { ailing }, work)
    }

    /// Looks after `servo` until it is well; `host` is what it was asked for when it failed.
    pub(crate) fn watch(&self, servo: &Arc<Servo>, failure: Failure, host: &str) {
        let ailing = Ailing { servo: Arc::downgrade(servo), failure, host: host.to_owned() };
        if self.ailing.send(ailing).is_err() {
            // The balancer is stopping.
            servo.unwatch();
        }
    }
}

async fn look_after(ailing: Ailing, deaths: Arc<Deaths>, places: Arc<Semaphore>) {
    let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
    loop {
        sleep(backoff.wait()).await;
        let Ok(_place) = places.acquire().await else { return };
        let Some(servo) = ailing.servo.upgrade().filter(|servo| !servo.is_removed()) else { return };
        // A request may have found it well meanwhile.
        if !servo.is_avoided() || is_well(&servo, &ailing, &deaths).await {
            tracing::debug!(servo = %servo.id, address = %servo.address, "a servo is well again");
            servo.trust();
            servo.unwatch();
            return;
        }
    }
}

async fn is_well(servo: &Arc<Servo>, ailing: &Ailing, deaths: &Deaths) -> bool {
    let Ok(Ok(mut stream)) = timeout(CONNECT, TcpStream::connect(servo.address)).await else {
        deaths.found_again(servo);
        return false;
    };
    match ailing.failure {
        Failure::Unreached => return true,
        // Whatever its protocol is, not to end the connection is what it has to do.
        Failure::Ended => return !matches!(timeout(SETTLED, stream.read_u8()).await, Ok(Err(_))),
        Failure::Broken | Failure::TimedOut => {}
    }
    // It took connections all the time: only an answer says more.
    let answer = async {
        let request = format!(
            "HEAD / HTTP/1.1\r\nHost: {}\r\nUser-Agent: pontoon-balancer\r\nConnection: close\r\n\r\n",
            ailing.host
        );
        stream.write_all(request.as_bytes()).await?;
        // Whatever it says, it says something: an HTTP/2 server answers with a frame of its own.
        stream.read_u8().await
    };
    matches!(timeout(ANSWER, answer).await, Ok(Ok(_)))
}
