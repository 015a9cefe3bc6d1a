//! Whom a connection's address stands for, where each may have so much and no more.

use std::net::{IpAddr, Ipv6Addr};

/// An address itself, or the /64 of an IPv6 one: who has one of these has 2^64.
pub fn source_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
        address => address,
    }
}
