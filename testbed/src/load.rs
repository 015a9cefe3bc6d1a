//! Requests without pause, and what became of each.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use anyhow::{Context, Result, ensure};

use crate::http;

/// A client's own thread that sends one request after another through each of some balancers.
pub struct Load {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Tally>>,
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
        let stop = Arc::new(AtomicBool::new(false));
        let threads = addresses
            .iter()
            .map(|address| {
                let (stop, host, url) = (stop.clone(), host.to_owned(), format!("http://{address}{path}"));
                std::thread::spawn(move || send(&stop, &url, &host))
            })
            .collect();
        Self { stop, threads }
    }

    /// Stops and sums up.
    pub fn stop(self) -> Result<Tally> {
        self.stop.store(true, Ordering::Relaxed);
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

fn send(stop: &AtomicBool, url: &str, host: &str) -> Tally {
    const BODIES_KEPT: usize = 50;
    let mut tally = Tally::default();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let client = http::client();
    let (Ok(runtime), Ok(client)) = (runtime, client) else {
        tally.failures.push("the client does not start".into());
        return tally;
    };
    while !stop.load(Ordering::Relaxed) {
        let answer = runtime.block_on(async {
            let answer = client.get(url).header("Host", host).send().await?;
            Ok::<_, reqwest::Error>((answer.status(), answer.text().await?))
        });
        match answer {
            Ok((status, body)) if status == 200 => {
                tally.ok += 1;
                if tally.bodies.len() < BODIES_KEPT && !tally.bodies.contains(&body) {
                    tally.bodies.push(body);
                }
            }
            Ok((status, body)) => tally.failures.push(format!("{status}: {}", body.trim())),
            Err(error) => tally.failures.push(format!("{:#}", anyhow::Error::from(error))),
        }
    }
    tally
}
