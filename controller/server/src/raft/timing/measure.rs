//! Every controller measures the way to every other, so that a new leader need not begin; the leader chooses.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use pontoon_core::command::SetTiming;
use pontoon_core::{Stamped, State, level};
use pontoon_model::wire::Wire;
use pontoon_model::{ChosenTiming, ControllerId};
use pontoon_proto::{DescribeRequest, MeasureRequest, MeasuredReply};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tonic::Code;

use super::super::batcher::Batcher;
use super::super::config::Timing;
use super::super::encoded::Encoded;
use super::super::leadership::Leadership;
use super::super::peers::{Peer, Peers};
use super::super::state_machine::StateFeed;
use super::choice::{Chooser, Measured};
use super::{FlushTimes, Pace};

/// Between two measurements of a member: what has become too short is noticed within ten seconds, and a few hundred bytes
/// burden nobody.
const EVERY: Duration = Duration::from_secs(1);

/// A member that needs longer is away: the longest timing there is would not do for it.
const ANSWER: Duration = Duration::from_secs(1);

/// Round trips of a member that are kept.
const KEPT: usize = 20;

/// Before so many of a member are known, nothing is: the first may have waited for a new connection.
const LEAST: usize = 5;

/// That so many parts in four of the kept took no longer is what a round trip takes: a member that was busy for a moment,
/// or whose connection was made anew, has not moved away.
const PARTS: usize = 3;

/// Of one entry with the choice; then the next measurement brings another try.
const PATIENCE: Duration = Duration::from_secs(5);

/// A controller's timing, and what it has measured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimingNow {
    /// In force.
    pub timing: Timing,
    /// Whether it is what the leader chose for all.
    pub auto: bool,
    /// A slow flush of its log.
    pub flush: Duration,
    /// Round trips from it to the others.
    pub round_trips: BTreeMap<ControllerId, Duration>,
    /// Why its timing is too short, if it is.
    pub warning: Option<String>,
}

/// What one member's answers said.
#[derive(Debug, Clone, Default)]
struct Answers {
    round_trips: VecDeque<Duration>,
    flush: Duration,
}

impl Answers {
    fn add(&mut self, round_trip: Duration, flush: Duration) {
        if self.round_trips.len() == KEPT {
            self.round_trips.pop_front();
        }
        self.round_trips.push_back(round_trip);
        self.flush = flush;
    }

    fn round_trip(&self) -> Option<Duration> {
        let mut sorted: Vec<Duration> = self.round_trips.iter().copied().collect();
        sorted.sort_unstable();
        let last = sorted.len().checked_sub(1).filter(|last| *last + 1 >= LEAST)?;
        sorted.get(last * PARTS / 4).copied()
    }
}

/// The times in force and what they are chosen from. Clones share it.
#[derive(Debug, Clone)]
pub(in crate::raft) struct Chosen {
    pace: Pace,
    flushes: FlushTimes,
    known: Arc<Mutex<Known>>,
}

#[derive(Debug, Default)]
struct Known {
    members: BTreeMap<ControllerId, Answers>,
    warning: Option<String>,
}

impl Chosen {
    pub(in crate::raft) fn new(pace: Pace, flushes: FlushTimes) -> Self {
        Self { pace, flushes, known: Arc::default() }
    }

    /// As people are told.
    pub(in crate::raft) fn now(&self) -> TimingNow {
        let known = self.lock();
        let round_trips = known.members.iter().filter_map(|(id, answers)| Some((*id, answers.round_trip()?)));
        TimingNow {
            timing: self.pace.timing(),
            auto: self.pace.is_auto(),
            flush: self.flushes.slow(),
            round_trips: round_trips.collect(),
            warning: known.warning.clone(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is known of `voters`, the others that vote.
    fn measured(&self, voters: &[ControllerId]) -> Measured {
        let known = self.lock();
        let answers = || voters.iter().filter_map(|id| known.members.get(id));
        Measured {
            round_trip: answers().filter_map(Answers::round_trip).max().unwrap_or_default(),
            flush: answers().map(|answers| answers.flush).max().unwrap_or_default().max(self.flushes.slow()),
            whole: answers().filter(|answers| answers.round_trips.len() == KEPT).count() == voters.len(),
        }
    }

    /// Warns once of a timing that is too short, until it is not any more.
    fn warn(&self, measured: &Measured) {
        let warning = too_short(self.pace.timing(), self.pace.is_auto(), measured);
        let mut known = self.lock();
        match (&known.warning, &warning) {
            (None, Some(warning)) => tracing::warn!("{warning}"),
            (Some(_), None) => tracing::info!("the timing of this controller is long enough again"),
            _ => {}
        }
        known.warning = warning;
    }
}

/// Why `timing` is too short for what was measured.
fn too_short(timing: Timing, auto: bool, measured: &Measured) -> Option<String> {
    let Timing { heartbeat, election_min, .. } = timing;
    let needed = measured.needed();
    if auto && heartbeat < Duration::from_millis(ChosenTiming::MOST_MS.into()) {
        // The leader is about to choose a longer one.
        return None;
    }
    let how_else = match auto {
        true => "this is the longest that is ever chosen: a faster network or disk is needed",
        false => "set `timing = \"auto\"`, or longer times, in its configuration and start it again",
    };
    if heartbeat < needed {
        return Some(format!(
            "its heartbeat of {} ms is shorter than a round trip and a slow flush of the log ({} + {} ms), so leaders may be \
             replaced without need; {how_else}",
            heartbeat.as_millis(),
            ms(measured.round_trip),
            ms(measured.flush)
        ));
    }
    (election_min < heartbeat * 3).then(|| {
        format!(
            "its shortest election timeout of {} ms is less than 3 heartbeats of {} ms, so a lost message or two replace a \
             leader (measured: round trip {} ms, slow flush {} ms); {how_else}",
            election_min.as_millis(),
            heartbeat.as_millis(),
            ms(measured.round_trip),
            ms(measured.flush)
        )
    })
}

fn ms(duration: Duration) -> String {
    format!("{:.1}", duration.as_secs_f64() * 1e3)
}

/// What it takes to measure and to choose.
pub(in crate::raft) struct Measuring {
    pub(in crate::raft) id: ControllerId,
    pub(in crate::raft) chosen: Chosen,
    pub(in crate::raft) peers: Peers,
    pub(in crate::raft) feed: StateFeed,
    pub(in crate::raft) leadership: watch::Receiver<Leadership>,
    pub(in crate::raft) batcher: Batcher,
}

impl Measuring {
    /// Measures, and chooses while this controller leads, as long as it is polled.
    pub(in crate::raft) async fn run(self) {
        let mut chooser = Chooser::default();
        loop {
            tokio::time::sleep(EVERY).await;
            let others = self.peers.others();
            self.measure(&others).await;
            let voters: Vec<ControllerId> = others.iter().filter(|peer| peer.is_voter()).map(Peer::id).collect();
            let measured = self.chosen.measured(&voters);
            self.chosen.warn(&measured);
            if !self.leadership.borrow().leading {
                // Whoever leads anew may choose at once.
                chooser = Chooser::default();
            } else if let Err(why) = self.choose(&mut chooser, &measured).await {
                tracing::debug!(why, "the controllers' timing is not chosen anew yet");
            }
        }
    }

    async fn measure(&self, others: &[Peer]) {
        let answers = join_all(others.iter().map(|peer| async move { (peer.id(), self.ask(peer).await) })).await;
        let mut known = self.chosen.lock();
        known.members.retain(|id, _| others.iter().any(|peer| peer.id() == *id));
        for (id, answer) in answers {
            if let Some((round_trip, flush)) = answer {
                known.members.entry(id).or_default().add(round_trip, flush);
            }
        }
    }

    /// How long the way to `peer` and back is, and how slow its flushes are.
    async fn ask(&self, peer: &Peer) -> Option<(Duration, Duration)> {
        let (mut client, from) = (peer.client(), self.id);
        let begun = Instant::now();
        match timeout(ANSWER, client.measure(MeasureRequest { from })).await.ok()? {
            Ok(reply) => Some((begun.elapsed(), Duration::from_micros(reply.into_inner().flush_us))),
            // One of an older version has no such question: its disk is unknown, the way to it is not.
            Err(status) if status.code() == Code::Unimplemented => {
                let begun = Instant::now();
                timeout(ANSWER, client.describe(DescribeRequest { from })).await.ok()?.ok()?;
                Some((begun.elapsed(), Duration::ZERO))
            }
            Err(_) => None,
        }
    }

    async fn choose(&self, chooser: &mut Chooser, measured: &Measured) -> Result<(), String> {
        let (now, feature_level) = self.feed.look(|state: &State| (state.chosen_timing(), state.feature_level()));
        let readable = feature_level >= level::needed(ChosenTiming::KIND, 1);
        if !self.chosen.pace.is_auto() || !readable {
            return Ok(());
        }
        let Some(next) = chooser.choose(Instant::now(), now.unwrap_or_default(), measured) else { return Ok(()) };
        tracing::info!(
            heartbeat_ms = next.heartbeat_ms,
            round_trip = ?measured.round_trip,
            flush = ?measured.flush,
            "this leader chooses another timing for the controllers"
        );
        let command = SetTiming { heartbeat_ms: next.heartbeat_ms }.into();
        let command = Encoded::new(&Stamped { key: self.batcher.fresh_key(), command });
        let command = command.map_err(|error| error.to_string())?;
        let proposed = timeout(PATIENCE, self.batcher.propose(vec![command])).await;
        proposed.map_err(|error| error.to_string())?.map(drop).map_err(|error| error.to_string())
    }
}

impl From<TimingNow> for MeasuredReply {
    fn from(now: TimingNow) -> Self {
        let micros = |duration: Duration| u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        Self {
            flush_us: micros(now.flush),
            heartbeat_us: micros(now.timing.heartbeat),
            election_min_us: micros(now.timing.election_min),
            election_max_us: micros(now.timing.election_max),
            auto: now.auto,
            round_trips_us: now.round_trips.into_iter().map(|(id, took)| (id, micros(took))).collect(),
            warning: now.warning,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(round_trip: u64, flush: u64) -> Measured {
        let millis = Duration::from_millis;
        Measured { round_trip: millis(round_trip), flush: millis(flush), whole: true }
    }

    #[test]
    fn a_timing_that_is_too_short_is_said_with_what_was_measured_and_what_to_do() {
        assert_eq!(too_short(Timing::lan(), false, &measured(40, 60)), None);
        assert_eq!(
            too_short(Timing::lan(), false, &measured(80, 30)).unwrap(),
            "its heartbeat of 100 ms is shorter than a round trip and a slow flush of the log (80.0 + 30.0 ms), so leaders \
             may be replaced without need; set `timing = \"auto\"`, or longer times, in its configuration and start it again"
        );
        let hasty = Timing { election_min: Duration::from_millis(200), ..Timing::lan() };
        let said = too_short(hasty, false, &measured(1, 2)).unwrap();
        assert!(said.contains("200 ms is less than 3 heartbeats of 100 ms"), "{said}");
        assert!(said.contains("round trip 1.0 ms, slow flush 2.0 ms"), "{said}");
        assert_eq!(too_short(Timing::lan(), true, &measured(80, 30)), None, "it is about to be chosen anew");
        let millis = Duration::from_millis;
        let longest = Timing { heartbeat: millis(1_000), election_min: millis(3_000), election_max: millis(5_000) };
        assert_eq!(too_short(longest, true, &measured(700, 300)), None);
        assert!(too_short(longest, true, &measured(800, 300)).unwrap().contains("longest"));
    }

    #[test]
    fn a_round_trip_is_what_three_of_four_do_not_exceed() {
        let mut answers = Answers::default();
        assert_eq!(answers.round_trip(), None);
        let millis = Duration::from_millis;
        answers.add(millis(90), millis(1));
        for _ in 1..LEAST {
            assert_eq!(answers.round_trip(), None);
            answers.add(millis(1), millis(1));
        }
        assert_eq!(answers.round_trip(), Some(millis(1)), "the first had to connect");
        for _ in 0..2 * KEPT {
            answers.add(millis(1), millis(1));
        }
        let mut until_seen = 0;
        while answers.round_trip() == Some(millis(1)) {
            answers.add(millis(80), millis(1));
            until_seen += 1;
        }
        assert_eq!((until_seen, answers.round_trips.len()), (6, KEPT));
    }
}
