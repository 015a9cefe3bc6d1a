//! Answers to commands, so that a retry is answered and not applied again.
//!
//! A controller's key carries its birth, an index before that of its command's entry. The newest answers are kept by
//! number, and the index up to which some were forgotten. A key that is not known and born before that index may have been
//! answered and forgotten, so it is refused; one born later was certainly not ([`Recent`]). A client's key has no birth, so
//! it is kept by time, and never forgotten early: when there are too many, new ones are refused.

use std::sync::Arc;
use std::time::Duration;

use imbl::{OrdMap, Vector};
use pontoon_model::wire::WireError;
use pontoon_model::{IdempotencyKey, Timestamp};
use serde::{Deserialize, Serialize};

use super::recent::{Recent, Room};
use crate::{Outcome, Rejected, Reply};

/// Answers to controllers' keys that are kept. A retry comes after a failover at the latest, during which little is
/// applied: what was under way, and what waited behind it. Some 100 bytes each make 6 MB, in memory only where as many
/// commands were given.
pub const KEPT: usize = 65_536;

/// So many are forgotten at once: a sixteenth of them, and few enough that the newest fit into a processor's cache.
const BLOCK: usize = 4_096;

const ROOM: Room = Room { most: KEPT, block: BLOCK };

/// How long an answer to a client's key is kept: longer than any client tries.
pub const CLIENT_KEPT_FOR: Duration = Duration::from_secs(600);

/// Answers to clients' keys that are kept: 166 changes a second for ten minutes; some 10 MB.
pub const CLIENT_KEPT: usize = 100_000;

/// A refusal is behind a pointer: nearly all answers are `Done`.
pub(super) type Kept = Result<Reply, Arc<Rejected>>;

fn outcome_of(kept: &Kept) -> Outcome {
    kept.clone().map_err(|rejected| Rejected::clone(&rejected))
}

/// What was answered to which key.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Answers {
    to_controllers: Recent,
    to_clients: OrdMap<IdempotencyKey, Kept>,
    /// The keys of `to_clients` in the order they were answered, each with the time of its entry.
    of_clients: Vector<(Timestamp, IdempotencyKey)>,
    /// Index of the newest entry any of whose answers was forgotten.
    forgotten_upto: u64,
}

/// What may be done with a command, by its key.
pub(crate) enum Seen {
    /// It was answered before.
    Answered(Outcome),
    /// It was certainly not applied.
    New,
    /// It may have been applied.
    Expired,
    /// There is no room to remember it.
    Full,
}

/// One answer in a snapshot, in the order they were given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AnsweredRow {
    key: IdempotencyKey,
    /// Index of its entry for a controller's key, its time for a client's.
    at: u64,
    outcome: Outcome,
}

impl Answers {
    pub(crate) fn look(&mut self, key: IdempotencyKey) -> Seen {
        let kept = match key.birth() {
            Some(birth) => self.to_controllers.get(key, birth),
            None => self.to_clients.get(&key),
        };
        if let Some(kept) = kept {
            return Seen::Answered(outcome_of(kept));
        }
        match key.birth() {
            Some(birth) if birth < self.forgotten_upto => Seen::Expired,
            None if self.of_clients.len() >= CLIENT_KEPT => Seen::Full,
            _ => Seen::New,
        }
    }

    /// Remembers an answer that [`Answers::look`] did not find.
    pub(crate) fn remember(&mut self, key: IdempotencyKey, index: u64, time: Timestamp, outcome: &Outcome) {
        let at = if key.birth().is_some() { index } else { time.0 };
        self.keep(ROOM, key, at, outcome.clone().map_err(Arc::new));
    }

    /// Keeps an answer with the index of its entry for a controller's key, its time for a client's.
    fn keep(&mut self, room: Room, key: IdempotencyKey, at: u64, kept: Kept) {
        if key.birth().is_none() {
            self.to_clients.insert(key, kept);
            self.of_clients.push_back((Timestamp(at), key));
        } else if let Some(index) = self.to_controllers.add(room, key, at, kept) {
            self.forgotten_upto = index;
        }
    }

    /// Forgets clients' keys whose time is over.
    pub(crate) fn expire(&mut self, now: Timestamp) {
        while let Some((at, key)) = self.of_clients.front().copied()
            && now.since(at) >= CLIENT_KEPT_FOR
        {
            self.of_clients.pop_front();
            self.to_clients.remove(&key);
        }
    }

    pub(crate) fn forgotten_upto(&self) -> u64 {
        self.forgotten_upto
    }

    pub(crate) fn set_forgotten_upto(&mut self, index: u64) {
        self.forgotten_upto = index;
    }

    /// Every answer, in a fixed order.
    pub(crate) fn rows(&self) -> impl Iterator<Item = AnsweredRow> + '_ {
        let row = |key, at, kept: &Kept| AnsweredRow { key, at, outcome: outcome_of(kept) };
        let to_controllers = self.to_controllers.iter().map(move |given| row(given.key, given.index, &given.kept));
        let of_clients = self.of_clients.iter();
        let to_clients = of_clients.filter_map(move |(time, key)| Some(row(*key, time.0, self.to_clients.get(key)?)));
        to_controllers.chain(to_clients)
    }

    /// Takes back what [`Answers::rows`] gave, in the same order.
    pub(crate) fn put_row(&mut self, row: AnsweredRow) -> Result<(), WireError> {
        self.put_row_of(ROOM, row)
    }

    fn put_row_of(&mut self, room: Room, AnsweredRow { key, at, outcome }: AnsweredRow) -> Result<(), WireError> {
        if matches!(self.look(key), Seen::Answered(_)) {
            return Err(WireError::Malformed("the same answer twice"));
        }
        self.keep(room, key, at, outcome.map_err(Arc::new));
        Ok(())
    }

    /// What does not hold together.
    pub(crate) fn violation(&self, index: u64) -> Option<String> {
        let (controllers, clients) = (self.to_controllers.len(), self.of_clients.len());
        let indexes: Vec<u64> = self.to_controllers.iter().map(|given| given.index).collect();
        let oldest = indexes.first().copied().unwrap_or(index);
        let fits = indexes.len() == controllers
            && self.to_clients.len() == clients
            && controllers <= KEPT
            && clients <= CLIENT_KEPT
            && indexes.is_sorted()
            && self.forgotten_upto <= oldest;
        (!fits).then(|| {
            format!(
                "{controllers} answers to controllers from {oldest}, {clients} to clients of {}, forgotten up to {}",
                self.to_clients.len(),
                self.forgotten_upto
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    enum Step {
        /// A command that a controller took in when it had applied this much less than there is.
        Take { behind: u64 },
        /// The nth command from before comes again.
        Again(prop::sample::Index),
        /// An entry without commands of this kind.
        Pass,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let one = prop_oneof![
            4 => (0..12_u64).prop_map(|behind| Step::Take { behind }),
            3 => any::<prop::sample::Index>().prop_map(Step::Again),
            1 => Just(Step::Pass),
        ];
        prop::collection::vec(one, 1..120)
    }

    proptest! {
        /// With room for five answers, so that most are forgotten.
        #[test]
        fn a_command_is_applied_at_most_once_whatever_comes_between(steps in steps(), per_entry in 1..4_usize) {
            const ROOM: Room = Room { most: 5, block: 2 };
            let mut answers = Answers::default();
            let (mut given, mut applied) = (Vec::new(), BTreeSet::new());
            let mut index = 0;
            for (at, step) in steps.iter().enumerate() {
                index += u64::from(at % per_entry == 0);
                // A key is born before its command's entry.
                let key = match step {
                    Step::Pass => continue,
                    Step::Take { behind } => {
                        given.push(IdempotencyKey::born((index - 1).saturating_sub(*behind), at as u64));
                        *given.last().unwrap()
                    }
                    Step::Again(which) if !given.is_empty() => *which.get(&given),
                    Step::Again(_) => continue,
                };
                match answers.look(key) {
                    Seen::New => {
                        prop_assert!(applied.insert(key), "{key:?} is applied twice");
                        answers.keep(ROOM, key, index, Ok(Reply::Done));
                    }
                    Seen::Answered(outcome) => prop_assert!(applied.contains(&key) && outcome.is_ok()),
                    Seen::Expired => prop_assert!(key.birth().unwrap() < answers.forgotten_upto()),
                    Seen::Full => prop_assert!(false, "controllers' keys are always taken"),
                }
                prop_assert!(answers.to_controllers.len() <= ROOM.most);
                prop_assert_eq!(answers.violation(index), None);
                // A key that is born now is never refused.
                prop_assert!(!matches!(answers.look(IdempotencyKey::born(index, u64::MAX)), Seen::Expired));
            }
            let mut back = Answers::default();
            back.set_forgotten_upto(answers.forgotten_upto());
            answers.rows().for_each(|row| back.put_row_of(ROOM, row).unwrap());
            prop_assert_eq!(back, answers);
        }
    }
}
