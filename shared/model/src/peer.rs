//! Balancers as other balancers reach them: how requests get to the servos of another site.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{BalancerName, SiteName};

/// A balancer that those of other sites send requests through.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerRow {
    /// Unique in the cluster; what its certificate must say.
    pub name: BalancerName,
    /// Whose servos it reaches.
    pub site: SiteName,
    /// How it is reached.
    pub reach: Reach,
}

/// How other balancers reach one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Reach {
    /// They dial it.
    At(SocketAddr),
    /// Nobody can dial it: it dials them, and they use these connections.
    DialsOut,
}

/// Stands for [`Reach::DialsOut`] in texts.
const DIALS_OUT: &str = "dials-out";

impl fmt::Display for Reach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::At(address) => address.fmt(f),
            Self::DialsOut => f.write_str(DIALS_OUT),
        }
    }
}

impl FromStr for Reach {
    type Err = std::net::AddrParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == DIALS_OUT { Ok(Self::DialsOut) } else { text.parse().map(Self::At) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_text_reads_back() {
        for text in ["10.0.0.1:7720", "[2001:db8::1]:7720", "dials-out"] {
            assert_eq!(text.parse::<Reach>().unwrap().to_string(), text);
        }
        for wrong in ["", "10.0.0.1", "dials", "host:7720"] {
            wrong.parse::<Reach>().expect_err(wrong);
        }
    }
}
