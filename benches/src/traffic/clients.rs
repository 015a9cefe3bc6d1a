//! What ten thousand clients cost that have asked once and keep their connections: memory of the balancer, beside nginx.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::proxies::{Proxies, Proxy};
use super::{OTHER_CORE, PROXY_CORE};
use crate::{figure, usage};

const CLIENTS: usize = 10_000;
/// For the last answers' buffers to be given back.
const SETTLE: Duration = Duration::from_secs(2);

pub(crate) fn run() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let proxies = Proxies::start(folder.path(), PROXY_CORE, OTHER_CORE)?;
    let [ours, _, nginx] = &proxies.all;
    let (idle, more) = memory_of_clients(ours)?;
    let (_, of_nginx) = memory_of_clients(nginx)?;
    figure::print("balancer_rss_idle", idle, "MB");
    figure::print_beside("balancer_rss_of_10000_clients", more, "MB", "nginx", of_nginx);
    Ok(())
}

/// Memory after a first request, and how much more with the clients.
fn memory_of_clients(proxy: &Proxy) -> Result<(f64, f64)> {
    drop(client(proxy.plain)?);
    std::thread::sleep(SETTLE);
    let before = proxy.memory_mb()?;
    let clients = (0..CLIENTS).map(|_| client(proxy.plain)).collect::<Result<Vec<_>>>()?;
    std::thread::sleep(SETTLE);
    let after = proxy.memory_mb()?;
    drop(clients);
    Ok((before, after - before))
}

/// A connection on which one request was answered.
pub(super) fn client(address: SocketAddr) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(address).context("the proxy takes no connection")?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    ask(&mut stream, address)?;
    Ok(stream)
}

/// One request and its answer.
pub(super) fn ask(stream: &mut TcpStream, address: SocketAddr) -> Result<()> {
    stream.write_all(request(address).as_bytes())?;
    let (mut answer, mut buffer) = (Vec::new(), [0; 4_096]);
    while !is_whole(&answer) {
        let len = match stream.read(&mut buffer) {
            // A signal for this process, of which the proxy knows nothing: the kernel does not go on by itself with a read that
            // has a timeout.
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            read => read?,
        };
        ensure!(len > 0, "the connection ended in the answer");
        answer.extend_from_slice(&buffer[..len]);
    }
    ensure!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
    Ok(())
}

/// For one of the small answers.
pub(super) fn request(address: SocketAddr) -> String {
    format!("GET / HTTP/1.1\r\nHost: localhost:{}\r\n\r\n", address.port())
}

pub(super) fn is_whole(answer: &[u8]) -> bool {
    let head = answer.windows(4).position(|four| four == b"\r\n\r\n");
    head.is_some_and(|head| answer.len() >= head + 4 + super::proxies::SMALL)
}

impl Proxy {
    /// Resident memory of it and what it started.
    pub(super) fn memory_mb(&self) -> Result<f64> {
        self.processes()?.into_iter().map(|pid| usage::memory_mb(pid, "VmRSS")).sum()
    }
}
