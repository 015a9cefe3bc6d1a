//! One client: writes labels and reads them, at one controller after another, as a program would that must get
//! through, and notes what it did and saw.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::{Value as Json, json};
use tokio::time::{Instant, sleep};

use crate::oracle::{History, Key, Look, Operation, Value, What};
use crate::workload::{APPS, Common, LABELS, app};

/// A controller that does not answer within this is left for the next: longer than two elections.
const ANSWER: Duration = Duration::from_secs(2);

/// Between tries, and between operations: some hundred operations a second in all.
const PAUSE: Duration = Duration::from_millis(10);

/// A write is tried again with its key until this long after the workload was told to stop.
const LAST_TRIES: Duration = Duration::from_secs(15);

/// A client and what it has seen so far.
pub struct Client {
    number: u32,
    common: Arc<Common>,
    http: reqwest::Client,
    /// The controller that is asked next.
    at: usize,
    written: u32,
    newest: u64,
    random: u64,
    history: History,
}

/// What a try of a request came to.
pub enum Answer {
    /// 2xx: index and body.
    Ok(u64, Json),
    /// Refused for good, by what was asked.
    Refused(u16, String),
    /// Nothing, or "try again": it may have been done.
    Unsure,
}

impl Client {
    pub fn new(number: u32, common: Arc<Common>) -> Self {
        let http = reqwest::Client::builder().timeout(ANSWER).no_proxy().build().expect("a plain client is made");
        let at = number as usize % common.rest.len();
        let random = u64::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        Self { number, common, http, at, written: 0, newest: 0, random, history: History::default() }
    }

    /// Works until it is told to stop.
    pub async fn run(mut self) -> History {
        while !self.common.stop.load(Ordering::Relaxed) {
            let key = Key { app: self.random(APPS), label: self.random(LABELS) };
            match self.random(10) {
                0..=5 => self.write(key).await,
                6..=7 => drop(self.read(key.app, true).await),
                8 => drop(self.read(key.app, false).await),
                _ if self.random(8) == 0 => self.create_once().await,
                _ => self.at = self.random(self.common.rest.len()),
            }
            sleep(PAUSE).await;
        }
        self.history
    }

    /// Reads every app at one controller until it answers; for the end, when all is whole again.
    pub async fn read_everything_at(mut self, controller: usize, limit: Duration) -> History {
        let deadline = Instant::now() + limit;
        for app in 0..APPS {
            for linearizable in [true, false] {
                self.at = controller;
                while !self.read(app, linearizable).await {
                    if Instant::now() > deadline {
                        let fault = format!("controller {controller} answers no read at the end");
                        self.history.faults.push(fault);
                        return self.history;
                    }
                    self.at = controller;
                    sleep(PAUSE).await;
                }
            }
        }
        self.history
    }

    /// One write, tried at one controller after the other with the same key until it is acknowledged.
    async fn write(&mut self, key: Key) {
        self.written += 1;
        let value = Value { client: self.number, number: self.written };
        let body = json!({ "set": { format!("label-{}", key.label): value.text() } });
        let path = format!("/v1/apps/{}/labels", app(key.app));
        let idempotency = self.idempotency();
        let called = self.common.now();
        let mut operation = Operation { key, what: What::Write(value), called, returned: None, index: None };
        match self.until_done(reqwest::Method::PATCH, &path, &body, &idempotency).await {
            Some(Answer::Ok(index, _)) => {
                operation.returned = Some(self.common.now());
                operation.index = Some(index);
                self.answered_at(index);
                self.common.acknowledged.fetch_add(1, Ordering::Relaxed);
            }
            Some(Answer::Refused(status, why)) => {
                self.history.faults.push(format!("{value:?} of {key:?} was refused with {status}: {why}"));
            }
            Some(Answer::Unsure) | None => {}
        }
        self.history.operations.push(operation);
    }

    /// Makes an app. Applied twice, the second would be told that it is there already.
    async fn create_once(&mut self) {
        self.written += 1;
        let name = format!("once-{}-{}", self.number, self.written);
        let idempotency = self.idempotency();
        let body = json!({ "name": name });
        match self.until_done(reqwest::Method::POST, "/v1/apps", &body, &idempotency).await {
            Some(Answer::Ok(index, _)) => self.answered_at(index),
            Some(Answer::Refused(status, why)) => {
                self.history.faults.push(format!("making {name} with one key was refused with {status}: {why}"));
            }
            Some(Answer::Unsure) | None => {}
        }
    }

    async fn until_done(&mut self, method: reqwest::Method, path: &str, body: &Json, key: &str) -> Option<Answer> {
        let mut last_tries = None;
        loop {
            let url = format!("{}{path}", self.common.rest[self.at]);
            let request = self.http.request(method.clone(), url).header("Idempotency-Key", key).json(body);
            match self.common.send(request).await {
                Answer::Unsure => {}
                answer => return Some(answer),
            }
            self.next_controller();
            if self.common.stop.load(Ordering::Relaxed) {
                let deadline = *last_tries.get_or_insert_with(|| Instant::now() + LAST_TRIES);
                if Instant::now() > deadline {
                    return None;
                }
            }
            sleep(PAUSE).await;
        }
    }

    /// One read of all labels of an app, tried once.
    async fn read(&mut self, number: usize, linearizable: bool) -> bool {
        let (how, at_least) = if linearizable { ("linearizable", 0) } else { ("stale", self.newest) };
        let path = format!("/v1/apps/{}/labels?consistency={how}&at_index={at_least}", app(number));
        let called = self.common.now();
        let request = self.http.get(format!("{}{path}", self.common.rest[self.at]));
        match self.common.send(request).await {
            Answer::Ok(index, body) => {
                let returned = self.common.now();
                match values_of(&body) {
                    Ok(values) => {
                        let look = Look { index, at_least, app: number, values };
                        let times = linearizable.then_some((called, returned));
                        self.history.look(self.number, look, LABELS, times);
                        self.newest = self.newest.max(index);
                    }
                    Err(why) => self.history.faults.push(why),
                }
                true
            }
            Answer::Refused(status, why) => {
                self.history.faults.push(format!("a read was refused with {status}: {why}"));
                true
            }
            Answer::Unsure => {
                self.next_controller();
                false
            }
        }
    }

    fn answered_at(&mut self, index: u64) {
        self.history.indexes.entry(self.number).or_default().push(index);
        self.newest = self.newest.max(index);
    }

    fn next_controller(&mut self) {
        self.at = (self.at + 1) % self.common.rest.len();
    }

    fn idempotency(&self) -> String {
        format!("{:016x}{:08x}{:08x}", self.common.nonce, self.number, self.written)
    }

    /// Below `limit`; the same sequence for the same client number.
    fn random(&mut self, limit: usize) -> usize {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 33) as usize % limit
    }
}

/// The labels of a JSON object; whatever is not what we write is a fault.
pub fn values_of(labels: &Json) -> Result<BTreeMap<usize, Value>, String> {
    let object = labels.as_object().ok_or_else(|| format!("labels that are none: {labels}"))?;
    let one = |(name, text): (&String, &Json)| {
        let label = name.strip_prefix("label-").and_then(|number| number.parse().ok());
        let value = text.as_str().and_then(Value::of_text);
        label.zip(value).ok_or_else(|| format!("phantom: label {name} has {text}, which nobody wrote"))
    };
    object.iter().map(one).collect()
}
