//! One connection: bytes both ways until both sides have ended, or it is cut.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use pontoon_model::PortSettings;
use tokio::io::copy_bidirectional;
use tokio::net::TcpStream;
use tokio::time::{self, Instant, MissedTickBehavior};

use super::listener::{Place, Shared};
use super::stream::{Metered, Moved};
use super::{header, reach};
use crate::proxy::activity::HEADER_READ;
use crate::proxy::announced;
use crate::proxy::worker::GRACE;
use crate::table::Servo;

/// How often a connection is looked at: the limits checked are a second and more.
const LOOK: Duration = Duration::from_secs(1);
/// In logs and counts: it was carried, or there was no servo for it.
const CARRIED: u16 = 200;
const NO_SERVO: u16 = 503;

/// Carries one connection to its end.
pub(super) async fn serve(place: Place, client: TcpStream, peer: SocketAddr) {
    let shared = place.shared.clone();
    tokio::select! {
        () = carry(&shared, client, peer) => {}
        () = shared.cut.cancelled() => {}
    }
}

async fn carry(shared: &Shared, mut client: TcpStream, peer: SocketAddr) {
    reach::keep_alive(&client, peer);
    let (entry, port) = (shared.entry.load_full(), shared.status.port);
    let mut from = peer;
    if shared.parts.announced {
        match time::timeout(HEADER_READ, announced::client(&mut client, peer)).await {
            // The header's port is the sender's own business.
            Ok(Ok(ip)) if ip != peer.ip() => from = SocketAddr::new(ip, 0),
            Ok(Ok(_)) => {}
            Ok(Err(error)) => return tracing::debug!(port, %peer, %error, "client connection ended before a byte"),
            Err(_) => return tracing::debug!(port, %peer, "no header of the PROXY protocol in time"),
        }
    }
    let Ok(own) = client.local_addr() else { return };
    let first = match header::bytes(entry.settings.proxy_protocol, from, own) {
        Ok(first) => first,
        Err(error) => return tracing::error!(port, %peer, %error, "no header of the PROXY protocol can be made"),
    };
    let mut log = shared.parts.log.begin_connection(from.ip(), port);
    // What leads to it may have come before it.
    let route = shared.parts.table.route(&entry.route);
    if let Some(log) = &mut log {
        log.routed(&entry.route, Some(&entry.app));
        log.answered(NO_SERVO, None);
    }
    let Some(mut route) = route else { return };
    let (_counted, begun) = (shared.parts.table.begin(&route), Instant::now());
    let hold = Duration::from_millis(route.app.settings().traffic.hold_ms.into());
    let reached = reach::servo(shared, &client, &mut route, hold, &first).await;
    let status = if reached.is_ok() { CARRIED } else { NO_SERVO };
    route.statistics().answered(status, begun.elapsed());
    if let Some(log) = &mut log {
        log.answered(status, reached.as_ref().ok().map(|(_, in_flight)| in_flight.servo().id));
    }
    let (upstream, in_flight) = match reached {
        Ok(reached) => reached,
        Err(why) => return tracing::debug!(port, %peer, "connection ended: {why}"),
    };
    let servo = in_flight.servo().clone();
    reach::keep_alive(&upstream, servo.address);
    let moved = Moved::new();
    {
        let mut client = Metered { stream: client, moved: &moved, read: &moved.received };
        let mut upstream = Metered { stream: upstream, moved: &moved, read: &moved.sent };
        tokio::select! {
            copied = copy_bidirectional(&mut client, &mut upstream) => if let Err(error) = copied {
                // An end without good-bye is how many connections end.
                tracing::debug!(port, %peer, servo = %servo.id, %error, "connection ended");
            },
            why = over(&servo, &entry.settings, &moved, GRACE) => {
                tracing::debug!(port, %peer, servo = %servo.id, "connection cut: {why}");
            }
            () = shared.proofs.follow(servo.id, &moved, LOOK) => {}
        }
    }
    shared.proofs.ended(servo.id, &moved);
    let (received, sent) = (moved.received.load(Ordering::Relaxed), moved.sent.load(Ordering::Relaxed));
    shared.status.counts.received.fetch_add(received, Ordering::Relaxed);
    shared.status.counts.sent.fetch_add(sent, Ordering::Relaxed);
    if let Some(log) = &mut log {
        log.carried(received, sent);
    }
}

/// Returns, with the reason, when a connection must end though neither side has ended it.
async fn over(servo: &Arc<Servo>, settings: &PortSettings, moved: &Moved, grace: Duration) -> &'static str {
    let idle = (settings.idle_ms > 0).then(|| Duration::from_millis(settings.idle_ms.into()));
    let mut looks = time::interval(LOOK.min(grace));
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut leaves = None;
    loop {
        looks.tick().await;
        if idle.is_some_and(|idle| moved.quiet_for() >= idle) {
            return "nothing moved for too long";
        }
        if servo.is_removed() && leaves.get_or_insert_with(Instant::now).elapsed() >= grace {
            return "its servo has left, and the grace is over";
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::{Picked, Table, Wish};
    use pontoon_model::{ReleaseNumber, Route, RouteServo, RouteTable, RouteVersion, ServoId};

    #[tokio::test]
    async fn a_connection_whose_servo_has_left_has_its_grace_and_is_cut_then() {
        let table = Table::new("here".parse().unwrap());
        let servo = RouteServo {
            id: ServoId(1),
            site: "here".parse().unwrap(),
            address: "127.0.0.1:1".parse().unwrap(),
            suspect: false,
        };
        let route = Route {
            host: "tcp:mq".into(),
            app: "mq".parse().unwrap(),
            release: Some(ReleaseNumber(1)),
            servos: vec![servo],
            reason: String::new(),
        };
        table.apply_table(&RouteTable { version: RouteVersion(1), routes: vec![route.into()] }).unwrap();
        let Picked::Servo(in_flight) = table.pick(&mut table.route("tcp:mq").unwrap(), &Wish::default()) else {
            panic!()
        };
        let (settings, moved, grace) = (PortSettings::default(), Moved::new(), Duration::from_millis(100));
        let over = over(in_flight.servo(), &settings, &moved, grace);
        tokio::pin!(over);
        assert!(time::timeout(3 * grace, over.as_mut()).await.is_err(), "it is there");
        table.apply_table(&RouteTable { version: RouteVersion(2), routes: vec![] }).unwrap();
        let left = Instant::now();
        assert_eq!(over.await, "its servo has left, and the grace is over");
        assert!(left.elapsed() >= grace);
    }
}
