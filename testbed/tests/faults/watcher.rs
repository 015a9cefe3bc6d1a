//! Follows `GET /v1/events` across broken connections and controllers.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value as Json;
use tokio::time::{sleep, timeout};

use crate::client::{Answer, values_of};
use crate::oracle::{Event, Gap, Timeline};
use crate::workload::{APPS, Common, app, app_number};

/// A stream without a word for this long is left for another controller's: a paused one keeps its connections open.
const SILENCE: Duration = Duration::from_secs(3);

/// Between connections.
const PAUSE: Duration = Duration::from_millis(50);

/// One event of the stream.
#[derive(Debug, Default, PartialEq, Eq)]
struct Message {
    id: Option<u64>,
    event: String,
    data: String,
}

/// A follower and what it was told so far.
pub struct Watcher {
    common: Arc<Common>,
    http: reqwest::Client,
    at: usize,
    /// Everything up to here was told.
    cursor: u64,
    timeline: Timeline,
    faults: Vec<String>,
}

impl Watcher {
    /// Begins at controller `first`, with what follows index `from`: the apps must be there by then, without labels.
    pub fn new(first: usize, from: u64, common: Arc<Common>) -> Self {
        let http =
            reqwest::Client::builder().connect_timeout(SILENCE).no_proxy().build().expect("a plain client is made");
        Self { common, http, at: first, cursor: from, timeline: Timeline::default(), faults: Vec::new() }
    }

    /// Follows until everything up to the workload's fence was told.
    pub async fn run(mut self) -> (Timeline, Vec<String>) {
        while !self.is_done() && self.faults.is_empty() {
            if let Err(fault) = self.follow().await {
                self.faults.push(format!("events: {fault:#}"));
            }
            self.at = (self.at + 1) % self.common.rest.len();
            self.timeline.reconnects += 1;
            sleep(PAUSE).await;
        }
        self.timeline.complete_to = self.cursor;
        (self.timeline, self.faults)
    }

    fn is_done(&self) -> bool {
        let fence = self.common.fence.load(Ordering::Relaxed);
        self.common.gave_up.load(Ordering::Relaxed) || (fence > 0 && self.cursor >= fence)
    }

    /// One connection, until it breaks; an error is a fault of what was told.
    async fn follow(&mut self) -> Result<()> {
        let url = format!("{}/v1/events?from={}", self.common.rest[self.at], self.cursor);
        let asked = timeout(SILENCE, self.http.get(url).bearer_auth(&self.common.token).send()).await;
        let Ok(Ok(mut response)) = asked else { return Ok(()) };
        match response.status().as_u16() {
            200 => {}
            410 => return self.start_anew().await,
            503 => return Ok(()),
            other => bail!("status {other}: {}", response.text().await.unwrap_or_default()),
        }
        let mut buffer = Vec::new();
        while !self.is_done() {
            let Ok(Ok(Some(chunk))) = timeout(SILENCE, response.chunk()).await else { return Ok(()) };
            buffer.extend_from_slice(&chunk);
            while let Some(message) = take_message(&mut buffer)? {
                match message.event.as_str() {
                    "change" => self.changed(&message)?,
                    "compacted" => return self.start_anew().await,
                    "" => {}
                    other => bail!("an event of the unknown kind {other}"),
                }
            }
        }
        Ok(())
    }

    fn changed(&mut self, message: &Message) -> Result<()> {
        let index = message.id.context("a change without an index")?;
        ensure!(index > self.cursor, "index {index} was told after {}", self.cursor);
        let data: Json = serde_json::from_str(&message.data).context("data that is not JSON")?;
        for change in data["changes"].as_array().context("no changes")? {
            let Some(number) = change["key"].as_str().filter(|_| change["table"] == "apps").and_then(app_number) else {
                continue;
            };
            let values = values_of(&change["row"]["labels"]).map_err(anyhow::Error::msg)?;
            // What was read when the stream was compacted may be newer than where it goes on.
            if self.timeline.events.iter().rev().find(|event| event.app == number).is_none_or(|e| e.index < index) {
                self.timeline.events.push(Event { index, app: number, values });
            }
        }
        self.cursor = index;
        Ok(())
    }

    /// What comes next is no longer held: reads every app and goes on from there, as the answer says one should.
    async fn start_anew(&mut self) -> Result<()> {
        let after = self.cursor;
        let mut oldest = u64::MAX;
        for number in 0..APPS {
            let url = format!("{}/v1/apps/{}/labels?at_index={after}", self.common.rest[self.at], app(number));
            let request = self.http.get(url).timeout(SILENCE);
            let Answer::Ok(index, body) = self.common.send(request).await else { return Ok(()) };
            ensure!(index >= after, "read at index {index} after {after} was told");
            let values = values_of(&body).map_err(anyhow::Error::msg)?;
            self.timeline.gaps.push(Gap { app: number, after, until: index });
            if self.timeline.events.iter().rev().find(|event| event.app == number).is_none_or(|e| e.index < index) {
                self.timeline.events.push(Event { index, app: number, values });
            }
            oldest = oldest.min(index);
        }
        self.cursor = oldest;
        Ok(())
    }
}

/// The next whole message of `buffer`, if there is one.
fn take_message(buffer: &mut Vec<u8>) -> Result<Option<Message>> {
    let Some(end) = buffer.windows(2).position(|pair| pair == b"\n\n") else { return Ok(None) };
    let text = String::from_utf8(buffer.drain(..end + 2).collect()).context("an event that is not UTF-8")?;
    let mut message = Message::default();
    for line in text.lines() {
        match line.split_once(": ") {
            Some(("id", id)) => message.id = Some(id.parse().context("an id that is no index")?),
            Some(("event", event)) => event.clone_into(&mut message.event),
            Some(("data", data)) => message.data.push_str(data),
            _ => {}
        }
    }
    Ok(Some(message))
}

#[test]
fn messages_are_taken_whole_one_by_one() {
    let mut buffer = b":\n\nid: 7\nevent: change\ndata: {}\n\nid: 8\nevent".to_vec();
    assert_eq!(take_message(&mut buffer).unwrap(), Some(Message::default()));
    let second = Message { id: Some(7), event: "change".into(), data: "{}".into() };
    assert_eq!(take_message(&mut buffer).unwrap(), Some(second));
    assert_eq!(take_message(&mut buffer).unwrap(), None);
    assert_eq!(buffer, b"id: 8\nevent");
}
