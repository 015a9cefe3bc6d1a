//! Step 1: which hosts are heard.

use std::time::Duration;

use pontoon_model::{HostState, Timestamp};

use super::{Draft, Op};

/// Silent for this long, a host gets no new servo: three missed heartbeats.
pub const SUSPECT_AFTER: Duration = Duration::from_secs(3);
/// Silent for this long, its servos are placed elsewhere. Beyond the time an agent takes to reach another
/// controller (2 s) and a controller to find a leader.
pub const LOST_AFTER: Duration = Duration::from_secs(8);

pub(super) fn step(draft: &mut Draft<'_>) {
    let now = draft.input.now;
    for host in draft.state.clone().hosts() {
        let heard = draft.observed.hosts.get(&host.name).filter(|sign| sign.incarnation == host.incarnation);
        // A new leader has heard nobody yet: everyone gets the full grace, but a lost host stays lost until heard.
        let since = heard
            .map_or(host.registered_at, |sign| sign.heard_at)
            .max(host.registered_at)
            .max(draft.input.leader_since);
        let state = match now.since(since) {
            silent if silent >= LOST_AFTER => HostState::Lost,
            silent if silent >= SUSPECT_AFTER => HostState::Suspect,
            _ if heard.is_none() => host.state,
            _ => HostState::Up,
        };
        if state != host.state && !(state == HostState::Suspect && host.state == HostState::Lost) {
            draft.decide(Op::SetHostState { host: host.name.clone(), version: host.version, state });
        }
        if let Some(next) = next_change(state, since) {
            draft.wake(next);
        }
    }
}

fn next_change(state: HostState, since: Timestamp) -> Option<Timestamp> {
    match state {
        HostState::Up => Some(since.plus(SUSPECT_AFTER)),
        HostState::Suspect => Some(since.plus(LOST_AFTER)),
        HostState::Lost => None,
    }
}
