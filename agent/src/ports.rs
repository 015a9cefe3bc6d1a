//! Outside ports: picked at random, kept while the servo lives, rested after it.
//!
//! A balancer that could not be reached may still send to a port whose servo is gone. So a port
//! rests before another servo gets it, as long as there are ports that nobody had lately.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::time::Duration;

use pontoon_model::{ServoId, Timestamp};
use serde::{Deserialize, Serialize};

/// A port that another servo had is taken only after this time: a stopped servo had been drained, and a
/// balancer that cannot be reached delays the stop by 60 s at most; twice that, for clocks that differ.
/// Among rested ports the one that rested longest goes first, so the usual rest is far longer.
pub const PORT_REST: Duration = Duration::from_secs(120);

/// Which servo has which port, and which ports rest. Journalled as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ports {
    leases: BTreeMap<ServoId, u16>,
    /// Released ports and since when.
    resting: BTreeMap<u16, Timestamp>,
}

/// No port can be given.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "no free port in {first}-{last}: {leased} are leased, {resting} were in use less than {} s ago, the others are taken by \
     programs that are not ours; give this agent a wider range of ports", PORT_REST.as_secs()
)]
pub struct NoPort {
    first: u16,
    last: u16,
    leased: usize,
    resting: usize,
}

impl Ports {
    /// The servo's port.
    pub fn of(&self, servo: ServoId) -> Option<u16> {
        self.leases.get(&servo).copied()
    }

    /// The servo's port, a new one if it has none: at random, by `pick(n)` < n, among those that `is_free` finds free.
    pub fn lease(
        &mut self,
        servo: ServoId,
        range: &RangeInclusive<u16>,
        now: Timestamp,
        mut pick: impl FnMut(usize) -> usize,
        is_free: impl Fn(u16) -> bool,
    ) -> Result<u16, NoPort> {
        if let Some(port) = self.of(servo) {
            return Ok(port);
        }
        let taken: BTreeSet<u16> = self.leases.values().copied().collect();
        let mut fresh: Vec<u16> =
            range.clone().filter(|port| !taken.contains(port) && !self.resting.contains_key(port)).collect();
        while !fresh.is_empty() {
            let port = fresh.swap_remove(pick(fresh.len()).min(fresh.len() - 1));
            if is_free(port) {
                self.leases.insert(servo, port);
                return Ok(port);
            }
        }
        let mut rested: Vec<(Timestamp, u16)> = self
            .resting
            .iter()
            .filter(|(port, since)| range.contains(port) && now.since(**since) >= PORT_REST)
            .map(|(port, since)| (*since, *port))
            .collect();
        rested.sort_unstable();
        match rested.into_iter().find(|(_, port)| is_free(*port)) {
            Some((_, port)) => {
                self.resting.remove(&port);
                self.leases.insert(servo, port);
                Ok(port)
            }
            None => Err(NoPort {
                first: *range.start(),
                last: *range.end(),
                leased: self.leases.len(),
                resting: self.resting.len(),
            }),
        }
    }

    /// What was found running has this port (after a lost journal).
    pub fn adopt(&mut self, servo: ServoId, port: u16) {
        self.leases.entry(servo).or_insert(port);
        self.resting.remove(&port);
    }

    /// The servo is gone, or its port turned out to be taken: the port rests. Whether there was one.
    pub fn release(&mut self, servo: ServoId, now: Timestamp) -> bool {
        match self.leases.remove(&servo) {
            Some(port) => {
                self.resting.insert(port, now);
                true
            }
            None => false,
        }
    }

    /// All leases.
    pub fn leases(&self) -> impl Iterator<Item = (ServoId, u16)> + '_ {
        self.leases.iter().map(|(servo, port)| (*servo, *port))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RANGE: RangeInclusive<u16> = 20_000..=20_002;

    fn lease(ports: &mut Ports, servo: u64, now_s: u64) -> Result<u16, NoPort> {
        ports.lease(ServoId(servo), &RANGE, Timestamp(now_s * 1000), |_| 0, |_| true)
    }

    #[test]
    fn a_servo_keeps_its_port() {
        let mut ports = Ports::default();
        let port = lease(&mut ports, 1, 0).unwrap();
        assert_eq!(lease(&mut ports, 1, 9).unwrap(), port);
        assert_ne!(lease(&mut ports, 2, 9).unwrap(), port);
    }

    #[test]
    fn a_released_port_rests_and_the_longest_rested_goes_first() {
        let mut ports = Ports::default();
        let all: Vec<u16> = (1..=3).map(|servo| lease(&mut ports, servo, 0).unwrap()).collect();
        ports.release(ServoId(2), Timestamp(10_000));
        ports.release(ServoId(1), Timestamp(20_000));
        assert!(lease(&mut ports, 4, 100).is_err(), "both rest");
        assert_eq!(lease(&mut ports, 4, 140).unwrap(), all[1]);
        assert_eq!(lease(&mut ports, 5, 140).unwrap(), all[0]);
        let error = lease(&mut ports, 6, 999).unwrap_err().to_string();
        assert!(error.contains("20000-20002: 3 are leased, 0 were"), "{error}");
    }

    #[test]
    fn ports_never_used_go_before_rested_ones() {
        let mut ports = Ports::default();
        let first = lease(&mut ports, 1, 0).unwrap();
        ports.release(ServoId(1), Timestamp(0));
        assert_ne!(lease(&mut ports, 2, 100_000).unwrap(), first);
        assert_ne!(lease(&mut ports, 3, 100_000).unwrap(), first);
        assert_eq!(lease(&mut ports, 4, 100_000).unwrap(), first);
    }

    #[test]
    fn ports_of_others_are_skipped() {
        let mut ports = Ports::default();
        let port = ports.lease(ServoId(1), &RANGE, Timestamp(0), |n| n - 1, |port| port == 20_001).unwrap();
        assert_eq!(port, 20_001);
        assert!(ports.lease(ServoId(2), &RANGE, Timestamp(0), |_| 7, |port| port == 20_001).is_err());
    }
}
