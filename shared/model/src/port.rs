//! Ports of balancers at which a process is reached that does not speak HTTP.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{AppName, ProcessName, Timestamp, Traffic};

/// A port of every balancer that leads to an app's process. One process has one at most, and one port leads to one process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortRow {
    /// Which.
    pub port: u16,
    /// Whose.
    pub app: AppName,
    /// To the servos of which process type: one that takes connections ([`ProcessName::is_tcp`]).
    pub process: ProcessName,
    /// How its connections are treated.
    pub settings: PortSettings,
    /// Since when.
    pub added_at: Timestamp,
}

/// How balancers treat the connections to a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortSettings {
    /// Whether a servo is told first whose a connection is.
    pub proxy_protocol: ProxyHeader,
    /// After how long without a byte either way a connection is ended, in milliseconds; 0: never.
    pub idle_ms: u32,
    /// Connections that one balancer has to this port at the same time; it ends more at once.
    pub connections: u32,
}

impl PortSettings {
    /// Range of `idle_ms` besides 0.
    pub const IDLE_MS: RangeInclusive<u32> = Traffic::IDLE_MS;
    /// Range of `connections`: each has two sockets of the balancer, which has tens of thousands.
    pub const CONNECTIONS: RangeInclusive<u32> = 1..=100_000;

    /// What is wrong with the values, in a sentence.
    pub fn check(&self) -> Result<(), String> {
        let Self { idle_ms, connections, .. } = self;
        if *idle_ms != 0 && !Self::IDLE_MS.contains(idle_ms) {
            let (least, most) = (Self::IDLE_MS.start(), Self::IDLE_MS.end());
            return Err(format!("idle_ms is {idle_ms}; it may be 0, or from {least} to {most}"));
        }
        if !Self::CONNECTIONS.contains(connections) {
            let (least, most) = (Self::CONNECTIONS.start(), Self::CONNECTIONS.end());
            return Err(format!("connections is {connections}; it may be from {least} to {most}"));
        }
        Ok(())
    }
}

impl Default for PortSettings {
    /// 1,000 connections: more than databases take, and a tenth of what a small balancer can have.
    fn default() -> Self {
        Self { proxy_protocol: ProxyHeader::Off, idle_ms: 0, connections: 1_000 }
    }
}

/// The header of the PROXY protocol that a servo gets before a connection's first byte.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProxyHeader {
    /// None.
    #[default]
    Off,
    /// Version 1, a line of text.
    V1,
    /// Version 2.
    V2,
}

impl fmt::Display for ProxyHeader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Off => "off",
            Self::V1 => "v1",
            Self::V2 => "v2",
        })
    }
}

impl FromStr for ProxyHeader {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        [Self::Off, Self::V1, Self::V2]
            .into_iter()
            .find(|header| header.to_string() == text)
            .ok_or_else(|| format!("{text:?} is no version of the PROXY protocol; write v1, v2 or off"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_allowed_and_what_is_out_of_range_is_named() {
        let good = PortSettings::default();
        good.check().unwrap();
        for (bad, says) in [
            (PortSettings { idle_ms: 1, ..good }, "idle_ms is 1; it may be 0, or from 1000 to 86400000"),
            (PortSettings { connections: 0, ..good }, "connections is 0; it may be from 1 to 100000"),
        ] {
            assert_eq!(bad.check().unwrap_err(), says);
        }
        assert_eq!("v2".parse(), Ok(ProxyHeader::V2));
        assert!("3".parse::<ProxyHeader>().unwrap_err().contains("v1, v2 or off"));
    }
}
