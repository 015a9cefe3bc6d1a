//! Connections that changed their protocol (WebSocket): bytes both ways until one side ends.

use http::HeaderValue;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::copy_bidirectional;
use tokio_util::task::TaskTracker;

use crate::table::{Counted, InFlight};

/// A client's wish to change the protocol.
pub(super) struct Wish {
    pub(super) protocol: HeaderValue,
    pub(super) client: OnUpgrade,
}

/// Carries bytes once both sides have changed. `in_flight` keeps the servo undrained as long as it is open.
pub(super) fn open(
    tunnels: &TaskTracker,
    client: OnUpgrade,
    servo: OnUpgrade,
    in_flight: InFlight,
    counted: Option<Counted>,
) {
    tunnels.spawn_local(async move {
        let _held = counted;
        let address = in_flight.servo().address;
        let (client, servo) = match tokio::try_join!(client, servo) {
            Ok(both) => both,
            Err(error) => return tracing::debug!(%address, %error, "a change of protocol did not happen"),
        };
        // An end without good-bye is how most of these connections end.
        if let Err(error) = copy_bidirectional(&mut TokioIo::new(client), &mut TokioIo::new(servo)).await {
            tracing::debug!(%address, %error, "tunnel ended");
        }
    });
}
