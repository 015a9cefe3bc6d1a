//! What the engine says happened.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bollard::Docker;
use bollard::models::EventMessage;
use bollard::query_parameters::EventsOptionsBuilder;
use futures_util::StreamExt;
use pontoon_model::{ServoId, Timestamp};
use tokio::sync::mpsc;

use super::{RuntimeEvent, describe, labels};

/// An engine that restarts is back within seconds; asking it this often costs nothing.
const RECONNECT: Duration = Duration::from_millis(500);
/// Events not yet taken; the engine keeps what we do not read.
const QUEUE: usize = 64;
/// The engine tells of an end first and lists the container as running for some 0.2 s more (20.10: the list is
/// made from a copy). Within this time its own state is asked, which waits for the end to be through.
const LIST_LAGS: Duration = Duration::from_secs(5);

/// Servos whose end was just told.
#[derive(Clone, Default)]
pub(super) struct JustEnded(Arc<Mutex<HashMap<ServoId, Instant>>>);

impl JustEnded {
    fn add(&self, servo: ServoId) {
        let mut ended = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        ended.retain(|_, at| at.elapsed() < LIST_LAGS);
        ended.insert(servo, Instant::now());
    }

    /// Whether a list may still call it running.
    pub(super) fn contains(&self, servo: ServoId) -> bool {
        let ended = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        ended.get(&servo).is_some_and(|at| at.elapsed() < LIST_LAGS)
    }
}

/// Sends an event whenever a container that `filter` finds ended or went. Starts are ours, and known; each would cost a
/// look at all containers just while many are being started.
pub(super) fn watch(
    engine: Docker,
    mut filter: HashMap<&'static str, Vec<String>>,
    just_ended: JustEnded,
) -> mpsc::Receiver<RuntimeEvent> {
    filter.insert("type", vec!["container".into()]);
    filter.insert("event", ["die", "destroy", "oom"].map(String::from).to_vec());
    let (sender, receiver) = mpsc::channel(QUEUE);
    tokio::spawn(async move {
        while !sender.is_closed() {
            follow(&engine, &filter, &just_ended, &sender).await;
            tokio::time::sleep(RECONNECT).await;
            // Something may have happened while nobody listened.
            let _ = sender.try_send(RuntimeEvent::Changed);
        }
    });
    receiver
}

/// Sends events on until the engine or the receiver ends.
async fn follow(
    engine: &Docker,
    filter: &HashMap<&'static str, Vec<String>>,
    just_ended: &JustEnded,
    sender: &mpsc::Sender<RuntimeEvent>,
) {
    // An end for want of memory is told in two events.
    let mut starved = HashSet::new();
    let mut stream = engine.events(Some(EventsOptionsBuilder::default().filters(filter).build()));
    loop {
        let next = tokio::select! {
            next = stream.next() => next,
            () = sender.closed() => return,
        };
        match next {
            Some(Ok(message)) => {
                let event = event(message, &mut starved);
                if let RuntimeEvent::Ended { servo, .. } = event {
                    just_ended.add(servo);
                }
                if sender.send(event).await.is_err() {
                    return;
                }
            }
            Some(Err(error)) => {
                tracing::warn!(error = describe(&error), "docker's events broke off");
                return;
            }
            None => return,
        }
    }
}

fn event(message: EventMessage, starved: &mut HashSet<ServoId>) -> RuntimeEvent {
    let attributes = message.actor.and_then(|actor| actor.attributes).unwrap_or_default();
    match (message.action.as_deref(), labels::servo(&attributes)) {
        (Some("die"), Some(servo)) => {
            let code = attributes.get("exitCode").and_then(|code| code.parse().ok());
            let nanos = message.time_nano.and_then(|nanos| u64::try_from(nanos).ok()).unwrap_or(u64::MAX);
            let out_of_memory = starved.remove(&servo);
            RuntimeEvent::Ended { servo, code, out_of_memory, at: Timestamp(nanos / 1_000_000) }
        }
        (Some("oom"), Some(servo)) => {
            starved.insert(servo);
            RuntimeEvent::Changed
        }
        _ => RuntimeEvent::Changed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bollard::models::EventActor;

    fn message(action: &str, attributes: &[(&str, &str)]) -> EventMessage {
        let attributes = attributes.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        EventMessage {
            action: Some(action.into()),
            actor: Some(EventActor { id: None, attributes: Some(attributes) }),
            time_nano: Some(5_000_000),
            ..Default::default()
        }
    }

    #[test]
    fn an_end_is_told_with_its_reason() {
        let mut starved = HashSet::new();
        let mut tell = |action: &str, attributes: &[(&str, &str)]| event(message(action, attributes), &mut starved);
        let servo = ("pontoon.servo", "7");
        let ended =
            |out_of_memory| RuntimeEvent::Ended { servo: ServoId(7), code: Some(137), out_of_memory, at: Timestamp(5) };
        assert_eq!(tell("start", &[servo]), RuntimeEvent::Changed);
        assert_eq!(tell("die", &[servo, ("exitCode", "137")]), ended(false));
        assert_eq!(tell("oom", &[servo]), RuntimeEvent::Changed);
        assert_eq!(tell("die", &[servo, ("exitCode", "137")]), ended(true));
        assert_eq!(tell("die", &[servo, ("exitCode", "137")]), ended(false));
        assert_eq!(tell("die", &[("exitCode", "0")]), RuntimeEvent::Changed);
    }
}
