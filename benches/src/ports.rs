//! Ports that are free now.

use std::net::{SocketAddr, TcpListener};

use anyhow::{Result, ensure};

/// Below the ports that the kernel gives to outgoing connections, and beside those that the testbed takes.
const FIRST: u16 = 24_000;
const LAST: u16 = 31_000;

/// `n` of them, all held until all are known, so that none is given twice.
pub(crate) fn free(n: usize) -> Result<Vec<SocketAddr>> {
    let nanos = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.subsec_nanos();
    let first = FIRST + (nanos / 1000 % 600) as u16 * 10;
    let listeners: Vec<_> =
        (first..LAST).filter_map(|port| TcpListener::bind(("127.0.0.1", port)).ok()).take(n).collect();
    ensure!(listeners.len() == n, "no {n} free ports from {first} on");
    Ok(listeners.iter().map(TcpListener::local_addr).collect::<std::io::Result<_>>()?)
}
