//! What the balancers that are connected here tell of requests: in memory only, never replicated. Whoever wants to know asks
//! all controllers and adds up.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pontoon_model::{AppName, BalancerName};
use pontoon_proto::{AppReport, REPORT_EVERY, RequestCounts, RequestReport, RequestsAnswer, RequestsRow, ServoLoad};
use tokio::time::Instant;

/// What is asked for; a report tells of the last five seconds.
pub(crate) const WINDOWS: [Duration; 3] = [Duration::from_secs(10), Duration::from_secs(60), Duration::from_secs(300)];
/// Older reports than this are gathered, since only the longest window needs them.
const FINE: Duration = Duration::from_secs(70);
/// As long as this.
const COARSE: Duration = Duration::from_secs(30);
/// What was heard longer ago says nothing of what is in flight now: a balancer tells of it with every report.
pub(crate) const FRESH: Duration = Duration::from_secs(15);
/// Apps times balancers: 50 MB when all of them are busy. With more, those that were quiet for longest are forgotten.
const MOST_ROWS: usize = 10_000;

/// What was heard. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Requests {
    rows: Arc<Mutex<BTreeMap<(AppName, BalancerName), Row>>>,
}

#[derive(Debug)]
struct Row {
    heard: Instant,
    in_flight: u64,
    servos: Vec<ServoLoad>,
    /// The newest last.
    slots: VecDeque<Slot>,
}

#[derive(Debug)]
struct Slot {
    from: Instant,
    to: Instant,
    counts: RequestCounts,
}

impl Row {
    fn hear(&mut self, report: AppReport, now: Instant) {
        (self.heard, self.in_flight, self.servos) = (now, report.in_flight, report.servos);
        if report.counts == RequestCounts::default() {
            return;
        }
        self.slots.push_back(Slot {
            from: now.checked_sub(REPORT_EVERY).unwrap_or(now),
            to: now,
            counts: report.counts,
        });
        let is_old = |slot: &Slot, age: Duration| now.duration_since(slot.to) > age;
        while self.slots.front().is_some_and(|slot| is_old(slot, WINDOWS[2])) {
            self.slots.pop_front();
        }
        // The newest that is no longer needed by itself goes to the one before it.
        let old = self.slots.iter().take_while(|slot| is_old(slot, FINE)).count();
        if let Some([before, last]) = old.checked_sub(2).map(|at| [at, at + 1])
            && self.slots[last].to.duration_since(self.slots[before].from) <= COARSE
            && let Some(last) = self.slots.remove(last)
        {
            self.slots[before].to = last.to;
            self.slots[before].counts.add(&last.counts);
        }
    }

    fn window(&self, length: Duration, now: Instant) -> RequestCounts {
        let mut sum = RequestCounts::default();
        let recent = self.slots.iter().rev().take_while(|slot| now.duration_since(slot.to) < length);
        recent.for_each(|slot| sum.add(&slot.counts));
        sum
    }
}

impl Requests {
    /// A balancer reported.
    pub(crate) fn hear(&self, balancer: &BalancerName, mut report: RequestReport) {
        let now = Instant::now();
        // One that sends more than it may is cut, not trusted.
        report.apps.truncate(RequestReport::MOST_APPS);
        let mut rows = self.lock();
        for app in report.apps {
            let row = rows.entry((app.app.clone(), balancer.clone()));
            let row =
                row.or_insert_with(|| Row { heard: now, in_flight: 0, servos: Vec::new(), slots: VecDeque::new() });
            row.hear(app, now);
        }
        if rows.len() > MOST_ROWS {
            rows.retain(|_, row| now.duration_since(row.heard) <= WINDOWS[2]);
            let excess = rows.len().saturating_sub(MOST_ROWS);
            let mut quiet: Vec<_> = rows.iter().map(|(key, row)| (row.heard, key.clone())).collect();
            quiet.sort_unstable();
            quiet.iter().take(excess).for_each(|(_, key)| drop(rows.remove(key)));
        }
    }

    /// What is known, of one app or of all.
    pub(crate) fn answer(&self, app: Option<&AppName>) -> RequestsAnswer {
        let now = Instant::now();
        let mut rows = self.lock();
        rows.retain(|_, row| now.duration_since(row.heard) <= WINDOWS[2]);
        let row = |((app, balancer), row): (&(AppName, BalancerName), &Row)| RequestsRow {
            app: app.clone(),
            balancer: balancer.clone(),
            heard_ms_ago: now.duration_since(row.heard).as_millis() as u64,
            windows: WINDOWS.map(|length| row.window(length, now)),
            in_flight: row.in_flight,
            servos: row.servos.clone(),
        };
        let wanted = |((of, _), _): &(&(AppName, BalancerName), &Row)| app.is_none_or(|app| app == of);
        RequestsAnswer { rows: rows.iter().filter(wanted).map(row).collect() }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<(AppName, BalancerName), Row>> {
        // Plain data: a panic elsewhere leaves it usable.
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What several controllers have heard, as one: a balancer that went from one to another was counted at each while it was there.
/// What is in flight is what was heard last, if that is not too long ago.
pub(crate) fn merged(answers: impl IntoIterator<Item = RequestsAnswer>) -> Vec<RequestsRow> {
    let mut all: BTreeMap<(AppName, BalancerName), RequestsRow> = BTreeMap::new();
    for row in answers.into_iter().flat_map(|answer| answer.rows) {
        let key = (row.app.clone(), row.balancer.clone());
        match all.get_mut(&key) {
            Some(sum) => {
                sum.windows.iter_mut().zip(&row.windows).for_each(|(sum, part)| sum.add(part));
                if row.heard_ms_ago < sum.heard_ms_ago {
                    (sum.heard_ms_ago, sum.in_flight, sum.servos) = (row.heard_ms_ago, row.in_flight, row.servos);
                }
            }
            None => drop(all.insert(key, row)),
        }
    }
    let mut rows: Vec<_> = all.into_values().collect();
    for row in rows.iter_mut().filter(|row| Duration::from_millis(row.heard_ms_ago) > FRESH) {
        (row.in_flight, row.servos) = (0, Vec::new());
    }
    rows
}

#[cfg(test)]
mod tests {
    use pontoon_model::ServoId;

    use super::*;

    fn report(app: &str, requests: u64, in_flight: u64) -> RequestReport {
        let counts = RequestCounts { requests, statuses: [0, requests, 0, 0, 0], ..RequestCounts::default() };
        let servos = (in_flight > 0).then_some(ServoLoad { servo: ServoId(1), in_flight: 1, ejected: false });
        let report = AppReport { app: app.parse().unwrap(), counts, in_flight, servos: servos.into_iter().collect() };
        RequestReport { apps: vec![report] }
    }

    fn requests(row: &RequestsRow) -> [u64; 3] {
        row.windows.map(|window| window.requests)
    }

    #[tokio::test(start_paused = true)]
    async fn each_window_has_what_came_in_it_and_old_reports_are_gathered() {
        tokio::time::advance(Duration::from_secs(1_000)).await;
        let (heard, balancer) = (Requests::default(), "b".parse().unwrap());
        for _ in 0..120 {
            tokio::time::advance(REPORT_EVERY).await;
            heard.hear(&balancer, report("a", 50, 0));
        }
        let answer = heard.answer(None);
        let [ten, minute, five] = requests(&answer.rows[0]);
        assert_eq!((ten, minute), (100, 600));
        // Gathered reports leave together.
        assert!((2_700..=3_300).contains(&five), "{five}");
        let slots = heard.lock().values().next().unwrap().slots.len();
        assert!(slots <= 14 + 10, "{slots}");
        tokio::time::advance(Duration::from_secs(61)).await;
        assert_eq!(requests(&heard.answer(None).rows[0])[..2], [0, 0]);
        tokio::time::advance(Duration::from_secs(300)).await;
        assert!(heard.answer(None).rows.is_empty(), "one that was quiet for so long is forgotten");
    }

    #[tokio::test(start_paused = true)]
    async fn a_balancer_that_changed_its_controller_is_one_and_in_flight_is_what_is_newest() {
        let (one, other, balancer) = (Requests::default(), Requests::default(), "b".parse().unwrap());
        one.hear(&balancer, report("a", 3, 9));
        one.hear(&balancer, report("x", 1, 0));
        tokio::time::advance(Duration::from_secs(5)).await;
        other.hear(&balancer, report("a", 4, 2));
        let app = "a".parse().unwrap();
        let ask = || merged([one.answer(Some(&app)), other.answer(Some(&app))]);
        let rows = ask();
        assert_eq!((rows.len(), requests(&rows[0]), rows[0].in_flight), (1, [7, 7, 7], 2));
        tokio::time::advance(FRESH + Duration::from_secs(1)).await;
        let rows = ask();
        assert_eq!((requests(&rows[0]), rows[0].in_flight, rows[0].servos.len()), ([0, 7, 7], 0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn the_memory_is_bounded() {
        let heard = Requests::default();
        for balancer in 0..MOST_ROWS / 1_000 + 2 {
            let apps = (0..1_500).flat_map(|app| report(&format!("a{app}"), 1, 0).apps).collect();
            heard.hear(&format!("b{balancer}").parse().unwrap(), RequestReport { apps });
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        let rows = heard.answer(None).rows;
        assert_eq!(rows.len(), MOST_ROWS);
        assert!(rows.iter().all(|row| row.balancer.as_str() != "b0"), "the quietest went");
    }
}
