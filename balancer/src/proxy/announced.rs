//! The PROXY protocol: whoever stands before the balancer says at the beginning of a connection whose it is.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ppp::{HeaderResult, PartialResult, v1, v2};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time;

/// Longest header that is taken: version 1 has 107 bytes, version 2 16 and addresses; more are notes for others.
const LONGEST: usize = 1_024;
/// A header that came in part is looked at again after this; it is sent in one piece.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// Whose a connection from `peer` is, by the header that is read off it.
pub(super) async fn client(stream: &mut TcpStream, peer: SocketAddr) -> io::Result<IpAddr> {
    Ok(read(stream).await?.unwrap_or(peer.ip()))
}

/// Nobody's, if the sender speaks for itself (its checks of health).
async fn read(stream: &mut TcpStream) -> io::Result<Option<IpAddr>> {
    let mut begin = [0; LONGEST];
    loop {
        let len = stream.peek(&mut begin).await?;
        if len == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let header = HeaderResult::parse(&begin[..len]);
        if header.is_incomplete() && len < LONGEST {
            time::sleep(LOOK_AGAIN).await;
            continue;
        }
        let (taken, source) = parts(&header).ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::InvalidData,
                "the connection does not begin with a header of the PROXY protocol",
            )
        })?;
        // It is all there, so this returns at once.
        stream.read_exact(&mut begin[..taken]).await?;
        return Ok(source);
    }
}

/// How long a header is, and whose the connection is.
pub(super) fn parts(header: &HeaderResult<'_>) -> Option<(usize, Option<IpAddr>)> {
    match header {
        HeaderResult::V1(Ok(header)) => {
            let source = match header.addresses {
                v1::Addresses::Tcp4(addresses) => Some(addresses.source_address.into()),
                v1::Addresses::Tcp6(addresses) => Some(addresses.source_address.into()),
                v1::Addresses::Unknown => None,
            };
            Some((header.header.len(), source))
        }
        HeaderResult::V2(Ok(header)) => {
            let source = match header.addresses {
                v2::Addresses::IPv4(addresses) => Some(addresses.source_address.into()),
                v2::Addresses::IPv6(addresses) => Some(addresses.source_address.into()),
                v2::Addresses::Unspecified | v2::Addresses::Unix(_) => None,
            };
            Some((header.len(), source.filter(|_| header.command == v2::Command::Proxy)))
        }
        HeaderResult::V1(Err(_)) | HeaderResult::V2(Err(_)) => None,
    }
}
