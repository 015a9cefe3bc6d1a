use super::*;
use crate::testing::{assignment, spec};

const NOW: Timestamp = Timestamp(100_000);
const LATER: Timestamp = Timestamp(100_001);

fn container(id: u64, state: State) -> Container {
    Container { servo: ServoId(id), origin: Some(Origin::of(&spec(id))), state }
}

fn drain() -> Desired {
    Desired::Drain { since_version: 1, since: NOW }
}

fn stop(id: u64) -> Action {
    Action::Stop { servo: ServoId(id), grace: spec(id).grace }
}

/// One servo wanted in some way, found in some state: what happens.
#[test]
fn every_wish_meets_every_state() {
    let states = [
        None,
        Some(State::Busy),
        Some(State::Running),
        Some(State::Ended { retry_at: NOW }),
        Some(State::Ended { retry_at: LATER }),
        Some(State::Failed { retry_at: NOW }),
        Some(State::Failed { retry_at: LATER }),
        Some(State::Spent),
    ];
    let (start, restart, gone) =
        (Some(Action::Start(ServoId(1))), Some(Action::Restart(ServoId(1))), Some(Action::Gone(ServoId(1))));
    let halt = Some(stop(1));
    let n = None;
    #[rustfmt::skip]
    let table = [
        // desired, one-off: absent, busy, running, ended, ended lately, failed, failed lately, spent
        (Desired::Run, false, [&start, &n, &n, &restart, &n, &start, &n, &n]),
        (Desired::Run, true, [&start, &n, &n, &n, &n, &n, &n, &n]),
        (drain(), false, [&gone, &n, &n, &n, &n, &n, &n, &n]),
        (Desired::Stop, false, [&gone, &n, &halt, &halt, &halt, &halt, &halt, &halt]),
        (Desired::Stop, true, [&gone, &n, &halt, &halt, &halt, &halt, &halt, &halt]),
    ];
    for (desired, one_off, expected) in table {
        let mut wanted = spec(1);
        wanted.desired = desired;
        wanted.one_off = one_off;
        let want = assignment(vec![wanted]);
        for (state, action) in states.iter().zip(expected) {
            let have: Vec<Container> = state.iter().map(|state| container(1, *state)).collect();
            let actions = diff(&want, &have, NOW);
            assert_eq!(actions, action.clone().into_iter().collect::<Vec<_>>(), "{desired:?} {one_off} {state:?}");
        }
    }
}

#[test]
fn what_is_not_assigned_is_stopped() {
    let have =
        [container(1, State::Running), container(2, State::Ended { retry_at: LATER }), container(3, State::Busy)];
    let halt = |id| Action::Stop { servo: ServoId(id), grace: GRACE_UNKNOWN };
    assert_eq!(diff(&assignment(Vec::new()), &have, NOW), [halt(1), halt(2)]);
}

#[test]
fn a_container_of_the_same_number_from_other_files_is_replaced() {
    let mut other = container(1, State::Running);
    other.origin.as_mut().unwrap().bundle = Digest::of(b"other");
    let want = assignment(vec![spec(1)]);
    assert_eq!(diff(&want, &[other], NOW), [stop(1)]);
    assert_eq!(diff(&want, &[], NOW), [Action::Start(ServoId(1))]);
}

#[test]
fn a_container_without_readable_origin_is_kept() {
    let mut unknown = container(1, State::Running);
    unknown.origin = None;
    assert_eq!(diff(&assignment(vec![spec(1)]), &[unknown], NOW), []);
}

#[test]
fn waits_double_up_to_a_minute() {
    let waits: Vec<u64> = (1..=8).map(|crashes| restart_wait(crashes).as_secs()).collect();
    assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60]);
    assert_eq!(restart_wait(u32::MAX), RESTART_MOST);
}
