//! A load that comes as fast as it is told to and no faster, whatever becomes of it (an open loop). What a request waits
//! because those before it were late counts: its time begins when it was due.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::clients::{is_whole, request};

/// A proxy that does not keep up is waited for no longer after the last request was due.
const GRACE: Duration = Duration::from_secs(10);

/// One connection: its requests are due one interval after the other, and each is sent when the one before has been answered.
struct Paced {
    stream: TcpStream,
    /// When the next one is due, or was that is under way.
    due: Instant,
    asked: bool,
    answer: Vec<u8>,
}

/// What was seen.
pub(super) struct Seen {
    /// How long each answer took.
    pub(super) latencies: Vec<Duration>,
}

impl Seen {
    /// As long as 99 of 100 took at most, in milliseconds.
    pub(super) fn p99_ms(mut self) -> Result<f64> {
        self.latencies.sort_unstable();
        let at = (self.latencies.len() * 99).div_ceil(100).checked_sub(1).context("no request was answered")?;
        Ok(self.latencies[at].as_secs_f64() * 1e3)
    }
}

/// So many requests a second to `address`, on so many connections.
pub(super) fn run(address: SocketAddr, connections: usize, per_second: f64, during: Duration) -> Result<Seen> {
    let interval = Duration::from_secs_f64(connections as f64 / per_second);
    let begun = Instant::now() + Duration::from_millis(50);
    let end = begun + during;
    let mut all = Vec::new();
    for at in 0..connections {
        let stream = TcpStream::connect(address).context("the proxy takes no connection")?;
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        let due = begun + interval.mul_f64(at as f64 / connections as f64);
        all.push(Paced { stream, due, asked: false, answer: Vec::new() });
    }
    let request = request(address);
    let mut latencies = Vec::with_capacity((per_second * during.as_secs_f64()) as usize + connections);
    loop {
        let now = Instant::now();
        let mut next = None;
        for one in all.iter_mut().filter(|one| !one.asked && one.due < end) {
            if one.due <= now {
                // It is smaller than what any socket takes.
                let len = one.stream.write(request.as_bytes()).context("the proxy ended a connection")?;
                ensure!(len == request.len(), "a request did not fit into the socket");
                one.asked = true;
            } else {
                next = Some(next.unwrap_or(one.due).min(one.due));
            }
        }
        if next.is_none() && all.iter().all(|one| !one.asked) {
            return Ok(Seen { latencies });
        }
        if now > end + GRACE {
            bail!(
                "{} requests of {per_second:.0}/s were not answered in time",
                all.iter().filter(|one| one.asked).count()
            );
        }
        let wait = next.unwrap_or(end + GRACE).saturating_duration_since(Instant::now());
        let asked: Vec<usize> = (0..all.len()).filter(|&at| all[at].asked).collect();
        let mut ready: Vec<_> = asked.iter().map(|&at| PollFd::new(&all[at].stream, PollFlags::IN)).collect();
        let wait = Timespec { tv_sec: wait.as_secs() as i64, tv_nsec: wait.subsec_nanos().into() };
        match poll(&mut ready, Some(&wait)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let ready: Vec<bool> = ready.iter().map(|one| !one.revents().is_empty()).collect();
        for (at, _) in asked.into_iter().zip(ready).filter(|(_, ready)| *ready) {
            if all[at].is_answered()? {
                latencies.push(all[at].due.elapsed());
                all[at].due += interval;
            }
        }
    }
}

impl Paced {
    fn is_answered(&mut self) -> Result<bool> {
        let mut buffer = [0; 8_192];
        match self.stream.read(&mut buffer) {
            Ok(0) => bail!("the connection ended in the answer"),
            Ok(len) => self.answer.extend_from_slice(&buffer[..len]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => return Ok(false),
            Err(error) => return Err(error.into()),
        }
        let good = b"HTTP/1.1 200";
        let begin = &self.answer[..good.len().min(self.answer.len())];
        ensure!(good.starts_with(begin), "{}", String::from_utf8_lossy(&self.answer));
        if !is_whole(&self.answer) {
            return Ok(false);
        }
        self.answer.clear();
        self.asked = false;
        Ok(true)
    }
}
