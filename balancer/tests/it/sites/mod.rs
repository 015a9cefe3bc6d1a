//! Requests for apps that have no servo here.

mod choice;
mod known;
mod loss;
mod passing;
mod strangers;

use std::net::SocketAddr;
use std::time::Duration;

use pontoon_kit::Authority;
use pontoon_model::{EdgeEntry, Traffic};

use super::support::servo::Servo;
use super::support::sites::{Site, at, impatient, routed};
use super::support::{keys, until};

/// Users come in at `here`; servos are in the other sites only. What `here` believes to be their addresses leads nowhere: whoever
/// answers was asked by the balancer of its site.
struct World {
    authority: Authority,
    here: Site,
    /// By their sites.
    others: Vec<Site>,
}

impl World {
    /// A site for each name, with these servos; the nearer is named first.
    async fn new(traffic: Traffic, sites: &[(&'static str, &[SocketAddr])]) -> Self {
        let authority = Authority::create().unwrap();
        let here = Site::start(&authority, "b-here", "here").await;
        let nowhere = Servo::refusing().await;
        let mut others = Vec::new();
        let mut peers = vec![EdgeEntry::Peer(here.row()), keys(&["secret"])];
        let mut believed = Vec::new();
        for (site, servos) in sites {
            let name = format!("b-{site}").leak();
            let other = Site::start(&authority, name, site).await;
            peers.push(EdgeEntry::Peer(other.row()));
            let at_home: Vec<_> = servos.iter().map(|servo| (*site, u64::from(servo.port()), *servo)).collect();
            other.route(1, routed(&at_home));
            believed.extend(at_home.iter().map(|&(site, id, _)| (site, id, nowhere)));
            others.push(other);
        }
        here.route(1, routed(&believed));
        for site in others.iter().chain([&here]) {
            site.know(1, traffic.clone(), peers.clone());
        }
        for other in &others {
            here.until_peer_is(other.name, true).await;
        }
        Self { authority, here, others }
    }

    /// Waits until the one is measured nearer than the other by far: what a busy machine adds to a measurement is gone with the
    /// next ones.
    async fn until_nearer(&self, near: &str, far: &str) {
        let distance = |name: &str| self.here.peer(name).and_then(|peer| peer.round_trip());
        until(|| match (distance(near), distance(far)) {
            (Some(near), Some(far)) if near + Duration::from_millis(10) < far => Ok(()),
            now => Err(format!("{near} and {far}: {now:?}")),
        })
        .await;
    }

    fn address(&self) -> SocketAddr {
        self.here.address()
    }

    fn peers(&self) -> Vec<EdgeEntry> {
        let all = self.others.iter().chain([&self.here]);
        all.map(|site| EdgeEntry::Peer(site.row())).chain([keys(&["secret"])]).collect()
    }

    /// Puts what answers at `address` in the place of the first of the other sites' balancers, for who comes in here.
    fn replace_first(&self, version: u64, name: &str, address: SocketAddr) {
        let mut peers = self.peers();
        peers[0] = at(name, self.others[0].site, address);
        self.here.know(version, impatient(), peers);
    }
}
