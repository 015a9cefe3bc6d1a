//! Finds the servo of a connection: one after another until one takes it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use pontoon_kit::Backoff;
use pontoon_model::Route as RouteModel;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::{self, Instant};

use super::Parts;
use crate::proxy::attempts::{FIRST_PAUSE, LONGEST_PAUSE};
use crate::proxy::upstream::{self, ConnectError};
use crate::table::{Failure, InFlight, Picked, Route, Servo, Wish};

/// A connection to a servo of `route`, on which `first` was sent. While there is none, waits up to `hold`, as requests do.
pub(super) async fn servo(
    parts: &Parts,
    route: &mut Arc<Route>,
    hold: Duration,
    first: &[u8],
) -> Result<(TcpStream, InFlight), String> {
    let (mut tried, mut until, mut pauses) = (Vec::new(), None, Backoff::new(FIRST_PAUSE, LONGEST_PAUSE));
    loop {
        let wish = Wish { tried: &tried, prefer: None, most: 0, slow_start: Duration::ZERO, spent: &[], within: None };
        let why = match parts.table.pick(route, &wish) {
            Picked::Servo(in_flight) => {
                let servo = in_flight.servo().clone();
                if let Some(stream) = connect(parts, route, &servo, first).await {
                    return Ok((stream, in_flight));
                }
                tried.push(servo);
                continue;
            }
            Picked::Empty(reason) if reason == RouteModel::NOT_READY => reason,
            Picked::Exhausted | Picked::Full => format!("none of {} servos takes connections", tried.len()),
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

async fn connect(parts: &Parts, route: &Route, servo: &Arc<Servo>, first: &[u8]) -> Option<TcpStream> {
    let connecting = async {
        let mut stream = upstream::dial(servo.address).await?;
        // A few bytes: there is room for them on a new connection.
        stream.write_all(first).await?;
        Result::<_, ConnectError>::Ok(stream)
    };
    match connecting.await {
        Ok(stream) => {
            servo.trust();
            return Some(stream);
        }
        Err(error) => tracing::debug!(servo = %servo.id, address = %servo.address, %error, "cannot connect"),
    }
    if servo.failed(Failure::Unreached) {
        parts.watcher.watch(servo, Failure::Unreached, &route.host);
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
