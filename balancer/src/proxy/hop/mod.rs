//! Requests that go through another site's balancer, and requests that come from one.
//!
//! Exactly one hop: [`send`] is reached only by users' requests, and what [`serve`] takes from a peer is given to servos of
//! this site or to nobody (`Scope::OwnSite`). [`word`] is what the two say about a request besides the request itself, [`pulse`]
//! whether the other side of a connection is there at all.

pub(super) mod links;
mod pulse;
pub(super) mod send;
pub(super) mod serve;
pub(super) mod word;

use pontoon_kit::Credentials;

use crate::peers::offer::Taker;

/// What workers need for it.
#[derive(Clone)]
pub(super) struct Peering {
    pub(super) credentials: Credentials,
    /// Where connections go that peers have made for us to ask on.
    pub(super) taker: Taker,
}
