//! The header of the PROXY protocol that tells a servo whose a connection is.

use std::io;
use std::net::{IpAddr, SocketAddr};

use pontoon_model::ProxyHeader;
use ppp::{v1, v2};

/// The header for a connection of `client` to `own`; empty if there shall be none.
pub(super) fn bytes(header: ProxyHeader, client: SocketAddr, own: SocketAddr) -> io::Result<Vec<u8>> {
    let (client, own) = of_one_family(client, own);
    match header {
        ProxyHeader::Off => Ok(Vec::new()),
        ProxyHeader::V1 => Ok(v1::Addresses::from((client, own)).to_string().into_bytes()),
        ProxyHeader::V2 => {
            let proxied = v2::Version::Two | v2::Command::Proxy;
            v2::Builder::with_addresses(proxied, v2::Protocol::Stream, (client, own)).build()
        }
    }
}

/// A header has one family of addresses: both of IPv4, if they are that, otherwise both of IPv6.
fn of_one_family(one: SocketAddr, other: SocketAddr) -> (SocketAddr, SocketAddr) {
    let plain = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
    let (one, other) = (plain(one), plain(other));
    if one.is_ipv4() == other.is_ipv4() {
        return (one, other);
    }
    let wide = |address: SocketAddr| match address.ip() {
        IpAddr::V4(ip) => SocketAddr::new(ip.to_ipv6_mapped().into(), address.port()),
        IpAddr::V6(_) => address,
    };
    (wide(one), wide(other))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(header: ProxyHeader, client: &str, own: &str) -> Vec<u8> {
        bytes(header, client.parse().unwrap(), own.parse().unwrap()).unwrap()
    }

    #[test]
    fn the_header_names_the_client_and_the_address_it_came_to() {
        let line = |client, own| String::from_utf8(header(ProxyHeader::V1, client, own)).unwrap();
        assert_eq!(line("10.0.0.9:4000", "10.0.0.1:5432"), "PROXY TCP4 10.0.0.9 10.0.0.1 4000 5432\r\n");
        assert_eq!(line("[::ffff:10.0.0.9]:4000", "10.0.0.1:5432"), "PROXY TCP4 10.0.0.9 10.0.0.1 4000 5432\r\n");
        assert_eq!(line("[2001:db8::9]:4000", "10.0.0.1:5432"), "PROXY TCP6 2001:db8::9 ::ffff:10.0.0.1 4000 5432\r\n");
        let binary = header(ProxyHeader::V2, "10.0.0.9:4000", "10.0.0.1:5432");
        let read = v2::Header::try_from(binary.as_slice()).unwrap();
        let wanted = v2::IPv4::new([10, 0, 0, 9], [10, 0, 0, 1], 4000, 5432);
        assert_eq!((read.command, read.addresses), (v2::Command::Proxy, wanted.into()));
        assert!(header(ProxyHeader::Off, "10.0.0.9:4000", "10.0.0.1:5432").is_empty());
    }
}
