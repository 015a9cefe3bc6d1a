//! What balancers make cookies and session tickets with: the leader makes the first key and another every day.

use std::time::Duration;

use pontoon_core::command::RotateEdgeKeys;
use pontoon_core::{Command, State};
use pontoon_model::{Digest, SecretPlace, Timestamp};
use tokio::sync::watch;
use tokio::time::sleep;

use crate::raft::{Leadership, Proposer, StateFeed};
use crate::sealing::SealingKeys;

/// How long a key is the newest: with the eight that are kept, what was made with one is good for a week.
const LIFE: Duration = Duration::from_secs(24 * 3600);
/// How often it is looked whether one is due: without the first, browsers are not held to their servo.
const LOOK: Duration = Duration::from_secs(1);

/// Makes keys while this controller leads.
pub struct EdgeKeysKeeper {
    /// What keys there are.
    pub feed: StateFeed,
    /// Where new ones go.
    pub proposer: Proposer,
    /// Seals them.
    pub sealing: SealingKeys,
    /// Only the leader makes any.
    pub leadership: watch::Receiver<Leadership>,
}

impl EdgeKeysKeeper {
    /// Never ends.
    pub async fn run(self) {
        loop {
            let now = self.feed.now();
            let due = self.feed.look(|state| due(state, now, &self.sealing));
            if let Some(command) = due.filter(|_| self.leadership.borrow().leading) {
                match self.proposer.propose(command.into()).await {
                    // Not again because this controller does not know yet what it has just had written.
                    Ok((_, index)) => drop(tokio::time::timeout(LOOK, self.feed.at(index)).await),
                    Err(error) => tracing::debug!(%error, "balancers get no new key yet"),
                }
            }
            sleep(LOOK).await;
        }
    }
}

/// The change that is due, if any.
fn due(state: &State, now: Timestamp, sealing: &SealingKeys) -> Option<RotateEdgeKeys> {
    let keys = state.edge().keys();
    if keys.is_some_and(|row| row.made_at.plus(LIFE) > now) {
        return None;
    }
    let follows = keys.and_then(|row| row.keys.first()).map(|key| Digest::of(key.0.as_bytes()));
    // Not before it can be kept sealed.
    state.trust().sealing_key()?;
    let key = format!("{:032x}{:032x}", rand::random::<u128>(), rand::random::<u128>());
    let sealed = sealing.seal(state.trust(), &SecretPlace::EdgeKeys, &key);
    let key = sealed.inspect_err(|error| tracing::debug!(%error, "balancers get no new key yet")).ok()?;
    let command = RotateEdgeKeys { follows, key };
    (Command::from(command.clone()).level() <= state.feature_level()).then_some(command)
}

#[cfg(test)]
mod tests {
    use pontoon_core::command::{AdoptSealingKey, RaiseFeatureLevel};
    use pontoon_core::{Entry, Stamped};
    use pontoon_model::IdempotencyKey;

    use super::*;
    use crate::sealing::tests::one_key;

    #[test]
    fn the_first_key_is_due_once_all_can_read_it_and_the_next_a_day_later() {
        let mut state = State::default();
        let apply = |state: &mut State, command: Command, time| {
            let index = state.index() + 1;
            let commands = vec![Stamped { key: IdempotencyKey(u128::from(index)), command }];
            state.apply(index, &Entry { time, commands }).remove(0).unwrap();
        };
        let begun = Timestamp(1_000);
        let (_folder, sealing, id) = one_key();
        let due = |state: &State, now| due(state, now, &sealing);
        assert_eq!(due(&state, begun), None);
        (2..=3).for_each(|to| apply(&mut state, RaiseFeatureLevel { to }.into(), begun));
        assert_eq!(due(&state, begun), None, "it would be plain");
        apply(&mut state, AdoptSealingKey { follows: None, id }.into(), begun);
        let first = due(&state, begun).unwrap();
        assert_eq!((first.follows, first.key.value_len(), first.key.is_sealed()), (None, 64, true));
        apply(&mut state, first.clone().into(), begun);
        assert_eq!(due(&state, Timestamp(begun.plus(LIFE).0 - 1)), None);
        let second = due(&state, begun.plus(LIFE)).unwrap();
        assert_eq!(second.follows, Some(Digest::of(first.key.0.as_bytes())));
        assert_ne!(second.key, first.key);
        apply(&mut state, second.into(), begun.plus(LIFE));
    }
}
