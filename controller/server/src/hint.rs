//! Where the leader is, beside the answer of a controller that does not lead. Who asks may not know that address: a newcomer, or
//! one that has lost its store and knows only who was there when it last ran.

use std::net::SocketAddr;

use tonic::Response;
use tonic::metadata::MetadataMap;

const LEADER: &str = "pontoon-leader";
/// No cluster has as many controllers, but one that answers wrongly may name another each time.
const MOST: usize = 32;

/// `reply`, and where the leader is, if that is known.
pub(crate) fn beside<T>(reply: T, leader: Option<SocketAddr>) -> Response<T> {
    let mut response = Response::new(reply);
    // An address is ASCII.
    if let Some(address) = leader.and_then(|address| address.to_string().parse().ok()) {
        response.metadata_mut().insert(LEADER, address);
    }
    response
}

/// Where the leader is, as an answer says.
pub(crate) fn of(answer: &MetadataMap) -> Option<SocketAddr> {
    answer.get(LEADER)?.to_str().ok()?.parse().ok()
}

/// The leader is asked too, if it is none of `others`.
pub(crate) fn follow(others: &mut Vec<(String, SocketAddr)>, leader: Option<SocketAddr>) {
    let new = |leader: &SocketAddr| others.iter().all(|(_, known)| known != leader) && others.len() < MOST;
    if let Some(leader) = leader.filter(new) {
        others.push((format!("the leader at {leader}"), leader));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_arrives_and_nothing_else_does() {
        for address in ["10.0.0.1:7710", "[fd00::1]:7710"] {
            let address = address.parse().unwrap();
            assert_eq!(of(beside((), Some(address)).metadata()), Some(address));
        }
        assert_eq!(of(beside((), None).metadata()), None);
        let mut strange = MetadataMap::new();
        strange.insert(LEADER, "somewhere".parse().unwrap());
        assert_eq!(of(&strange), None);
    }
}
