//! What balancers know besides the routes: domains, how apps' requests are treated, certificates, keys, each other, ports.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{
    AppName, BalancerName, Certificate, Challenge, Digest, Domain, PeerRow, PortSettings, RouteVersion, Secret,
    Timestamp, Traffic,
};

/// All of it at one version. Entries are ordered by [`EdgeEntry::key`], each key at most once.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EdgeTable {
    /// Raft index of the last change of any entry.
    pub version: RouteVersion,
    /// The entries.
    pub entries: Vec<Arc<EdgeEntry>>,
}

/// One of them. New kinds come at the end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum EdgeEntry {
    /// An app is reached by this domain too.
    Domain {
        /// Which.
        domain: Domain,
        /// The host name of the route that answers for it.
        route: String,
    },
    /// An app with settings of its own; without an entry the defaults count.
    App {
        /// Which.
        app: AppName,
        /// Its settings.
        traffic: Traffic,
    },
    /// To be shown for its names.
    Certificate(Certificate),
    /// What every balancer makes and checks cookies and session tickets with, newest first: the first makes, all check.
    Keys(Vec<Secret>),
    /// To be shown to the authority that a certificate is ordered from.
    Challenge(Challenge),
    /// A balancer that leads to the servos of its site.
    Peer(PeerRow),
    /// Connections to this port of every balancer are an app's.
    Port {
        /// Which.
        port: u16,
        /// Whose.
        app: AppName,
        /// The name of the route that answers for it.
        route: String,
        /// How they are treated.
        settings: PortSettings,
    },
    /// A part of an app's requests goes to another release than the live one.
    Split {
        /// Whose.
        app: AppName,
        /// The host name of the route whose requests are split.
        route: String,
        /// The host name of the route that gets its part.
        beside: String,
        /// How many of 100.
        share: u8,
    },
}

/// Names an entry.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum EdgeKey {
    /// Of a domain.
    Domain(Domain),
    /// Of an app's settings.
    App(AppName),
    /// Of a certificate.
    Certificate(Digest),
    /// Of the keys.
    Keys,
    /// Of the challenge for a host name.
    Challenge(String),
    /// Of a balancer.
    Peer(BalancerName),
    /// Of a port.
    Port(u16),
    /// Of an app's requests.
    Split(AppName),
}

impl EdgeEntry {
    /// Its name.
    pub fn key(&self) -> EdgeKey {
        match self {
            Self::Domain { domain, .. } => EdgeKey::Domain(domain.clone()),
            Self::App { app, .. } => EdgeKey::App(app.clone()),
            Self::Certificate(certificate) => EdgeKey::Certificate(certificate.fingerprint),
            Self::Keys(_) => EdgeKey::Keys,
            Self::Challenge(challenge) => EdgeKey::Challenge(challenge.host.clone()),
            Self::Peer(peer) => EdgeKey::Peer(peer.name.clone()),
            Self::Port { port, .. } => EdgeKey::Port(*port),
            Self::Split { app, .. } => EdgeKey::Split(app.clone()),
        }
    }
}

/// What balancers make and check cookies and session tickets with, as controllers keep it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EdgeKeys {
    /// Newest first.
    pub keys: Vec<Secret>,
    /// When the newest was made.
    pub made_at: Timestamp,
}

/// How often what balancers know besides the routes has changed, as controllers keep it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct EdgeStamp {
    /// Raft index of the last change.
    pub version: RouteVersion,
}
