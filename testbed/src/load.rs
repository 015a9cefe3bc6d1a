//! Requests without pause, and what became of each.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use anyhow::{Context, Result, ensure};

use crate::http;

/// Clients, each in a thread of its own, that send one request after another.
pub struct Load {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<Tally>>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    sent: AtomicU64,
    elsewhere: AtomicU64,
}

/// What became of the requests.
#[derive(Debug, Default)]
pub struct Tally {
    /// Answered with 200.
    pub ok: u64,
    /// Everything else, in words.
    pub failures: Vec<String>,
    /// Different bodies seen, in order of first sight (at most a few dozen).
    pub bodies: Vec<String>,
}

impl Load {
    /// Sends `GET path` with `Host: host` to every address, each from its own connection.
    pub fn start(addresses: &[SocketAddr], host: &str, path: &str) -> Self {
        Self::with(addresses.iter().map(|address| vec![*address]).collect(), host, path)
    }

    /// The same, but each client goes to the next address when one lets nobody in, or takes a connection and ends it before a
    /// byte of an answer: what a browser does when a name has several addresses.
    pub fn start_over(addresses: &[SocketAddr], host: &str, path: &str) -> Self {
        let from = |first: usize| {
            let mut order = addresses.to_vec();
            order.rotate_left(first);
            order
        };
        Self::with((0..addresses.len()).map(from).collect(), host, path)
    }

    fn with(clients: Vec<Vec<SocketAddr>>, host: &str, path: &str) -> Self {
        let shared = Arc::<Shared>::default();
        let threads = clients
            .into_iter()
            .map(|addresses| {
                let (shared, host) = (shared.clone(), host.to_owned());
                let urls: Vec<String> = addresses.iter().map(|address| format!("http://{address}{path}")).collect();
                std::thread::spawn(move || send(&shared, &urls, &host))
            })
            .collect();
        Self { shared, threads }
    }

    /// How many requests were answered or failed so far.
    pub fn sent(&self) -> u64 {
        self.shared.sent.load(Ordering::Relaxed)
    }

    /// How many requests were sent to another address because one let nobody in.
    pub fn went_elsewhere(&self) -> u64 {
        self.shared.elsewhere.load(Ordering::Relaxed)
    }

    /// Stops and sums up.
    pub fn stop(self) -> Result<Tally> {
        self.shared.stop.store(true, Ordering::Relaxed);
        let mut sum = Tally::default();
        for thread in self.threads {
            let tally = thread.join().ok().context("a load thread panicked")?;
            sum.ok += tally.ok;
            sum.failures.extend(tally.failures);
            sum.bodies.extend(tally.bodies);
        }
        Ok(sum)
    }

    /// Stops; an error if any request failed, or if there were none.
    pub fn stop_without_failure(self) -> Result<Tally> {
        let tally = self.stop()?;
        ensure!(tally.ok > 0, "no request was sent");
        ensure!(
            tally.failures.is_empty(),
            "{} of {} requests failed, the first: {}",
            tally.failures.len(),
            tally.ok + tally.failures.len() as u64,
            tally.failures[0]
        );
        Ok(tally)
    }
}

fn send(shared: &Shared, urls: &[String], host: &str) -> Tally {
    const BODIES_KEPT: usize = 50;
    let mut tally = Tally::default();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let client = http::client();
    let (Ok(runtime), Ok(client)) = (runtime, client) else {
        tally.failures.push("the client does not start".into());
        return tally;
    };
    while !shared.stop.load(Ordering::Relaxed) {
        match runtime.block_on(once(&client, urls, host, &shared.elsewhere)) {
            Ok((status, body)) if status == 200 => {
                tally.ok += 1;
                if tally.bodies.len() < BODIES_KEPT && !tally.bodies.contains(&body) {
                    tally.bodies.push(body);
                }
            }
            Ok((status, body)) => tally.failures.push(format!("{status}: {}", body.trim())),
            Err(error) => tally.failures.push(format!("{:#}", anyhow::Error::from(error))),
        }
        shared.sent.fetch_add(1, Ordering::Relaxed);
    }
    tally
}

/// One request, to one address after the other until one answers it.
async fn once(
    client: &reqwest::Client,
    urls: &[String],
    host: &str,
    elsewhere: &AtomicU64,
) -> reqwest::Result<(reqwest::StatusCode, String)> {
    let mut left = urls.iter();
    let mut url = left.next().map_or("", String::as_str);
    loop {
        let error = match client.get(url).header("Host", host).send().await {
            // From the first byte of an answer on, another try would be another request.
            Ok(answer) => return Ok((answer.status(), answer.text().await?)),
            Err(error) => error,
        };
        // A request that took too long may be with a servo: nobody sends that one again.
        match left.next() {
            Some(next) if !error.is_timeout() => url = next,
            _ => return Err(error),
        }
        elsewhere.fetch_add(1, Ordering::Relaxed);
    }
}
