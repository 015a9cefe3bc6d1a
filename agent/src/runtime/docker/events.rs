//! What the engine says happened.

use std::collections::HashMap;
use std::time::Duration;

use bollard::Docker;
use bollard::query_parameters::EventsOptionsBuilder;
use futures_util::StreamExt;
use tokio::sync::mpsc;

use super::{RuntimeEvent, describe};

/// An engine that restarts is back within seconds; asking it this often costs nothing.
const RECONNECT: Duration = Duration::from_millis(500);

/// Sends an event whenever a container that `filter` finds began or ended.
pub(super) fn watch(engine: Docker, mut filter: HashMap<&'static str, Vec<String>>) -> mpsc::Receiver<RuntimeEvent> {
    filter.insert("type", vec!["container".into()]);
    filter.insert("event", ["start", "die", "destroy", "oom"].map(String::from).to_vec());
    // One waiting event says all that many would: look again.
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        loop {
            let options = EventsOptionsBuilder::default().filters(&filter).build();
            let mut stream = engine.events(Some(options));
            loop {
                let next = tokio::select! {
                    next = stream.next() => next,
                    () = sender.closed() => return,
                };
                match next {
                    Some(Ok(_)) => {
                        let _ = sender.try_send(RuntimeEvent::Changed);
                    }
                    Some(Err(error)) => {
                        tracing::warn!(error = describe(&error), "docker's events broke off");
                        break;
                    }
                    None => break,
                }
            }
            tokio::time::sleep(RECONNECT).await;
            // Something may have happened while nobody listened.
            let _ = sender.try_send(RuntimeEvent::Changed);
        }
    });
    receiver
}
