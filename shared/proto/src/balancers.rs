//! Between a balancer and the controller it is connected to.

use std::net::SocketAddr;
use std::sync::Arc;

use pontoon_model::{BalancerName, EdgeEntry, EdgeKey, EdgeTable, Route, RouteTable, RouteVersion, SiteName};
use serde::{Deserialize, Serialize};

use crate::{KnownController, RequestReport, TailChunk, TailRequest, TrustNow};

/// From a balancer. The first message of a session is `Hello`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum BalancerMessage {
    /// Who speaks.
    Hello(BalancerHello),
    /// Sent at once when either version grows, and every second as a sign of life.
    Ack(BalancerAck),
    /// How many requests came; only to a controller that says that it reads this ([`crate::known::REQUESTS`]).
    Requests(RequestReport),
    /// Requests that somebody looks at; the same.
    Tail(TailChunk),
    /// What it knows besides the routes is of this version or a newer one; sent at once when that grows, only to a controller
    /// that has sent [`BalancerDirective::Edge`].
    EdgeApplied(RouteVersion),
    /// Which ports it listens on: all that the controllers named, at every change; not sent while there are none.
    Ports(Vec<PortReport>),
}

/// A port that a balancer shall listen on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortReport {
    /// Which.
    pub port: u16,
    /// Why it does not; none if it does.
    pub problem: Option<String>,
}

/// Who a balancer is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BalancerHello {
    /// Its name.
    pub name: BalancerName,
    /// Where it stands.
    pub site: SiteName,
    /// Where users reach it.
    pub listen: SocketAddr,
    /// The table it holds (from memory or disk), or version 0.
    pub have: RouteVersion,
}

/// How far a balancer is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BalancerAck {
    /// New requests are routed by this version or a newer one.
    pub applied: RouteVersion,
    /// No request is in flight any more to a servo that this version or an older one removed.
    pub drained: RouteVersion,
}

/// To a balancer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum BalancerDirective {
    /// The whole table.
    Table(RouteTable),
    /// What changed since `from`; a balancer that does not hold `from` ends the session and says Hello anew.
    Delta(RouteDelta),
    /// This controller has lost the others: go to another one.
    GoElsewhere,
    /// Where the controllers are; sent after `Hello` and at every change, only to who says that it reads this
    /// ([`crate::known::READS`]).
    Controllers {
        /// All of them.
        known: Vec<KnownController>,
    },
    /// Whom to trust; only to who says that it reads this.
    Trust(TrustNow),
    /// Domains, settings of apps, certificates and keys, at the beginning of a session; only to who says that it reads this.
    Edge(EdgeTable),
    /// What of them changed; a balancer that does not hold `from` ends the session and opens another.
    EdgeDelta(EdgeDelta),
    /// Tell of requests as they are answered, until `TailUnwanted`; only to who says that it reads this.
    TailWanted {
        /// What they are sent by.
        stream: u64,
        /// Which.
        request: TailRequest,
    },
    /// No longer.
    TailUnwanted {
        /// Which.
        stream: u64,
    },
    /// A piece of a table that is too large for one message; only to who says that it reads this
    /// ([`crate::known::PIECES`]).
    Piece(RoutePiece),
}

/// Some routes of a table. All of its pieces come one after the other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoutePiece {
    /// The table's version.
    pub version: RouteVersion,
    /// Whether it begins the table: pieces of another that came before count no longer.
    pub first: bool,
    /// Whether it ends the table: host names that were in no piece are gone.
    pub last: bool,
    /// The routes.
    pub routes: Vec<Arc<Route>>,
}

/// The difference of two route tables.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteDelta {
    /// The version it applies to.
    pub from: RouteVersion,
    /// The version it leads to.
    pub to: RouteVersion,
    /// New or changed routes.
    pub changed: Vec<Arc<Route>>,
    /// Host names that are gone.
    pub removed: Vec<String>,
}

/// The difference of two edge tables.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EdgeDelta {
    /// The version it applies to.
    pub from: RouteVersion,
    /// The version it leads to.
    pub to: RouteVersion,
    /// New or changed entries.
    pub changed: Vec<Arc<EdgeEntry>>,
    /// Entries that are gone.
    pub removed: Vec<EdgeKey>,
}
