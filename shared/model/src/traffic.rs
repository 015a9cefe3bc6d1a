//! How an app's requests are treated by balancers, and which values that may have.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

use crate::AppName;

/// What a balancer does with an app's requests. The defaults suit an app nobody has thought about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// Whether the requests of one browser go to the same servo while that lives: by a signed cookie.
    pub affinity: bool,
    /// Whether requests that are not idempotent may be sent a second time although the first servo may have processed
    /// them. They are then kept in memory up to [`Traffic::MOST_KEPT_BYTES`] each.
    pub retry_unsafe: bool,
    /// Answers with one of these statuses are not passed on while another servo is left to try (idempotent requests, or all
    /// with `retry_unsafe`).
    pub retry_statuses: BTreeSet<u16>,
    /// How long a request waits while no servo is ready, in milliseconds; 0: not at all.
    pub hold_ms: u32,
    /// Requests that one balancer sends to one servo at a time; 0: any number. More wait, as long as `hold_ms`.
    pub servo_requests: u32,
    /// For how long a new servo gets fewer requests than the others, in milliseconds; 0: not at all.
    pub slow_start_ms: u32,
    /// Largest body of a request, in bytes; 0: any.
    pub body_bytes: u64,
    /// Largest head of a request, in bytes.
    pub head_bytes: u32,
    /// How long a servo may take to begin its answer, in milliseconds, once it has the request.
    pub first_byte_ms: u32,
    /// How long neither side may send anything in the middle of a body, in milliseconds; 0: for ever.
    pub idle_ms: u32,
    /// Whether the app's servos speak HTTP/2 without TLS, as gRPC needs it; HTTP/1.1 otherwise.
    pub http2: bool,
    /// Requests per second of one client address (IPv6: of one /64), with bursts of twice as many; 0: any number.
    pub rate: u32,
    /// Whether plain HTTP is answered with a redirect to HTTPS.
    pub https_only: bool,
    /// `max-age` of `Strict-Transport-Security` on answers over HTTPS, in seconds; 0: no such header.
    pub hsts_seconds: u32,
    /// Whether every request is answered with the page of maintenance.
    pub maintenance: bool,
    /// HTML shown in maintenance, in place of ours; empty: ours.
    pub maintenance_page: String,
    /// HTML shown when no servo answers, in place of ours; empty: ours.
    pub error_page: String,
}

impl Traffic {
    /// Bytes of one body that are kept for another try of a request with `retry_unsafe`.
    pub const MOST_KEPT_BYTES: usize = 1024 * 1024;
    /// Longest page, in bytes: a page without pictures in it fits, and a thousand apps with two fit into memory.
    pub const MOST_PAGE_BYTES: usize = 64 * 1024;
    /// Range of `hold_ms`: browsers and proxies in front give up after about a minute.
    pub const HOLD_MS: RangeInclusive<u32> = 0..=60_000;
    /// Range of `slow_start_ms`.
    pub const SLOW_START_MS: RangeInclusive<u32> = 0..=600_000;
    /// Range of `head_bytes`: below 1 KiB browsers' own headers do not fit, above what balancers read nothing arrives.
    pub const HEAD_BYTES: RangeInclusive<u32> = 1_024..=32_768;
    /// Range of `first_byte_ms`: up to an hour.
    pub const FIRST_BYTE_MS: RangeInclusive<u32> = 100..=3_600_000;
    /// Range of `idle_ms` besides 0.
    pub const IDLE_MS: RangeInclusive<u32> = 1_000..=86_400_000;
    /// Range of `retry_statuses`: only what says that the servo failed.
    pub const RETRY_STATUSES: RangeInclusive<u16> = 500..=599;
    /// Longest `hsts_seconds`: two years, what browsers' preload lists ask for.
    pub const MOST_HSTS_SECONDS: u32 = 63_072_000;

    /// What is wrong with the values, in a sentence.
    pub fn check(&self) -> Result<(), String> {
        in_range("hold_ms", self.hold_ms, &Self::HOLD_MS)?;
        in_range("slow_start_ms", self.slow_start_ms, &Self::SLOW_START_MS)?;
        in_range("head_bytes", self.head_bytes, &Self::HEAD_BYTES)?;
        in_range("first_byte_ms", self.first_byte_ms, &Self::FIRST_BYTE_MS)?;
        if self.idle_ms != 0 {
            in_range("idle_ms", self.idle_ms, &Self::IDLE_MS)?;
        }
        in_range("hsts_seconds", self.hsts_seconds, &(0..=Self::MOST_HSTS_SECONDS))?;
        for status in &self.retry_statuses {
            in_range("retry_statuses", *status, &Self::RETRY_STATUSES)?;
        }
        for (name, page) in [("maintenance_page", &self.maintenance_page), ("error_page", &self.error_page)] {
            if page.len() > Self::MOST_PAGE_BYTES {
                return Err(format!("{name} has {} bytes; the most is {}", page.len(), Self::MOST_PAGE_BYTES));
            }
        }
        Ok(())
    }
}

/// An app's settings, where they are not the defaults.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrafficRow {
    /// Whose.
    pub app: AppName,
    /// They.
    pub traffic: Traffic,
    /// Raft index of their last change.
    pub version: u64,
}

fn in_range<T: PartialOrd + std::fmt::Display>(name: &str, value: T, range: &RangeInclusive<T>) -> Result<(), String> {
    if range.contains(&value) {
        return Ok(());
    }
    Err(format!("{name} is {value}; it may be from {} to {}", range.start(), range.end()))
}

impl Default for Traffic {
    fn default() -> Self {
        Self {
            affinity: false,
            retry_unsafe: false,
            retry_statuses: BTreeSet::new(),
            hold_ms: 10_000,
            servo_requests: 0,
            slow_start_ms: 0,
            body_bytes: 0,
            head_bytes: *Self::HEAD_BYTES.end(),
            first_byte_ms: 60_000,
            idle_ms: 0,
            http2: false,
            rate: 0,
            https_only: false,
            hsts_seconds: 0,
            maintenance: false,
            maintenance_page: String::new(),
            error_page: String::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_allowed_and_what_is_out_of_range_is_named() {
        let good = Traffic::default();
        good.check().unwrap();
        for (bad, says) in [
            (Traffic { hold_ms: 60_001, ..good.clone() }, "hold_ms is 60001; it may be from 0 to 60000"),
            (Traffic { head_bytes: 10, ..good.clone() }, "head_bytes is 10"),
            (Traffic { first_byte_ms: 0, ..good.clone() }, "first_byte_ms is 0"),
            (Traffic { idle_ms: 1, ..good.clone() }, "idle_ms is 1"),
            (Traffic { retry_statuses: [404].into(), ..good.clone() }, "retry_statuses is 404"),
            (Traffic { error_page: "x".repeat(65_537), ..good }, "error_page has 65537 bytes"),
        ] {
            let error = bad.check().unwrap_err();
            assert!(error.contains(says), "{error}");
        }
    }
}
