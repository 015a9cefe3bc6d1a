//! Where controllers are, as agents and balancers are told and remember.

use std::net::SocketAddr;

use pontoon_model::SiteName;
use serde::{Deserialize, Serialize};

/// A header of the request that opens a session: what its sender can read beyond the first release. Not in `Hello`, which
/// an older controller could not read in a newer layout, and which agents may be upgraded before.
pub const READS: &str = "pontoon-reads";

/// In [`READS`]: the directive `Controllers`.
pub const CONTROLLERS: &str = "controllers";

/// In [`READS`]: the directive `Trust`.
pub const TRUST: &str = "trust";

/// In [`READS`]: the directives `Edge` and `EdgeDelta`.
pub const EDGE: &str = "edge";

/// In [`READS`]: `TailWanted` and `TailUnwanted` of a balancer's session; in the header of that name in a controller's answer
/// to it: `Requests` and `Tail`.
pub const REQUESTS: &str = "requests";

/// In [`READS`]: the directive `Piece`.
pub const PIECES: &str = "pieces";

/// [`READS`] of this version.
pub const ALL: &str = "controllers,trust,edge,requests,pieces";

/// A header of the request that opens a balancer's session: how other balancers reach it ([`pontoon_model::Reach`]); without it
/// they do not. Not in `Hello` for the same reason.
pub const PEER: &str = "pontoon-peer";

/// A header of the request that opens a session: the version of Pontoon that its sender runs, for people.
pub const VERSION: &str = "pontoon-version";

/// A header of a request for audit records: none that is newer than this (Unix milliseconds). Not in [`crate::AuditRequest`] for the
/// same reason; one who heeds these two headers says so with [`AUDIT_SPAN`] in its answer.
pub const AUDIT_UNTIL: &str = "pontoon-audit-until";

/// A header of a request for audit records: the oldest so many in place of the newest.
pub const AUDIT_OLDEST: &str = "pontoon-audit-oldest";

/// A header of an answer with audit records: it heeds [`AUDIT_UNTIL`] and [`AUDIT_OLDEST`].
pub const AUDIT_SPAN: &str = "pontoon-audit-span";

/// Where a controller is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownController {
    /// Where it stands.
    pub site: SiteName,
    /// Where it answers agents and balancers.
    pub grpc: SocketAddr,
}

/// What an agent or a balancer keeps on its disk.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownControllers {
    /// As they were told last.
    pub known: Vec<KnownController>,
}

impl KnownControllers {
    /// Addresses in the order in which one in `site` tries them: those told of in its own site, the others told of, and
    /// then those that only the configuration names, since they may be gone.
    pub fn in_order(&self, site: &SiteName, configured: &[SocketAddr]) -> Vec<SocketAddr> {
        let (near, far): (Vec<_>, Vec<_>) = self.known.iter().partition(|one| one.site == *site);
        let mut addresses: Vec<SocketAddr> = Vec::new();
        let told = near.into_iter().chain(far).map(|one| one.grpc);
        for address in told.chain(configured.iter().copied()) {
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        addresses
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_near_is_tried_first_and_who_is_only_configured_last() {
        let known = |site: &str, port| KnownController {
            site: site.parse().unwrap(),
            grpc: SocketAddr::from(([127, 0, 0, 1], port)),
        };
        let told = KnownControllers { known: vec![known("west", 1), known("east", 2), known("east", 3)] };
        let configured: Vec<SocketAddr> = [9, 1].map(|port| SocketAddr::from(([127, 0, 0, 1], port))).into();
        let ports = |addresses: Vec<SocketAddr>| addresses.iter().map(SocketAddr::port).collect::<Vec<_>>();
        assert_eq!(ports(told.in_order(&"east".parse().unwrap(), &configured)), [2, 3, 1, 9]);
        assert_eq!(ports(KnownControllers::default().in_order(&"east".parse().unwrap(), &configured)), [9, 1]);
    }
}
