//! The audit: a record of every change that was asked of this controller over REST, and of who was not let in.
//!
//! It is kept here and not replicated (docs/decisions/0013): a record costs no write of the cluster. Handlers put records
//! into a bounded queue; one thread writes them as JSON lines into files below the data folder. There is no fsync per
//! record: a machine that loses its power loses the records of its last seconds. Nothing waits for the audit, so when more
//! come than the disk takes, some are left out, and a record says how many.

mod files;
mod writer;

use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::{HeaderValue, Method, Uri};
use pontoon_api::{Audit, AuditRecord, ErrorCode};
use pontoon_kit::clock;
use pontoon_model::{ApiToken, ControllerName};
use tokio::sync::{mpsc, oneshot};

/// Records on their way to the disk: a second of what a controller can take, some 200 bytes each.
const QUEUE: usize = 32_768;
/// Who reads waits this long for what was noted before to be in the files; the disk may be slow.
const FLUSH_PATIENCE: Duration = Duration::from_secs(2);
/// Most records of one answer.
pub const MOST_READ: usize = Audit::MOST as usize;

/// Which records are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// None that is older (Unix milliseconds).
    pub since: u64,
    /// None that is newer.
    pub until: u64,
    /// At most so many.
    pub limit: usize,
    /// Where there are more, the oldest of them; otherwise the newest.
    pub oldest: bool,
}

impl Span {
    fn holds(&self, record: &AuditRecord) -> bool {
        (self.since..=self.until).contains(&record.at)
    }
}

/// A change that was asked for, and what became of it.
#[derive(Debug)]
pub struct Asked {
    /// The client's address.
    pub from: IpAddr,
    /// Whose token.
    pub token: Arc<ApiToken>,
    /// The endpoint's name.
    pub action: &'static str,
    /// HTTP method.
    pub method: Method,
    /// Its path is kept, not what follows `?`.
    pub uri: Uri,
    /// HTTP status.
    pub status: u16,
    /// Why not, if it was refused.
    pub error: Option<ErrorCode>,
    /// Raft index of the change.
    pub index: Option<HeaderValue>,
}

/// A request that was not let in.
#[derive(Debug)]
pub struct Denied {
    /// The client's address.
    pub from: IpAddr,
    /// The token, if it was one that is known.
    pub token: Option<Arc<ApiToken>>,
    /// What was wrong with it.
    pub why: &'static str,
    /// HTTP status.
    pub status: u16,
}

#[derive(Debug)]
enum What {
    Asked(Asked),
    Denied(Denied),
}

#[derive(Debug)]
enum Message {
    Note {
        at: u64,
        what: What,
    },
    /// Tells when all that came before is in the files.
    Flush(oneshot::Sender<()>),
}

/// Where records go, and are read. Clones share it.
#[derive(Debug, Clone)]
pub struct AuditLog {
    queue: mpsc::Sender<Message>,
    /// What found no room in the queue since the last record that says so.
    left_out: Arc<AtomicU64>,
    folder: Arc<Path>,
}

impl AuditLog {
    /// Starts the writer of the files below `data_dir`, which ends with the last clone.
    pub fn open(data_dir: &Path, controller: ControllerName) -> io::Result<Self> {
        let folder: Arc<Path> = data_dir.join("audit").into();
        let (queue, received) = mpsc::channel(QUEUE);
        let left_out = Arc::new(AtomicU64::new(0));
        let writer = writer::Writer { controller, folder: folder.clone(), files: None, left_out: left_out.clone() };
        std::thread::Builder::new().name("audit".to_owned()).spawn(move || writer.run(received))?;
        Ok(Self { queue, left_out, folder })
    }

    /// Notes a change.
    pub fn note(&self, asked: Asked) {
        self.put(What::Asked(asked));
    }

    /// Notes who was not let in.
    pub fn note_denied(&self, denied: Denied) {
        self.put(What::Denied(denied));
    }

    fn put(&self, what: What) {
        if self.queue.try_send(Message::Note { at: clock::unix_millis(), what }).is_err() {
            self.left_out.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits until what was noted is in the files, for a while.
    pub async fn flush(&self) {
        let (done, written) = oneshot::channel();
        let flush = async {
            if self.queue.send(Message::Flush(done)).await.is_ok() {
                let _ = written.await;
            }
        };
        // What is not written by then is read the next time.
        let _ = tokio::time::timeout(FLUSH_PATIENCE, flush).await;
    }

    /// The records of this controller in `span`, [`MOST_READ`] at most, newest last.
    pub async fn read(&self, span: Span) -> io::Result<Vec<AuditRecord>> {
        self.flush().await;
        let (folder, span) = (self.folder.clone(), Span { limit: span.limit.min(MOST_READ), ..span });
        let reading = tokio::task::spawn_blocking(move || files::read(&folder, &span));
        reading.await.map_err(io::Error::other)?
    }
}

#[cfg(test)]
mod tests;
