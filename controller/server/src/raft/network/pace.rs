//! A follower that was away, or is new, is brought up to date without haste: reading, sending and writing a hundred thousand
//! entries or the rows of a million servos at once takes processors and disks away from the writes that people wait for.

use std::time::Duration;

use futures_util::{Stream, StreamExt};
use openraft::raft::AppendEntriesRequest;

use super::super::types::TypeConfig;

/// Entries that a follower may lack and still get all at once: it was slow for a moment, and shall not be slower for it.
const NEAR: u64 = 5_000;

/// Before a message to one that lacks more. A message holds up to 300 entries or 1 MiB, so that what is sent is still
/// several times what is usually written meanwhile.
const REST: Duration = Duration::from_millis(30);

/// By so many entries must it have come nearer since the last rest for the next: under more writes than are sent with rests,
/// or with entries so large that a message holds few, it would never be there.
const GAIN: u64 = 150;

/// The requests, those of one that is far behind and comes nearer with a rest before each.
pub(super) fn paced(
    requests: impl Stream<Item = AppendEntriesRequest<TypeConfig>> + Send + Unpin + 'static,
) -> impl Stream<Item = AppendEntriesRequest<TypeConfig>> + Send + 'static {
    let mut rested_at = u64::MAX;
    requests.then(move |request| {
        let lacks = lacks(&request);
        let rests = lacks.is_some_and(|lacks| lacks > NEAR && lacks.saturating_add(GAIN) <= rested_at);
        rested_at = match lacks {
            Some(lacks) if rests => lacks,
            Some(..=NEAR) => u64::MAX,
            _ => rested_at,
        };
        async move {
            if rests {
                tokio::time::sleep(REST).await;
            }
            request
        }
    })
}

/// Between the parts of a snapshot, which are of 256 KiB: the processors are free for others for as long as a part takes them.
/// A newcomer to a million servos serves reads after 6 s; with rests of 1 ms after 5 (bench `million-join`).
const PART_REST: Duration = Duration::from_millis(4);

/// The parts of a snapshot, each with a rest before it but the first.
pub(super) fn spread<T: Send + 'static>(
    parts: impl Stream<Item = T> + Send + 'static,
) -> impl Stream<Item = T> + Send + 'static {
    let mut is_first = true;
    parts.then(move |part| {
        let rests = !std::mem::take(&mut is_first);
        async move {
            if rests {
                tokio::time::sleep(PART_REST).await;
            }
            part
        }
    })
}

/// Committed entries that its receiver lacks with the entries of this request; a sign of life, which brings none, does not
/// tell.
fn lacks(request: &AppendEntriesRequest<TypeConfig>) -> Option<u64> {
    let committed = request.leader_commit.map_or(0, |id| id.index());
    request.entries.last().map(|last| committed.saturating_sub(last.log_id.index()))
}

#[cfg(test)]
mod tests {
    use futures_util::stream;
    use openraft::EntryPayload;
    use openraft::type_config::alias::CommittedLeaderIdOf;
    use tokio::time::Instant;

    use super::super::super::types::{Entry, LogId, Vote};
    use super::*;

    fn request(entry: Option<u64>, committed: u64) -> AppendEntriesRequest<TypeConfig> {
        let id = |index| LogId::new(CommittedLeaderIdOf::<TypeConfig>::new(1), index);
        let entries = entry.map(|index| Entry { log_id: id(index), payload: EntryPayload::Blank });
        AppendEntriesRequest {
            vote: Vote::new(1, 1),
            prev_log_id: None,
            entries: entries.into_iter().collect(),
            leader_commit: Some(id(committed)),
        }
    }

    async fn time_of(requests: Vec<AppendEntriesRequest<TypeConfig>>) -> Duration {
        let begun = Instant::now();
        let count = requests.len();
        assert_eq!(paced(stream::iter(requests)).collect::<Vec<_>>().await.len(), count);
        begun.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn only_who_is_far_behind_gets_entries_slowly() {
        let near = (0..10).map(|n| request(Some(100_000 - NEAR + n), 100_000));
        let alive = (0..10).map(|_| request(None, 100_000));
        assert_eq!(time_of(near.chain(alive).collect()).await, Duration::ZERO);
        let far = (0..10).map(|n| request(Some(n * GAIN), 100_000));
        assert!(time_of(far.collect()).await >= REST * 10);
    }

    #[tokio::test(start_paused = true)]
    async fn who_comes_no_nearer_is_not_held_back() {
        let as_fast_as_written = (0..10).map(|n| request(Some(n * GAIN), 100_000 + n * GAIN));
        assert!(time_of(as_fast_as_written.collect()).await < REST * 2);
        let few_in_each = (0..10).map(|n| request(Some(n), 100_000));
        assert!(time_of(few_in_each.collect()).await < REST * 2);
        let signs_of_life_between = (0..20).map(|n| request((n % 2 == 0).then_some(n / 2), 100_000));
        assert!(time_of(signs_of_life_between.collect()).await < REST * 2);
    }

    #[tokio::test(start_paused = true)]
    async fn parts_of_a_snapshot_come_one_by_one_with_rests_between() {
        let begun = Instant::now();
        assert_eq!(spread(stream::iter(0..10)).collect::<Vec<_>>().await, (0..10).collect::<Vec<_>>());
        assert_eq!(begun.elapsed(), PART_REST * 9);
        let begun = Instant::now();
        assert_eq!(spread(stream::iter([1])).collect::<Vec<_>>().await, [1]);
        assert_eq!(begun.elapsed(), Duration::ZERO, "one part waits for nothing");
    }
}
