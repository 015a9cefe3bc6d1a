//! A client that writes without pause, and remembers what was acknowledged.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::cluster::PATIENCE;
use crate::http;
use crate::until::until;

/// Labels that it goes round: any of the last so many writes that is lost is missed. An app has 64 at most.
const LABELS: u64 = 50;

/// A write that no controller takes for this long is one that a client would call lost: several elections, in debug builds on
/// two shared cores.
const ONE_WRITE: Duration = Duration::from_secs(20);

/// Writes that show that it goes on.
const SOME: u64 = 5;

/// Sets one label of an app after the other; each must be acknowledged by some controller.
pub struct Writer {
    stop: Arc<AtomicBool>,
    urls: Arc<Mutex<Vec<String>>>,
    written: Arc<AtomicU64>,
    thread: JoinHandle<Result<u64>>,
}

/// What was acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written(pub u64);

impl Writer {
    /// Starts; `urls` are the controllers.
    pub fn start(urls: Vec<String>, token: &str, app: &str) -> Self {
        let (stop, urls) = (Arc::<AtomicBool>::default(), Arc::new(Mutex::new(urls)));
        let written = Arc::<AtomicU64>::default();
        let (stopped, through, count) = (stop.clone(), urls.clone(), written.clone());
        let (token, app) = (token.to_owned(), app.to_owned());
        let thread = std::thread::spawn(move || {
            let mut last = 0;
            while !stopped.load(Ordering::Relaxed) {
                write(&through, &token, &app, last + 1)?;
                last += 1;
                count.store(last, Ordering::Relaxed);
            }
            Ok(last)
        });
        Self { stop, urls, written, thread }
    }

    /// From now on these are the controllers.
    pub fn go_to(&self, urls: Vec<String>) {
        *self.urls.lock().unwrap_or_else(PoisonError::into_inner) = urls;
    }

    /// How many were acknowledged so far.
    pub fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    /// Waits until it has got some more through.
    pub fn until_more(&self) -> Result<()> {
        let before = self.written();
        until("more writes", PATIENCE, || {
            let now = self.written();
            ensure!(!self.thread.is_finished(), "the writer has given up after write {now}");
            ensure!(now >= before + SOME, "{now} after {before}");
            Ok(())
        })
    }

    /// Stops; an error if one was not acknowledged.
    pub fn stop(self) -> Result<Written> {
        self.stop.store(true, Ordering::Relaxed);
        Ok(Written(self.thread.join().ok().context("the writer panicked")??))
    }
}

impl Written {
    /// Compares an app's labels with what was acknowledged last of each.
    pub fn check(self, labels: &Value) -> Result<()> {
        let Self(last) = self;
        ensure!(last > 0, "nothing was written");
        let wanted: BTreeMap<String, String> =
            (last.saturating_sub(LABELS - 1).max(1)..=last).map(|value| (name(value), value.to_string())).collect();
        let lost: Vec<_> = wanted.iter().filter(|(name, value)| labels[name.as_str()] != value.as_str()).collect();
        ensure!(lost.is_empty(), "of {last} acknowledged writes these are lost: {lost:?} in {labels}");
        Ok(())
    }
}

fn name(value: u64) -> String {
    format!("written-{}", value % LABELS)
}

/// As a client does: the same change, with the same key, to one controller after the other.
fn write(urls: &Mutex<Vec<String>>, token: &str, app: &str, value: u64) -> Result<()> {
    let key = format!("{value:032x}");
    let mut at = value as usize;
    until(&format!("write {value} to be acknowledged"), ONE_WRITE, || {
        let urls = urls.lock().unwrap_or_else(PoisonError::into_inner).clone();
        at += 1;
        let url = format!("{}/v1/apps/{app}/labels", urls[at % urls.len()]);
        let (status, body) = http::send(|client| {
            let request = client.patch(url).bearer_auth(token).header("Idempotency-Key", &key);
            request.json(&json!({ "set": { name(value): value.to_string() } }))
        })?;
        ensure!(status == 200, "{status} {body}");
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_of_the_last_writes_that_is_lost_is_named() {
        let whole: serde_json::Map<String, Value> =
            (1..=120_u64).map(|value| (name(value), json!(value.to_string()))).collect();
        Written(120).check(&Value::Object(whole.clone())).unwrap();
        for lost in [71, 100, 120_u64] {
            let mut labels = whole.clone();
            labels.insert(name(lost), json!((lost - LABELS).to_string()));
            let said = Written(120).check(&Value::Object(labels)).unwrap_err().to_string();
            assert!(said.contains(&name(lost)), "{said}");
        }
    }
}
