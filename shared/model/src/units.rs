//! Quantities with their unit in the type.

use std::fmt;
use std::ops::{Add, Sub};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
const GIB: u64 = 1024 * MIB;

/// An amount of memory in bytes. Text form: `256M`, `1G`, `512K`, or plain bytes (binary multiples).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MemoryBytes(pub u64);

impl MemoryBytes {
    /// `n` mebibytes.
    pub const fn mib(n: u64) -> Self {
        Self(n * MIB)
    }

    /// `self - other`, or zero.
    pub fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

impl Add for MemoryBytes {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl Sub for MemoryBytes {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        self.saturating_sub(other)
    }
}

impl std::iter::Sum for MemoryBytes {
    fn sum<I: Iterator<Item = Self>>(iter: I) -> Self {
        iter.fold(Self(0), Add::add)
    }
}

impl fmt::Display for MemoryBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self.0 {
            n if n >= 10 * GIB || (n >= GIB && n % GIB == 0) => format!("{}G", n / GIB),
            n if n >= MIB => format!("{}M", n / MIB),
            n if n >= KIB => format!("{}K", n / KIB),
            n => format!("{n}B"),
        };
        f.pad(&text)
    }
}

impl FromStr for MemoryBytes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not an amount of memory; write for example 256M or 1G");
        let body = text.trim().trim_end_matches(['b', 'B']).trim_end_matches('i');
        let (digits, unit) = match body.find(|c: char| !c.is_ascii_digit()) {
            Some(at) => body.split_at(at),
            None => (body, ""),
        };
        let factor = match unit.to_ascii_uppercase().as_str() {
            "" => 1,
            "K" => KIB,
            "M" => MIB,
            "G" => GIB,
            _ => return Err(wrong()),
        };
        let number: u64 = digits.parse().map_err(|_| wrong())?;
        number.checked_mul(factor).map(Self).ok_or_else(wrong)
    }
}

/// CPU time per time, in thousandths of one core: 1000 is one core.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CpuMillis(pub u32);

impl fmt::Display for CpuMillis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}.{}", self.0 / 1000, self.0 % 1000 / 100))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_reads_what_people_write() {
        for (text, bytes) in [("256M", 256 * MIB), ("256MiB", 256 * MIB), ("1g", GIB), ("512k", 512 * KIB), ("7", 7)] {
            assert_eq!(text.parse(), Ok(MemoryBytes(bytes)), "{text}");
        }
        for bad in ["", "M", "1.5G", "-1", "1T", "99999999999G"] {
            assert!(bad.parse::<MemoryBytes>().is_err(), "{bad}");
        }
    }

    #[test]
    fn memory_prints_short() {
        assert_eq!(MemoryBytes::mib(256).to_string(), "256M");
        assert_eq!(MemoryBytes(GIB).to_string(), "1G");
        assert_eq!(MemoryBytes(GIB + MIB).to_string(), "1025M");
    }
}
