//! What must hold in every simulated cluster, one file each.

mod acknowledged_is_kept;
mod applied_in_order;
mod committed_never_changes;
mod equal_states;
mod feed_never_goes_back;
mod nothing_unasked;
mod one_leader_per_term;
mod promises_survive;
mod reads_see_acknowledged;
mod retries_apply_once;
mod starts_again;
mod votes_never_go_back;

use super::events::Event;
use super::judge::Record;

/// Something that must hold; `Err` says what broke it.
pub(super) trait Invariant: Send {
    /// In a sentence that begins with "that".
    fn name(&self) -> &'static str;

    /// Looks at one event. `record` holds it already.
    fn see(&mut self, event: &Event, record: &Record) -> Result<(), String>;

    /// Looks at what can be told only at the end, when all is healed and every controller has caught up.
    fn conclude(&mut self, _record: &Record) -> Result<(), String> {
        Ok(())
    }
}

/// All of them.
pub(super) fn all() -> Vec<Box<dyn Invariant>> {
    vec![
        Box::new(starts_again::StartsAgain),
        Box::new(one_leader_per_term::OneLeaderPerTerm::default()),
        Box::new(votes_never_go_back::VotesNeverGoBack::default()),
        Box::new(promises_survive::PromisesSurvive::default()),
        Box::new(committed_never_changes::CommittedNeverChanges),
        Box::new(applied_in_order::AppliedInOrder::default()),
        Box::new(feed_never_goes_back::FeedNeverGoesBack::default()),
        Box::new(equal_states::EqualStates::default()),
        Box::new(retries_apply_once::RetriesApplyOnce),
        Box::new(nothing_unasked::NothingUnasked::default()),
        Box::new(acknowledged_is_kept::AcknowledgedIsKept::default()),
        Box::new(reads_see_acknowledged::ReadsSeeAcknowledged::default()),
    ]
}
