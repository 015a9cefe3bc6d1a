//! Step 1: which hosts are heard.

use std::time::Duration;

use pontoon_model::{Host, HostName, HostState, Timestamp};

use super::{Draft, Op};

/// Silent for this long, a host gets no new servo: three missed heartbeats.
pub const SUSPECT_AFTER: Duration = Duration::from_secs(3);
/// Silent for this long, its servos are placed elsewhere. Beyond the time an agent takes to reach another
/// controller (2 s) and a controller to find a leader.
pub const LOST_AFTER: Duration = Duration::from_secs(8);

/// What a pass found of the hosts, so that the next one need not look at all of them. Signs of life only ever move
/// forward, so a host that was up stays so until `due`, unless its row changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostsSeen {
    hosts_version: u64,
    leader_since: Timestamp,
    /// When the first of those that were up may have been silent for too long.
    due: Timestamp,
    /// Those that were not up: looked at in every pass.
    not_up: Vec<HostName>,
}

pub(super) fn step(draft: &mut Draft<'_>, seen: &mut Option<HostsSeen>) {
    let (now, version) = (draft.input.now, draft.state.hosts_version());
    let still = seen.as_ref().filter(|seen| {
        seen.hosts_version == version && seen.leader_since == draft.input.leader_since && now < seen.due
    });
    if let Some(HostsSeen { due, not_up, .. }) = still.cloned() {
        for host in not_up.iter().filter_map(|name| draft.state.host(name).cloned()).collect::<Vec<_>>() {
            look_at(draft, &host);
        }
        if due < NEVER {
            draft.wake(due);
        }
        return;
    }
    let (mut due, mut not_up) = (NEVER, Vec::new());
    for host in draft.state.clone().hosts() {
        match look_at(draft, host) {
            (HostState::Up, Some(next)) => due = due.min(next),
            _ => not_up.push(host.name.clone()),
        }
    }
    *seen = Some(HostsSeen { hosts_version: version, leader_since: draft.input.leader_since, due, not_up });
}

/// Later than any clock shows.
const NEVER: Timestamp = Timestamp(u64::MAX);

/// Decides what state a host is in, and when to look again.
fn look_at(draft: &mut Draft<'_>, host: &Host) -> (HostState, Option<Timestamp>) {
    if host.is_shut_out() {
        // Whatever was heard of it before, it is nobody's until a machine with another key registers.
        return (host.state, None);
    }
    let now = draft.input.now;
    let heard = draft.observed.hosts.get(&host.name).filter(|sign| sign.incarnation == host.incarnation);
    // A new leader has heard nobody yet: everyone gets the full grace, but a lost host stays lost until heard.
    let since =
        heard.map_or(host.registered_at, |sign| sign.heard_at).max(host.registered_at).max(draft.input.leader_since);
    let state = match now.since(since) {
        silent if silent >= LOST_AFTER => HostState::Lost,
        silent if silent >= SUSPECT_AFTER => HostState::Suspect,
        _ if heard.is_none() => host.state,
        _ => HostState::Up,
    };
    if state != host.state && !(state == HostState::Suspect && host.state == HostState::Lost) {
        draft.decide(Op::SetHostState { host: host.name.clone(), version: host.version, state });
    }
    let next = next_change(state, since);
    if let Some(next) = next {
        draft.wake(next);
    }
    // A host that is not yet marked as up counts as one that is not: its mark may be refused.
    (if host.state == HostState::Up { state } else { host.state }, next)
}

fn next_change(state: HostState, since: Timestamp) -> Option<Timestamp> {
    match state {
        HostState::Up => Some(since.plus(SUSPECT_AFTER)),
        HostState::Suspect => Some(since.plus(LOST_AFTER)),
        HostState::Lost => None,
    }
}
