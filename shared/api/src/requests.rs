//! Requests of an app, as its balancers carry them.

use std::collections::BTreeMap;

use pontoon_model::{AppName, BalancerName, ServoId};
use serde::{Deserialize, Serialize};

/// How many requests an app has. Balancers report every five seconds, so a window may begin up to five seconds early or late.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AppRequests {
    /// Whose.
    pub app: AppName,
    /// The last 10, 60 and 300 seconds, all balancers together.
    pub windows: Vec<Window>,
    /// Requests that are being answered, upgraded connections included.
    pub in_flight: u64,
    /// Each balancer that had any.
    pub balancers: Vec<BalancerRequests>,
    /// Whether all controllers have said what they heard; otherwise what some balancers carry may be missing.
    pub complete: bool,
}

/// Requests in some time up to now.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Window {
    /// How long.
    pub seconds: u32,
    /// How many came.
    pub requests: u64,
    /// A second.
    pub rate: f64,
    /// Answers by class of their status, `1xx` to `5xx`.
    pub statuses: BTreeMap<String, u64>,
    /// The time to the first byte of an answer, in milliseconds, that half of the answers kept; none without answers. From a
    /// histogram of bounds from 1 ms to 10 s: what took longer counts as 10 s.
    pub p50_ms: Option<f64>,
    /// Nine of ten.
    pub p90_ms: Option<f64>,
    /// Ninety-nine of a hundred.
    pub p99_ms: Option<f64>,
}

/// What one balancer carries.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BalancerRequests {
    /// Which.
    pub name: BalancerName,
    /// As for all.
    pub windows: Vec<Window>,
    /// As for all.
    pub in_flight: u64,
    /// When it was heard last.
    pub heard_ms_ago: u64,
}

/// A line of `GET /v1/apps/{app}/requests/tail`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum TailLine {
    /// A request that was answered.
    Request {
        /// When it came, Unix milliseconds.
        at: u64,
        /// Where it came in.
        balancer: String,
        /// From which address.
        client: String,
        /// Its method.
        method: String,
        /// What it was sent to.
        host: String,
        /// With the query; cut at 2,000 bytes.
        path: String,
        /// `http/1.1` or `http/2`, `https/…` with TLS.
        protocol: String,
        /// The answer's.
        status: u16,
        /// Of the answer's body, as far as it was sent.
        bytes: u64,
        /// To the end of the answer, in milliseconds.
        ms: f64,
        /// Who answered; none if the balancer did.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        servo: Option<ServoId>,
        /// As it is in the app's own log.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        request_id: Option<String>,
    },
    /// There were more than are shown.
    LeftOut {
        /// Where.
        balancer: String,
        /// How many.
        left_out: u64,
    },
}
