//! One line per request, written by a thread of its own: a slow disk delays no request, it costs lines.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use pontoon_model::{AppName, ServoId};
use pontoon_proto::RequestLine;
use rand::RngExt as _;
use serde::{Deserialize, Serialize, Serializer};

use crate::tail::SharedTails;

/// Lines that wait for the writer: a second of a busy balancer, some 10 MB. More are left out, and counted.
const WAITING: usize = 50_000;
/// Lines are on disk this long after their request at most; as often it is looked whether the file was moved away.
const FLUSH: Duration = Duration::from_secs(1);
/// Longest path and user agent in a line, in bytes: what clients send is theirs to make long.
const LONGEST: usize = 2_000;

/// How the access log is written (`[access_log]`).
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccessLogConfig {
    /// A file, or `-` for standard output. One that was moved or removed is made anew, so that it can be rotated.
    pub path: PathBuf,
    /// Its form.
    #[serde(default)]
    pub format: Format,
    /// Which part of the requests is written, above 0 and up to 1; answers of 500 and above always are.
    #[serde(default = "all")]
    pub sample: f64,
}

impl AccessLogConfig {
    /// Whether it can be there; nothing is made.
    pub(crate) fn check(&self) -> io::Result<()> {
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty());
        match folder {
            Some(folder) if !folder.is_dir() => {
                Err(io::Error::new(io::ErrorKind::NotFound, format!("there is no folder {}", folder.display())))
            }
            _ => Ok(()),
        }
    }
}

fn all() -> f64 {
    1.0
}

/// A line's form.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// An object of JSON.
    #[default]
    Json,
    /// The common log format, with referrer and user agent left out and the app's name in place of the user's.
    Common,
}

/// Where lines go; clones share it. Nowhere, if no log is configured and nobody looks.
#[derive(Debug, Clone, Default)]
pub(crate) struct AccessLog {
    to: Option<Arc<To>>,
    tails: SharedTails,
}

#[derive(Debug)]
struct To {
    lines: SyncSender<Line>,
    left_out: AtomicU64,
    sample: f64,
}

/// A request that was answered.
#[derive(Debug, Serialize)]
struct Line {
    #[serde(serialize_with = "as_text")]
    time: Timestamp,
    client: IpAddr,
    method: String,
    host: String,
    path: String,
    /// `http/1.1` or `http/2`, with `s` for TLS.
    protocol: &'static str,
    status: u16,
    /// Of the answer's body, as far as it was sent.
    bytes: u64,
    /// What came from the client, where it was no request but a connection to a port.
    #[serde(skip_serializing_if = "Option::is_none")]
    received: Option<u64>,
    /// To the end of the answer.
    seconds: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    app: Option<AppName>,
    #[serde(skip_serializing_if = "Option::is_none")]
    servo: Option<ServoId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<String>,
}

/// A request on its way; the line is written when it is dropped.
#[derive(Debug)]
pub(crate) struct Pending {
    to: Option<Arc<To>>,
    /// Those that look, if there were any when it came.
    tails: Option<SharedTails>,
    line: Option<Line>,
    begun: Instant,
}

/// What of a request is in its line.
pub(crate) struct About<'a> {
    pub(crate) client: IpAddr,
    pub(crate) method: &'a str,
    /// With the query.
    pub(crate) path: &'a str,
    pub(crate) protocol: &'static str,
}

impl AccessLog {
    /// Opens the log and starts its writer, which ends with the last handle, all lines written.
    /// `tails`: who looks at requests, log or not.
    pub(crate) fn open(
        config: Option<&AccessLogConfig>,
        tails: SharedTails,
    ) -> io::Result<(Self, Option<JoinHandle<()>>)> {
        let Some(config) = config else { return Ok((Self { to: None, tails }, None)) };
        let out = Out::open(&config.path)?;
        let (lines, came) = sync_channel(WAITING);
        let to = Arc::new(To { lines, left_out: AtomicU64::new(0), sample: config.sample });
        let (format, counts) = (config.format, Arc::downgrade(&to));
        let left_out = move || counts.upgrade().map_or(0, |to| to.left_out.swap(0, Ordering::Relaxed));
        let writer = thread::Builder::new().name("access-log".into());
        let writer = writer.spawn(move || write(&came, out, format, left_out))?;
        Ok((Self { to: Some(to), tails }, Some(writer)))
    }

    /// A request came in; none if nothing is logged and nobody looks.
    pub(crate) fn begin(&self, about: &About<'_>) -> Option<Pending> {
        let (to, tails) = (self.to.clone(), self.tails.any().then(|| self.tails.clone()));
        if to.is_none() && tails.is_none() {
            return None;
        }
        let line = Line {
            time: Timestamp::now(),
            client: about.client,
            method: about.method.to_owned(),
            host: String::new(),
            path: cut(about.path),
            protocol: about.protocol,
            status: 0,
            bytes: 0,
            received: None,
            seconds: 0.0,
            app: None,
            servo: None,
            request_id: None,
        };
        Some(Pending { to, tails, line: Some(line), begun: Instant::now() })
    }

    /// A connection to a port that is not HTTP's came in; its line comes with its end.
    pub(crate) fn begin_connection(&self, client: IpAddr, port: u16) -> Option<Pending> {
        self.begin(&About { client, method: "CONNECT", path: &format!(":{port}"), protocol: "tcp" })
    }
}

impl Pending {
    /// It is noted by somebody else.
    pub(crate) fn forget(mut self) {
        self.line = None;
    }

    /// A connection has ended, and carried so many bytes from the client and to it.
    pub(crate) fn carried(&mut self, received: u64, sent: u64) {
        if let Some(line) = &mut self.line {
            line.received = Some(received);
            line.bytes = sent;
        }
    }

    pub(crate) fn routed(&mut self, host: &str, app: Option<&AppName>) {
        if let Some(line) = &mut self.line {
            line.host = cut(host);
            line.app = app.cloned();
        }
    }

    pub(crate) fn named(&mut self, request_id: &[u8]) {
        if let Some(line) = &mut self.line {
            line.request_id = Some(cut(&String::from_utf8_lossy(request_id)));
        }
    }

    pub(crate) fn answered(&mut self, status: u16, servo: Option<ServoId>) {
        if let Some(line) = &mut self.line {
            line.status = status;
            line.servo = servo;
        }
    }

    pub(crate) fn sent(&mut self, bytes: usize) {
        if let Some(line) = &mut self.line {
            line.bytes += bytes as u64;
        }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        let Some(mut line) = self.line.take() else { return };
        line.seconds = self.begun.elapsed().as_secs_f64();
        if let (Some(tails), Some(app)) = (&self.tails, &line.app) {
            tails.offer(app, line.status, || line.for_who_looks());
        }
        let Some(to) = &self.to else { return };
        let wanted = line.status >= 500 || to.sample >= 1.0 || rand::rng().random_bool(to.sample);
        if wanted && to.lines.try_send(line).is_err() {
            to.left_out.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Line {
    fn for_who_looks(&self) -> RequestLine {
        RequestLine {
            at: pontoon_model::Timestamp(u64::try_from(self.time.as_millisecond()).unwrap_or_default()),
            client: self.client.to_string(),
            method: self.method.clone(),
            host: self.host.clone(),
            path: self.path.clone(),
            protocol: self.protocol.to_owned(),
            status: self.status,
            bytes: self.bytes,
            micros: (self.seconds * 1e6) as u64,
            servo: self.servo,
            request_id: self.request_id.clone(),
        }
    }
}

fn as_text<S: Serializer>(time: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(time)
}

fn cut(text: &str) -> String {
    text[..text.floor_char_boundary(LONGEST)].to_owned()
}

/// A file, with what tells whether it is still the one at its path, or standard output.
enum Out {
    Stdout,
    File { path: PathBuf, file: File, inode: u64 },
}

impl Out {
    fn open(path: &Path) -> io::Result<Self> {
        if path == Path::new("-") {
            return Ok(Self::Stdout);
        }
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        let inode = file.metadata()?.ino();
        Ok(Self::File { path: path.to_owned(), file, inode })
    }

    /// Goes to a new file if the old one was moved away.
    fn look_again(&mut self) {
        let Self::File { path, inode, .. } = self else { return };
        if path.metadata().is_ok_and(|there| there.ino() == *inode) {
            return;
        }
        match Self::open(path) {
            Ok(new) => *self = new,
            Err(error) => tracing::warn!(%error, "the access log {} cannot be opened anew", path.display()),
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Stdout => io::stdout().lock().write_all(bytes),
            Self::File { file, .. } => file.write_all(bytes),
        }
    }
}

fn write(came: &Receiver<Line>, mut out: Out, format: Format, left_out: impl Fn() -> u64) {
    let (mut bytes, mut flushed) = (Vec::new(), Instant::now());
    loop {
        let line = came.recv_timeout(FLUSH);
        match &line {
            Ok(line) => put(&mut bytes, line, format),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
        }
        if flushed.elapsed() >= FLUSH || line.is_err() {
            out.look_again();
            if let Err(error) = out.write(&bytes) {
                tracing::warn!(%error, "lines of the access log are lost");
            }
            let lost = left_out();
            if lost > 0 {
                tracing::warn!(
                    "{lost} lines are missing in the access log: they came faster than they could be written"
                );
            }
            bytes.clear();
            flushed = Instant::now();
        }
        if matches!(line, Err(RecvTimeoutError::Disconnected)) {
            return;
        }
    }
}

fn put(bytes: &mut Vec<u8>, line: &Line, format: Format) {
    // Into memory: neither fails.
    let _ = match format {
        Format::Json => serde_json::to_writer(&mut *bytes, line).map_err(io::Error::from),
        Format::Common => {
            let time = line.time.strftime("%d/%b/%Y:%H:%M:%S +0000");
            let app = line.app.as_ref().map_or("-", AppName::as_str);
            let (client, method, protocol) = (line.client, &line.method, line.protocol.to_ascii_uppercase());
            // A quote would end the field; paths have none, but what clients send is theirs.
            let path = line.path.replace('"', "%22");
            write!(bytes, "{client} - {app} [{time}] \"{method} {path} {protocol}\" {} {}", line.status, line.bytes)
        }
    };
    bytes.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line() -> Line {
        Line {
            time: "2026-11-25T22:00:00Z".parse().unwrap(),
            client: "10.0.0.1".parse().unwrap(),
            method: "GET".to_owned(),
            host: "a.example".to_owned(),
            path: "/x?\"y".to_owned(),
            protocol: "http/1.1",
            status: 200,
            bytes: 5,
            received: None,
            seconds: 0.25,
            app: Some(AppName::new("shop").unwrap()),
            servo: None,
            request_id: None,
        }
    }

    #[test]
    fn a_line_is_json_or_of_the_common_form() {
        let mut bytes = Vec::new();
        put(&mut bytes, &line(), Format::Common);
        put(&mut bytes, &line(), Format::Json);
        let text = String::from_utf8(bytes).unwrap();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], "10.0.0.1 - shop [25/Nov/2026:22:00:00 +0000] \"GET /x?%22y HTTP/1.1\" 200 5");
        let json: serde_json::Value = serde_json::from_str(lines[1]).unwrap();
        assert_eq!((&json["path"], &json["status"], &json["app"]), (&"/x?\"y".into(), &200.into(), &"shop".into()));
        assert!(json.get("servo").is_none());
    }

    #[test]
    fn a_file_that_is_moved_away_is_made_anew() {
        let folder = tempfile::tempdir().unwrap();
        let (path, moved) = (folder.path().join("log"), folder.path().join("log.1"));
        let mut out = Out::open(&path).unwrap();
        out.write(b"one").unwrap();
        std::fs::rename(&path, &moved).unwrap();
        out.look_again();
        out.write(b"two").unwrap();
        assert_eq!((std::fs::read(&moved).unwrap(), std::fs::read(&path).unwrap()), (b"one".to_vec(), b"two".to_vec()));
    }
}
