//! Writes records as they come, many at once.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use pontoon_api::AuditRecord;
use pontoon_kit::clock;
use pontoon_model::ControllerName;
use tokio::sync::{mpsc, oneshot};

use super::files::Files;
use super::{Message, What};

/// Records written at once: as many as wait, and no more than some 100 KB.
const AT_ONCE: usize = 512;
/// After less than that the writer rests, so that under load it wakes a hundred times a second and not for each record:
/// waking a thread costs more than its record. Fifty thousand records a second still find room.
const GATHER: Duration = Duration::from_millis(10);
/// Longest path of a record, in characters: ours are shorter, and what others send is theirs to make long.
const MOST_PATH: usize = 200;

pub(super) struct Writer {
    pub(super) controller: ControllerName,
    pub(super) folder: Arc<Path>,
    /// Opened with the first record, and anew after a failure: a full disk is no reason not to start.
    pub(super) files: Option<Files>,
    pub(super) left_out: Arc<AtomicU64>,
}

impl Writer {
    /// Runs in a thread of its own until nobody can send any more.
    pub(super) fn run(mut self, mut queue: mpsc::Receiver<Message>) {
        let (mut messages, mut lines) = (Vec::with_capacity(AT_ONCE), Vec::new());
        loop {
            let came = queue.blocking_recv_many(&mut messages, AT_ONCE);
            if came == 0 {
                return;
            }
            let mut flushes: Vec<oneshot::Sender<()>> = Vec::new();
            lines.clear();
            let mut records = 0;
            for message in messages.drain(..) {
                match message {
                    Message::Note { at, what } => {
                        put(&mut lines, &self.record(at, what));
                        records += 1;
                    }
                    Message::Flush(done) => flushes.push(done),
                }
            }
            let left_out = self.left_out.swap(0, Ordering::Relaxed);
            let now = clock::unix_millis();
            if left_out > 0 {
                put(&mut lines, &self.gap(now, left_out));
            }
            if !lines.is_empty()
                && let Err(error) = self.write(&lines, now)
            {
                self.files = None;
                // Changes go on: who may do them has said so, and a full disk says so elsewhere.
                self.left_out.fetch_add(records + left_out, Ordering::Relaxed);
                tracing::warn!(%error, "the audit cannot be written");
            }
            // Whoever waited may be gone.
            for done in flushes {
                let _ = done.send(());
            }
            if came < AT_ONCE {
                thread::sleep(GATHER);
            }
        }
    }

    fn write(&mut self, lines: &[u8], now: u64) -> io::Result<()> {
        let files = match &mut self.files {
            Some(files) => files,
            none => none.insert(Files::open(&self.folder)?),
        };
        files.append(lines, now)
    }

    fn record(&self, at: u64, what: What) -> AuditRecord {
        let empty = self.empty(at);
        match what {
            What::Asked(asked) => {
                let path: String = asked.uri.path().chars().take(MOST_PATH).collect();
                let app = path.strip_prefix("/v1/apps/").and_then(|rest| rest.split('/').next()).map(str::to_owned);
                AuditRecord {
                    token: Some(asked.token.id),
                    token_name: Some(asked.token.name.clone()),
                    from: Some(asked.from.to_string()),
                    action: asked.action.to_owned(),
                    method: Some(asked.method.to_string()),
                    app,
                    path: Some(path),
                    status: asked.status,
                    error: asked.error,
                    index: asked.index.and_then(|index| index.to_str().ok()?.parse().ok()),
                    ..empty
                }
            }
            What::Denied(denied) => AuditRecord {
                token: denied.token.as_ref().map(|token| token.id),
                token_name: denied.token.map(|token| token.name.clone()),
                from: Some(denied.from.to_string()),
                action: denied.why.to_owned(),
                status: denied.status,
                ..empty
            },
        }
    }

    /// Says that records are missing.
    fn gap(&self, at: u64, records: u64) -> AuditRecord {
        AuditRecord { action: "LeftOut".to_owned(), left_out: Some(records), ..self.empty(at) }
    }

    fn empty(&self, at: u64) -> AuditRecord {
        AuditRecord { at, controller: self.controller.to_string(), ..AuditRecord::default() }
    }
}

fn put(lines: &mut Vec<u8>, record: &AuditRecord) {
    // Strings and numbers: it cannot fail.
    if serde_json::to_writer(&mut *lines, record).is_ok() {
        lines.push(b'\n');
    }
}
