//! What balancers tell of the requests they carry: counts every few seconds, single requests while somebody looks.

use pontoon_model::{AppName, BalancerName, ControllerId, ServoId, Timestamp};
use serde::{Deserialize, Serialize};

/// Upper bounds of the times to an answer's first byte that are counted together, in microseconds; what took longer is
/// counted besides. What Prometheus' clients have by default, and finer below, since servos are near.
pub const LATENCY_BOUNDS: [u64; 13] = [
    1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000, 5_000_000, 10_000_000,
];

/// How often a balancer reports.
pub const REPORT_EVERY: std::time::Duration = std::time::Duration::from_secs(5);

/// Counts of requests in some time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestCounts {
    /// Requests that came.
    pub requests: u64,
    /// Answers by the first digit of their status, from 1.
    pub statuses: [u64; 5],
    /// Answers by their time to the first byte: up to each of [`LATENCY_BOUNDS`], and those that took longer.
    pub latency: [u64; LATENCY_BOUNDS.len() + 1],
}

impl RequestCounts {
    /// Adds what was counted elsewhere, or at another time.
    pub fn add(&mut self, other: &Self) {
        self.requests += other.requests;
        self.statuses.iter_mut().zip(other.statuses).for_each(|(sum, part)| *sum += part);
        self.latency.iter_mut().zip(other.latency).for_each(|(sum, part)| *sum += part);
    }

    /// What was counted since `before`.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        let mut less = *self;
        less.requests = less.requests.saturating_sub(before.requests);
        less.statuses.iter_mut().zip(before.statuses).for_each(|(sum, part)| *sum = sum.saturating_sub(part));
        less.latency.iter_mut().zip(before.latency).for_each(|(sum, part)| *sum = sum.saturating_sub(part));
        less
    }

    /// The time that this part (0 to 1) of the answers took at most, in microseconds, as a straight line between the bounds
    /// has it; the last bound for all that took longer. None without answers.
    pub fn quantile(&self, part: f64) -> Option<u64> {
        let all: u64 = self.latency.iter().sum();
        let wanted = part * all as f64;
        let (mut below, mut from) = (0.0, 0);
        for (count, bound) in self.latency.iter().zip(LATENCY_BOUNDS) {
            let count = *count as f64;
            if count > 0.0 && below + count >= wanted {
                let share = ((wanted - below) / count).clamp(0.0, 1.0);
                return Some(from + ((bound - from) as f64 * share) as u64);
            }
            (below, from) = (below + count, bound);
        }
        (all > 0).then_some(from)
    }
}

/// A servo as a balancer sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServoLoad {
    /// Which.
    pub servo: ServoId,
    /// Requests that the balancer has in flight to it.
    pub in_flight: u32,
    /// Whether it is tried after the others, since it failed.
    pub ejected: bool,
}

/// One app at one balancer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppReport {
    /// Which.
    pub app: AppName,
    /// Since the balancer's last report of it.
    pub counts: RequestCounts,
    /// Now.
    pub in_flight: u64,
    /// Servos with requests in flight, and ejected ones.
    pub servos: Vec<ServoLoad>,
}

/// A balancer's report: apps of which something has changed since the last one, the busiest first. Those that it has no
/// room for come with the next.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestReport {
    /// At most [`RequestReport::MOST_APPS`].
    pub apps: Vec<AppReport>,
}

impl RequestReport {
    /// Apps in one report: some 250 KB every five seconds.
    pub const MOST_APPS: usize = 1_000;
    /// Servos named in one report, of all apps together: another 130 KB.
    pub const MOST_SERVOS: usize = 10_000;
}

/// How much is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestsQuestion {
    /// Who asks.
    pub from: ControllerId,
    /// Of one app, or of all.
    pub app: Option<AppName>,
}

/// What a controller has heard of its balancers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestsAnswer {
    /// By app and balancer.
    pub rows: Vec<RequestsRow>,
}

/// One app at one balancer, as a controller has heard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestsRow {
    /// Which.
    pub app: AppName,
    /// Where.
    pub balancer: BalancerName,
    /// Milliseconds since it was heard.
    pub heard_ms_ago: u64,
    /// In the last 10 seconds, minute and five minutes.
    pub windows: [RequestCounts; 3],
    /// When it was heard.
    pub in_flight: u64,
    /// As it was heard.
    pub servos: Vec<ServoLoad>,
}

/// Which requests somebody looks at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TailRequest {
    /// Whose.
    pub app: AppName,
    /// Answers whose status is at least this.
    pub status_from: u16,
    /// And at most this.
    pub status_to: u16,
}

/// Requests of one app at one balancer, for somebody who looks at them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TailChunk {
    /// As in `TailWanted`.
    pub stream: u64,
    /// Where they came in; set by the controller.
    pub balancer: Option<BalancerName>,
    /// At most [`TailChunk::MOST_LINES`], of all that came evenly.
    pub lines: Vec<RequestLine>,
    /// How many more there were.
    pub left_out: u64,
}

impl TailChunk {
    /// Requests in one chunk, of which there are four a second: more than anybody reads.
    pub const MOST_LINES: usize = 50;
}

/// A request that was answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestLine {
    /// When it came.
    pub at: Timestamp,
    /// From which address.
    pub client: String,
    /// Its method.
    pub method: String,
    /// What it was sent to.
    pub host: String,
    /// With the query; cut at 2,000 bytes.
    pub path: String,
    /// `http/1.1` or `http/2`, `https/…` with TLS.
    pub protocol: String,
    /// The answer's.
    pub status: u16,
    /// Of the answer's body, as far as it was sent.
    pub bytes: u64,
    /// To the end of the answer, in microseconds.
    pub micros: u64,
    /// Who answered; none if the balancer did.
    pub servo: Option<ServoId>,
    /// As it is in the app's own log.
    pub request_id: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(latency: &[(usize, u64)]) -> RequestCounts {
        let mut counts = RequestCounts::default();
        latency.iter().for_each(|(at, count)| counts.latency[*at] = *count);
        counts
    }

    #[test]
    fn a_quantile_is_between_its_bounds() {
        assert_eq!(RequestCounts::default().quantile(0.5), None);
        let even = counts(&[(3, 100)]);
        assert_eq!(
            (even.quantile(0.0), even.quantile(0.5), even.quantile(1.0)),
            (Some(5_000), Some(7_500), Some(10_000))
        );
        let two = counts(&[(0, 90), (8, 10)]);
        assert_eq!((two.quantile(0.9), two.quantile(0.95)), (Some(1_000), Some(375_000)));
        assert_eq!(counts(&[(13, 1)]).quantile(0.5), Some(10_000_000), "at least that");
    }

    #[test]
    fn sums_and_differences_belong_together() {
        let one = RequestCounts { requests: 3, statuses: [0, 2, 0, 1, 0], ..counts(&[(2, 3)]) };
        let other = RequestCounts { requests: 1, statuses: [0, 0, 0, 0, 1], ..counts(&[(13, 1)]) };
        let mut sum = one;
        sum.add(&other);
        assert_eq!((sum.since(&one), sum.requests), (other, 4));
        assert_eq!(one.since(&sum).requests, 0, "what is smaller began anew");
    }
}
