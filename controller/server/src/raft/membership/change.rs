//! Changes of the membership, and what one says of them: pure.

use std::collections::BTreeSet;
use std::fmt;
use std::net::SocketAddr;

use pontoon_model::{ControllerId, ControllerName};

use super::super::types::Membership;

/// A controller whose store was set aside and that has a new id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replacement {
    /// The new life of its store.
    pub new: ControllerId,
    /// Its name, as its certificate says: all other ids of this name are replaced.
    pub name: ControllerName,
    /// Where it answers.
    pub grpc: SocketAddr,
}

/// A controller that wants to be let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Joining {
    /// Its Raft id, which no other ever had.
    pub id: ControllerId,
    /// Its name, as its certificate says.
    pub name: ControllerName,
    /// Where it answers.
    pub grpc: SocketAddr,
    /// Whether it shall vote, or follow only.
    pub voter: bool,
    /// Whether its store holds nothing.
    pub empty: bool,
}

/// One change of the membership, or of who leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A controller's new id takes the place of its old ones, and votes if one of them does.
    Replace(Replacement),
    /// A controller comes in.
    Join(Joining),
    /// A member that follows only shall vote.
    Promote {
        /// Which.
        name: ControllerName,
    },
    /// A member leaves for good.
    Remove {
        /// Which.
        name: ControllerName,
        /// Even if those that stay are no majority now.
        force: bool,
    },
    /// Leadership goes to another voter.
    Transfer {
        /// To whom; without it to who has most of the log.
        to: Option<ControllerName>,
    },
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Replace(Replacement { new, name, .. }) => write!(f, "{name} comes back as {new}"),
            Self::Join(Joining { id, name, grpc, voter: true, .. }) => {
                write!(f, "{name} ({id}, {grpc}) joins and votes")
            }
            Self::Join(Joining { id, name, grpc, .. }) => write!(f, "{name} ({id}, {grpc}) joins and follows"),
            Self::Promote { name } => write!(f, "{name} votes"),
            Self::Remove { name, force: true } => write!(f, "{name} is removed, whoever is left"),
            Self::Remove { name, .. } => write!(f, "{name} is removed"),
            Self::Transfer { to: Some(name) } => write!(f, "{name} leads"),
            Self::Transfer { to: None } => f.write_str("another leads"),
        }
    }
}

/// How far a change is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// Another leads; nothing was done.
    NotLeader(Option<ControllerId>),
    /// It is as it was asked for.
    Done,
    /// Under way, or what stands in its way.
    Wait(String),
    /// It will never be done.
    Refused(String),
    /// There is no member of that name.
    Unknown(String),
}

impl Change {
    /// What the membership alone says of it; nothing if there is something to do.
    pub(super) fn judge(&self, membership: &Membership) -> Option<Progress> {
        match self {
            Self::Replace(replacement) => replacement.judge(membership),
            Self::Join(joining) => joining.judge(membership),
            Self::Promote { name } => {
                let Some(id) = ids_of(membership, name).first().copied() else { return Some(unknown(name)) };
                (is_uniform(membership) && votes(membership, id)).then_some(Progress::Done)
            }
            Self::Remove { name, .. } => {
                let ids = ids_of(membership, name);
                if ids.is_empty() {
                    return Some(unknown(name));
                }
                let stays = |id: u64| !ids.contains(&id);
                (!membership.voter_ids().any(stays)).then(|| {
                    Progress::Refused(format!(
                        "{name} is the only controller that votes, and without it nobody has the cluster's state; let \
                         another join first, or stop this one if the cluster shall end"
                    ))
                })
            }
            Self::Transfer { to: None } => None,
            Self::Transfer { to: Some(name) } => {
                let ids = ids_of(membership, name);
                if ids.is_empty() {
                    return Some(unknown(name));
                }
                (!ids.iter().any(|id| votes(membership, *id))).then(|| {
                    Progress::Refused(format!(
                        "{name} does not vote, so it cannot lead; `pontoon controller promote {name}` makes it a voter"
                    ))
                })
            }
        }
    }
}

impl Replacement {
    fn judge(&self, membership: &Membership) -> Option<Progress> {
        let is_in = membership.get_node(&self.new.0).is_some();
        if is_uniform(membership) && is_in && self.old_ids(membership).is_empty() {
            return Some(Progress::Done);
        }
        ids_of(membership, &self.name).is_empty().then(|| Progress::Refused(no_member(&self.name)))
    }

    /// All ids of this name but the new one.
    pub(super) fn old_ids(&self, membership: &Membership) -> BTreeSet<u64> {
        ids_of(membership, &self.name).into_iter().filter(|id| *id != self.new.0).collect()
    }
}

impl Joining {
    fn judge(&self, membership: &Membership) -> Option<Progress> {
        let refuse = |why: String| Some(Progress::Refused(why));
        let (id, name) = (self.id, &self.name);
        if let Some(other) = ids_of(membership, name).into_iter().find(|known| *known != id.0) {
            return refuse(format!(
                "{name} is already a member, with the id {other} and not {id}: a name is one controller. If this machine \
                 takes its place, first `pontoon controller remove {name}`; if it is the same one, give it its data \
                 folder back"
            ));
        }
        if let Some(peer) = membership.get_node(&id.0).filter(|peer| peer.name != *name) {
            return refuse(format!(
                "the id {id} is that of {}: write another one into the configuration of {name}",
                peer.name
            ));
        }
        if let Some((_, peer)) = membership.nodes().find(|(known, peer)| **known != id.0 && peer.grpc == self.grpc) {
            return refuse(format!("{} is the address of {}: give {name} its own", self.grpc, peer.name));
        }
        let is_voter = membership.voter_ids().any(|voter| voter == id.0);
        if is_voter && self.empty {
            return refuse(format!(
                "{name} votes with the id {id}, and its store is empty: what it had acknowledged is lost, so that id must \
                 not vote again. `pontoon controller remove {name}`, then let it join with a new id"
            ));
        }
        let is_in = membership.get_node(&id.0).is_some();
        let wanted = if self.voter { votes(membership, id.0) } else { is_in };
        (is_uniform(membership) && wanted).then_some(Progress::Done)
    }
}

/// The ids of a name; during a replacement there are two.
pub(super) fn ids_of(membership: &Membership, name: &ControllerName) -> BTreeSet<u64> {
    membership.nodes().filter(|(_, peer)| peer.name == *name).map(|(id, _)| *id).collect()
}

/// Whether no change is half done.
pub(super) fn is_uniform(membership: &Membership) -> bool {
    membership.get_joint_config().len() == 1
}

/// Whether `id` votes and goes on voting: in the middle of a change it counts only once it is in both sets of voters, since
/// the change is not done before and a loss may still cost the majority of the old set.
pub(in super::super) fn votes(membership: &Membership, id: u64) -> bool {
    let sets = membership.get_joint_config();
    // An empty store knows of no voters at all.
    !sets.is_empty() && sets.iter().all(|voters| voters.contains(&id))
}

fn no_member(name: &ControllerName) -> String {
    format!("{name} is no member of this cluster; `pontoon controllers` lists them")
}

pub(super) fn unknown(name: &ControllerName) -> Progress {
    Progress::Unknown(no_member(name))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::super::types::Peer;
    use super::*;

    /// Nodes `c1`, `c2`… with the address of their number.
    fn membership(voters: &[&[u64]], nodes: impl Iterator<Item = u64>) -> Membership {
        let sets = voters.iter().map(|set| set.iter().copied().collect()).collect();
        let nodes: BTreeMap<u64, Peer> = nodes.map(|id| (id, peer(id))).collect();
        Membership::new(sets, nodes).unwrap()
    }

    fn peer(id: u64) -> Peer {
        Peer { name: name(id), grpc: address(id) }
    }

    fn address(id: u64) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], id as u16))
    }

    fn name(id: u64) -> ControllerName {
        format!("c{id}").parse().unwrap()
    }

    #[test]
    fn in_the_middle_of_a_change_only_members_of_both_sets_vote_for_good() {
        let joint = membership(&[&[1, 2, 3], &[1, 2, 4]], 1..=5);
        assert_eq!((1..=5).filter(|id| votes(&joint, *id)).collect::<Vec<_>>(), [1, 2]);
        assert!(!votes(&Membership::default(), 1), "nobody votes in an empty store");
        let done = membership(&[&[1, 2, 4]], 1..=5);
        assert_eq!((1..=5).filter(|id| votes(&done, *id)).collect::<Vec<_>>(), [1, 2, 4]);
    }

    fn refusal(change: &Change, membership: &Membership) -> String {
        match change.judge(membership) {
            Some(Progress::Refused(why) | Progress::Unknown(why)) => why,
            other => panic!("{change:?} in {membership:?}: {other:?}"),
        }
    }

    #[test]
    fn who_may_not_join_is_told_why_and_what_to_do() {
        let three = membership(&[&[1, 2, 3]], 1..=4);
        let joining = |id, named, at, empty| {
            let (id, name, grpc) = (ControllerId(id), name(named), address(at));
            Change::Join(Joining { id, name, grpc, voter: true, empty })
        };
        for (change, why) in [
            (joining(9, 1, 9, true), "controller remove c1"),
            (joining(1, 9, 9, true), "another one"),
            (joining(9, 9, 2, true), "address of c2"),
            (joining(1, 1, 1, true), "must not vote again"),
        ] {
            let said = refusal(&change, &three);
            assert!(said.contains(why), "{said}");
        }
        assert_eq!(joining(9, 9, 9, true).judge(&three), None);
        assert_eq!(joining(4, 4, 4, true).judge(&three), None, "a learner goes on where it was");
        assert_eq!(joining(1, 1, 1, false).judge(&three), Some(Progress::Done), "asked again after a crash");
    }

    #[test]
    fn what_is_done_is_not_done_again_and_what_cannot_be_is_refused() {
        let (three, joint) = (membership(&[&[1, 2, 3]], 1..=4), membership(&[&[1], &[1, 2]], 1..=2));
        assert_eq!(Change::Promote { name: name(1) }.judge(&three), Some(Progress::Done));
        assert_eq!(Change::Promote { name: name(4) }.judge(&three), None);
        assert_eq!(Change::Promote { name: name(1) }.judge(&joint), None, "a change that is half done comes first");
        assert!(refusal(&Change::Promote { name: name(9) }, &three).contains("no member"));
        let remove = |id| Change::Remove { name: name(id), force: true };
        assert!(refusal(&remove(9), &three).contains("no member"));
        assert!(refusal(&remove(1), &membership(&[&[1]], 1..=4)).contains("only controller that votes"));
        assert_eq!(remove(4).judge(&membership(&[&[1]], 1..=4)), None, "a learner may always go");
        assert!(refusal(&Change::Transfer { to: Some(name(4)) }, &three).contains("promote c4"));
        assert_eq!(Change::Transfer { to: Some(name(2)) }.judge(&three), None);
    }
}
