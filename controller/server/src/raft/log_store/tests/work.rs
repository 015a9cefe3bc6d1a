//! Work on a log that can be checked afterwards: every entry's bytes follow from its index and term.

use super::*;

/// Small numbers from a seed.
pub(super) struct Dice(pub(super) u64);

impl Dice {
    /// Below `end`.
    pub(super) fn roll(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % end
    }
}

/// Entry `index` of `term`: mostly a few hundred bytes, sometimes several parts.
pub(super) fn told(term: u64, index: u64) -> Entry {
    let mut dice = Dice(index << 20 | term);
    let len = if dice.roll(40) == 0 { 5_000 + dice.roll(20_000) } else { dice.roll(600) };
    let bytes: Vec<u8> = (0..len).map(|_| dice.roll(256) as u8).collect();
    Entry { log_id: log_id(term, index), payload: EntryPayload::Normal(EntryBytes(bytes.into())) }
}

/// What was acknowledged, and so must be there.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Acked {
    pub(super) last: Option<u64>,
    pub(super) vote: u64,
    pub(super) purged: Option<u64>,
}

/// Steps a [`Worker`] tells of.
#[derive(Debug, Clone, Copy)]
pub(super) enum Told {
    Appended(u64),
    Voted(u64),
    Purged(u64),
    /// About to be truncated to this entry.
    Truncating(u64),
}

impl Acked {
    pub(super) fn note(&mut self, told: Told) {
        match told {
            Told::Appended(last) => self.last = Some(last),
            Told::Voted(term) => self.vote = term,
            Told::Purged(upto) => self.purged = Some(upto),
            Told::Truncating(last) => self.last = self.last.min(Some(last)),
        }
    }

    /// What is missing from `store`.
    pub(super) async fn missing_from(&self, store: &mut LogStore) -> Result<(), String> {
        let state = store.get_log_state().await.unwrap();
        let last = state.last_log_id.map(|id| id.index());
        let purged = state.last_purged_log_id.map(|id| id.index());
        if last < self.last || purged < self.purged {
            return Err(format!("the log is {purged:?} to {last:?}"));
        }
        let vote = store.read_vote().await.unwrap().map_or(0, |vote| vote.leader_id().term());
        if vote < self.vote {
            return Err(format!("the vote is of term {vote}"));
        }
        let mut expected = purged.map_or(0, |purged| purged + 1);
        for entry in everything(store).await {
            let id = entry.log_id;
            if id.index() != expected || entry != told(**id.committed_leader_id(), id.index()) {
                return Err(format!("{id} where entry {expected} was expected, or with other contents"));
            }
            expected += 1;
        }
        if last.map_or(0, |last| last + 1) == expected {
            Ok(())
        } else {
            Err(format!("the entries end before {expected}"))
        }
    }
}

/// Appends, votes, purges and truncates as a controller would, more often.
pub(super) struct Worker {
    pub(super) store: LogStore,
    dice: Dice,
    term: u64,
    next: u64,
    purged: u64,
}

impl Worker {
    pub(super) fn new(store: LogStore, seed: u64) -> Self {
        Self { store, dice: Dice(seed), term: 1, next: 0, purged: 0 }
    }

    /// One operation; `tell` hears of it before (a truncation) or after (all others).
    pub(super) async fn step(&mut self, tell: &mut impl FnMut(Told)) -> io::Result<()> {
        match self.dice.roll(20) {
            0 => {
                self.term += 1;
                self.store.save_vote(&vote(self.term)).await?;
                tell(Told::Voted(self.term));
            }
            1 if self.next > self.purged + 50 => {
                let upto = self.next - 20 - self.dice.roll(20);
                let id = self.log_id_of(upto).await;
                self.store.purge(id).await?;
                self.purged = upto;
                tell(Told::Purged(upto));
            }
            2 if self.next > self.purged + 10 => {
                let last = self.next - 2 - self.dice.roll(5);
                tell(Told::Truncating(last));
                let id = self.log_id_of(last).await;
                self.store.truncate_after(Some(id)).await?;
                self.next = last + 1;
                self.term += 1;
            }
            _ => {
                let end = self.next + 1 + self.dice.roll(8);
                let entries: Vec<Entry> = (self.next..end).map(|index| told(self.term, index)).collect();
                self.store.blocking_append(entries).await.map_err(io::Error::other)?;
                self.next = end;
                tell(Told::Appended(end - 1));
            }
        }
        Ok(())
    }

    async fn log_id_of(&mut self, index: u64) -> LogId {
        self.store.try_get_log_entries(index..=index).await.unwrap()[0].log_id
    }
}
