//! Finds the servo of a connection: one after another until one takes it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use pontoon_kit::Backoff;
use pontoon_model::Route as RouteModel;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::{self, Instant};

use super::listener::Shared;
use super::settle;
use crate::proxy::attempts::{FIRST_PAUSE, LONGEST_PAUSE};
use crate::proxy::upstream;
use crate::table::{Failure, InFlight, Picked, Route, Servo, Wish};

/// A connection to a servo of `route`, on which `first` was sent, and which the servo has kept. While there is none, waits up to
/// `hold`, as requests do. Nothing of what `client` sends is read.
pub(super) async fn servo(
    shared: &Shared,
    client: &TcpStream,
    route: &mut Arc<Route>,
    hold: Duration,
    first: &[u8],
) -> Result<(TcpStream, InFlight), String> {
    let parts = &shared.parts;
    let (mut tried, mut until, mut pauses) = (Vec::new(), None, Backoff::new(FIRST_PAUSE, LONGEST_PAUSE));
    loop {
        let wish = Wish { tried: &tried, ..Wish::default() };
        let why = match parts.table.pick(route, &wish) {
            Picked::Servo(in_flight) => {
                let servo = in_flight.servo().clone();
                if let Some(stream) = connect(shared, client, route, &servo, first).await {
                    return Ok((stream, in_flight));
                }
                tried.push(servo);
                continue;
            }
            Picked::Empty(reason) if reason == RouteModel::NOT_READY => reason,
            Picked::Exhausted | Picked::Full => {
                format!("none of {} servos takes connections and keeps them", tried.len())
            }
            Picked::Empty(reason) => return Err(reason),
            Picked::Gone => return Err("the port is no longer there".to_owned()),
        };
        let until = *until.get_or_insert_with(|| Instant::now() + hold);
        if Instant::now() >= until {
            return Err(why);
        }
        let waited = route.clone();
        let Some(waiting) = waited.wait() else { return Err(format!("{why}, and too many wait for one")) };
        let pause = (Instant::now() + pauses.wait()).min(until);
        tokio::select! {
            // A change that came just before is seen after the pause.
            () = waiting.again() => {}
            () = time::sleep_until(pause) => {}
        }
        tried.clear();
        match parts.table.route(&route.host) {
            Some(newer) => *route = newer,
            None => return Err("the port is no longer there".to_owned()),
        }
    }
}

async fn connect(
    shared: &Shared,
    client: &TcpStream,
    route: &Route,
    servo: &Arc<Servo>,
    first: &[u8],
) -> Option<TcpStream> {
    let (id, address, begun) = (servo.id, servo.address, Instant::now());
    let failure = match upstream::dial(address).await {
        Ok(mut stream) => {
            let wait = shared.proofs.wait_for(id, begun.elapsed());
            // A few bytes: there is room for them on a new connection. None of them is the client's.
            if stream.write_all(first).await.is_ok() && settle::stays(&stream, client, wait).await {
                servo.trust();
                return Some(stream);
            }
            tracing::debug!(servo = %id, %address, "it took a connection and ended it before a byte");
            Failure::Ended
        }
        Err(error) => {
            tracing::debug!(servo = %id, %address, %error, "cannot connect");
            if error.is_ours() {
                return None;
            }
            Failure::Unreached
        }
    };
    if servo.failed(failure) {
        shared.parts.watcher.watch(servo, failure, &route.host);
    }
    None
}

/// Finds out by itself when the other side is gone without a word, and sends small pieces at once.
pub(super) fn keep_alive(stream: &TcpStream, peer: SocketAddr) {
    let often = socket2::TcpKeepalive::new().with_time(KEEP_ALIVE).with_interval(KEEP_ALIVE);
    // What fails here is a connection that has ended already.
    let set = stream.set_nodelay(true).and_then(|()| socket2::SockRef::from(stream).set_tcp_keepalive(&often));
    if let Err(error) = set {
        tracing::debug!(%peer, %error, "a connection cannot be kept alive");
    }
}

/// A connection may be quiet for hours; as often it is asked whether the other side is still there.
const KEEP_ALIVE: Duration = Duration::from_secs(60);
