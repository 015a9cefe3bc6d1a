//! The balancers of other sites, which lead to the servos there: who they are, how far away, and whether they answer.
//!
//! Who they are comes with the edge table ([`crate::table`]); [`watch`] measures them, [`links`] says how connections between
//! balancers are made, [`offer`] dials out where nobody can dial in. Requests take them in `proxy::hop`.

pub(crate) mod hello;
pub(crate) mod links;
pub(crate) mod offer;
pub(crate) mod watch;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use pontoon_kit::CancellationToken;
use pontoon_model::{BalancerName, PeerRow, Reach, SiteName};
use rand::RngExt as _;
use tokio::sync::watch as watched;

use crate::millis;

/// A peer that did not answer is asked by requests only after this, and only when nobody better is left: meanwhile its watcher
/// asks it all the time.
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// Of a site's balancers those share the requests that are at most this much farther than the nearest: rooms of one site differ
/// by less, and a measurement by that much.
const AS_NEAR: Duration = Duration::from_millis(2);
/// Not measured: farther than anything.
const UNKNOWN: u32 = u32::MAX;

/// A balancer of another site.
#[derive(Debug)]
pub struct Peer {
    /// Its name, which its certificate must say.
    pub name: BalancerName,
    /// Whose servos it leads to.
    pub site: SiteName,
    /// How it is reached.
    pub reach: Reach,
    /// Smoothed, in microseconds.
    round_trip: AtomicU32,
    /// It did not answer when it was asked last.
    down: AtomicBool,
    /// By [`millis::now`]; 0 if it never was.
    failed_at: AtomicU64,
    /// Connections that it has made to us and that we use.
    offered: AtomicU32,
    /// Connections, of all workers, on which it does not answer while requests wait.
    silent: AtomicU32,
    /// Cancelled when it is no peer any more, or is reached in another way.
    pub(crate) gone: CancellationToken,
}

impl Peer {
    fn new(row: &PeerRow) -> Self {
        Self {
            name: row.name.clone(),
            site: row.site.clone(),
            reach: row.reach,
            round_trip: AtomicU32::new(UNKNOWN),
            down: AtomicBool::new(false),
            failed_at: AtomicU64::new(0),
            offered: AtomicU32::new(0),
            silent: AtomicU32::new(0),
            gone: CancellationToken::new(),
        }
    }

    /// How long a question to it and its answer take; none before the first.
    pub fn round_trip(&self) -> Option<Duration> {
        let micros = self.distance();
        (micros != UNKNOWN).then(|| Duration::from_micros(micros.into()))
    }

    /// Whether requests are sent through it.
    pub fn is_up(&self) -> bool {
        self.is_connected() && !self.down.load(Ordering::Relaxed)
    }

    /// Whether there is a way to it: it can be dialled, or has dialled itself.
    fn is_connected(&self) -> bool {
        self.reach != Reach::DialsOut || self.offered.load(Ordering::Relaxed) > 0
    }

    /// Whether it has fallen silent on any connection: what one worker has found out holds for all.
    pub(crate) fn is_silent(&self) -> bool {
        self.silent.load(Ordering::Relaxed) > 0
    }

    /// One more connection is silent.
    pub(crate) fn fell_silent(&self) {
        self.silent.fetch_add(1, Ordering::Relaxed);
    }

    /// One that was is heard again, or has ended.
    pub(crate) fn was_silent(&self) {
        self.silent.fetch_sub(1, Ordering::Relaxed);
    }

    fn distance(&self) -> u32 {
        self.round_trip.load(Ordering::Relaxed)
    }

    /// It answered.
    pub(crate) fn answered(&self, after: Duration) {
        let sample = u32::try_from(after.as_micros()).unwrap_or(UNKNOWN).clamp(1, UNKNOWN - 1);
        let before = self.distance();
        // As TCP does it (RFC 6298): one late answer moves nobody to another site.
        let smoothed = if before == UNKNOWN { sample } else { before - before / 8 + sample / 8 };
        self.round_trip.store(smoothed, Ordering::Relaxed);
        if self.down.swap(false, Ordering::Relaxed) {
            tracing::info!(peer = %self.name, site = %self.site, "a site's balancer answers again");
        }
    }

    /// It did not answer, or took no connection.
    pub(crate) fn failed(&self, why: &dyn std::fmt::Display) {
        self.failed_at.store(millis::now(), Ordering::Relaxed);
        if !self.down.swap(true, Ordering::Relaxed) {
            tracing::warn!(peer = %self.name, site = %self.site, "a site's balancer does not answer: {why}");
        }
    }

    /// Counts a connection that it has made, until the returned value is dropped.
    pub(crate) fn offers(self: &Arc<Self>) -> Offered {
        self.offered.fetch_add(1, Ordering::Relaxed);
        self.down.store(false, Ordering::Relaxed);
        Offered(self.clone())
    }

    /// Whether a request may try it although it is down.
    fn is_worth_a_try(&self) -> bool {
        let failed_at = self.failed_at.load(Ordering::Relaxed);
        self.is_connected() && (failed_at == 0 || millis::now() >= failed_at + ASK_AGAIN.as_millis() as u64)
    }
}

/// A connection that a peer has made.
#[derive(Debug)]
pub(crate) struct Offered(Arc<Peer>);

impl Drop for Offered {
    fn drop(&mut self) {
        self.0.offered.fetch_sub(1, Ordering::Relaxed);
    }
}

/// All of them; changed while requests run.
#[derive(Debug)]
pub struct Peers {
    own_site: SiteName,
    /// By name; those of the own site are left out: their servos are dialled.
    all: ArcSwap<BTreeMap<BalancerName, Arc<Peer>>>,
    /// Changes are made one after the other.
    changing: Mutex<()>,
    changed: watched::Sender<()>,
}

impl Peers {
    pub(crate) fn new(own_site: SiteName) -> Self {
        let changed = watched::Sender::new(());
        Self { own_site, all: ArcSwap::default(), changing: Mutex::default(), changed }
    }

    /// The site of this balancer.
    pub(crate) fn own_site(&self) -> &SiteName {
        &self.own_site
    }

    /// All of other sites.
    pub fn all(&self) -> Vec<Arc<Peer>> {
        self.all.load().values().cloned().collect()
    }

    /// One of another site.
    pub(crate) fn find(&self, name: &str) -> Option<Arc<Peer>> {
        let name: BalancerName = name.parse().ok()?;
        self.all.load().get(&name).cloned()
    }

    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.all.load().is_empty()
    }

    /// Whether one of `site` answers; none if that site has no peers.
    pub(crate) fn answers(&self, site: &SiteName) -> Option<bool> {
        let all = self.all.load();
        let mut of_site = all.values().filter(|peer| peer.site == *site).peekable();
        of_site.peek()?;
        Some(of_site.any(|peer| peer.is_up()))
    }

    /// Whom to ask for servos of one of `sites`: the nearest that answers. Not one of `lost`.
    pub(crate) fn toward(&self, sites: &[SiteName], lost: &[Arc<Peer>]) -> Option<Arc<Peer>> {
        let all = self.all.load();
        let left = || left_of(&all, sites, lost).filter(|peer| peer.is_up());
        let nearest = left().min_by_key(|peer| peer.distance())?;
        let farthest = nearest.distance().saturating_add(AS_NEAR.as_micros() as u32);
        let is_as_near = |peer: &&Arc<Peer>| peer.site == nearest.site && peer.distance() <= farthest;
        // At least the nearest, unless it has gone down meanwhile.
        let near: Vec<_> = left().filter(is_as_near).collect();
        let chosen = if near.is_empty() { nearest } else { near[rand::rng().random_range(0..near.len())] };
        Some(chosen.clone())
    }

    /// The same of those that did not answer: for when nobody else is left.
    pub(crate) fn in_vain(&self, sites: &[SiteName], lost: &[Arc<Peer>]) -> Option<Arc<Peer>> {
        let all = self.all.load();
        left_of(&all, sites, lost).filter(|peer| peer.is_worth_a_try()).min_by_key(|peer| peer.distance()).cloned()
    }

    pub(crate) fn put(&self, row: &PeerRow) {
        let own = row.site == self.own_site;
        self.change(|all| {
            let known = all.get(&row.name).is_some_and(|peer| peer.site == row.site && peer.reach == row.reach);
            if !known {
                forget(all, &row.name);
                if !own {
                    all.insert(row.name.clone(), Arc::new(Peer::new(row)));
                }
            }
        });
    }

    pub(crate) fn take(&self, name: &BalancerName) {
        self.change(|all| forget(all, name));
    }

    /// Follows who they are.
    pub(crate) fn watch(&self) -> watched::Receiver<()> {
        self.changed.subscribe()
    }

    fn change(&self, change: impl FnOnce(&mut BTreeMap<BalancerName, Arc<Peer>>)) {
        let _one = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all = BTreeMap::clone(&self.all.load());
        change(&mut all);
        self.all.store(Arc::new(all));
        self.changed.send_replace(());
    }
}

fn left_of<'a>(
    all: &'a BTreeMap<BalancerName, Arc<Peer>>,
    sites: &'a [SiteName],
    lost: &'a [Arc<Peer>],
) -> impl Iterator<Item = &'a Arc<Peer>> {
    let is_lost = |peer: &Arc<Peer>| lost.iter().any(|lost| Arc::ptr_eq(lost, peer));
    all.values().filter(move |peer| sites.contains(&peer.site) && !is_lost(peer))
}

fn forget(all: &mut BTreeMap<BalancerName, Arc<Peer>>, name: &BalancerName) {
    if let Some(gone) = all.remove(name) {
        gone.gone.cancel();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn site(name: &str) -> SiteName {
        SiteName::new(name).unwrap()
    }

    fn peers(all: &[(&str, &str, u64)]) -> Peers {
        let peers = Peers::new(site("here"));
        for (name, of, millis) in all {
            let reach = Reach::At("127.0.0.1:1".parse().unwrap());
            peers.put(&PeerRow { name: name.parse().unwrap(), site: site(of), reach });
            if let Some(peer) = peers.find(name) {
                peer.answered(Duration::from_millis(*millis));
            }
        }
        peers
    }

    fn order(peers: &Peers, sites: &[&str]) -> Vec<String> {
        let sites: Vec<_> = sites.iter().map(|name| site(name)).collect();
        let mut lost = Vec::new();
        while let Some(peer) = peers.toward(&sites, &lost) {
            lost.push(peer);
        }
        lost.iter().map(|peer| peer.name.to_string()).collect()
    }

    #[test]
    fn the_nearest_that_answers_is_asked_and_never_one_of_the_own_site() {
        let peers = peers(&[("own", "here", 1), ("far", "a", 90), ("near", "b", 10), ("next", "b", 30), ("x", "c", 5)]);
        assert_eq!(order(&peers, &["a", "b", "here"]), ["near", "next", "far"]);
        peers.find("near").unwrap().failed(&"test");
        assert_eq!(order(&peers, &["a", "b"]), ["next", "far"]);
        peers.find("next").unwrap().failed(&"test");
        assert_eq!(order(&peers, &["b"]), Vec::<String>::new());
        assert!(peers.in_vain(&[site("b")], &[]).is_none(), "they were asked just now");
        for name in ["near", "next"] {
            peers.find(name).unwrap().failed_at.store(0, Ordering::Relaxed);
        }
        assert_eq!(peers.in_vain(&[site("b")], &[]).unwrap().name.as_str(), "near");
        peers.find("next").unwrap().answered(Duration::from_millis(30));
        peers.find("near").unwrap().answered(Duration::from_millis(10));
        assert_eq!(order(&peers, &["b"]), ["near", "next"]);
        peers.take(&"near".parse().unwrap());
        assert_eq!((order(&peers, &["b"]), peers.answers(&site("b"))), (vec!["next".to_owned()], Some(true)));
        assert_eq!(peers.answers(&site("nowhere")), None);
    }

    #[test]
    fn balancers_that_are_as_near_share_the_requests_of_their_site() {
        let peers = peers(&[("one", "a", 10), ("other", "a", 11), ("far", "a", 40)]);
        let mut asked = BTreeMap::<_, u32>::new();
        for _ in 0..1_000 {
            *asked.entry(peers.toward(&[site("a")], &[]).unwrap().name.to_string()).or_default() += 1;
        }
        assert!(asked["one"] > 300 && asked["other"] > 300 && !asked.contains_key("far"), "{asked:?}");
    }

    #[test]
    fn who_dials_out_is_asked_while_it_is_connected() {
        let peers = Peers::new(site("here"));
        peers.put(&PeerRow { name: "pi".parse().unwrap(), site: site("attic"), reach: Reach::DialsOut });
        assert_eq!(order(&peers, &["attic"]), Vec::<String>::new());
        let offered = peers.find("pi").unwrap().offers();
        assert_eq!(order(&peers, &["attic"]), ["pi"]);
        drop(offered);
        assert_eq!(order(&peers, &["attic"]), Vec::<String>::new());
    }

    #[test]
    fn who_moves_is_another_and_who_stays_is_the_same() {
        let peers = peers(&[("b", "a", 1)]);
        let before = peers.find("b").unwrap();
        let row = PeerRow { name: before.name.clone(), site: before.site.clone(), reach: before.reach };
        peers.put(&row);
        assert!(Arc::ptr_eq(&before, &peers.find("b").unwrap()));
        peers.put(&PeerRow { reach: Reach::DialsOut, ..row.clone() });
        assert!(before.gone.is_cancelled() && peers.find("b").unwrap().round_trip().is_none());
        peers.put(&PeerRow { site: site("here"), ..row });
        assert!(peers.is_empty());
    }
}
