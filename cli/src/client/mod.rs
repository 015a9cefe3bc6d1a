//! Every REST call, over whichever controller answers.

mod beside;
mod calls;
mod edge;
mod error;
mod event_stream;
mod log_stream;
mod ports;
pub(crate) mod tls;
mod told;
mod trust;

use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::{Stream, TryStreamExt};
use pontoon_api::CONTROLLERS_HEADER;
use pontoon_kit::Backoff;
use reqwest::{Method, Response};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio_util::io::ReaderStream;

use crate::context::Context;
use crate::output;

pub use calls::AuditSpan;
pub use error::ClientError;
pub use event_stream::{Event, EventStream};
pub use log_stream::{LineStream, LogStream};
use tls::Followed;
use told::Told;

/// A controller that does not accept within this time is treated as down: several round trips around the world.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Longer than the 10 s a controller itself looks for a leader, so that its own answer is what we see.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);
/// No new try after this: several elections of a new leader, and still bearable at a keyboard.
const RETRY_WINDOW: Duration = Duration::from_secs(10);
/// Waits between rounds over all controllers.
const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_MOST: Duration = Duration::from_secs(1);
/// An upload slower than this is given up.
const UPLOAD_BYTES_PER_SECOND: u64 = 16 * 1024;
/// Notices a controller that vanished while we follow a quiet log.
const TCP_KEEPALIVE: Duration = Duration::from_secs(10);

/// An answer to a change carries its Raft index in this header.
const INDEX_HEADER: &str = "pontoon-index";

/// Told how many bytes of an upload have been sent.
pub type Sent = Arc<dyn Fn(u64) + Send + Sync>;

/// An answer of any length.
pub type ByteStream = Pin<Box<dyn Stream<Item = Result<Bytes, ClientError>> + Send>>;

/// Talks to the controllers: to the one that answered last, else to the next.
#[derive(Debug)]
pub struct Client {
    http: reqwest::Client,
    urls: Vec<String>,
    token: String,
    /// Which of `urls` answered last.
    current: AtomicUsize,
    /// Raft index of our last change: later reads are at least as new.
    index: AtomicU64,
    retry_window: Duration,
    followed: Followed,
    told: Told,
}

/// One request, as often as it needs to be sent.
struct Call {
    method: Method,
    path: String,
    query: Vec<(&'static str, String)>,
    body: Body,
    /// Makes a change happen once, however often it is sent.
    key: Option<String>,
}

enum Body {
    Empty,
    Json(Vec<u8>),
    Archive { path: std::path::PathBuf, size: u64, sent: Sent },
}

impl Call {
    fn get(path: String) -> Self {
        Self { method: Method::GET, path, query: Vec::new(), body: Body::Empty, key: None }
    }

    fn change(method: Method, path: String) -> Self {
        let key = format!("{:032x}", rand::random::<u128>());
        Self { method, path, query: Vec::new(), body: Body::Empty, key: Some(key) }
    }

    fn json<T: Serialize>(mut self, body: &T) -> Self {
        self.body = Body::Json(serde_json::to_vec(body).expect("bodies of the API have string keys only"));
        self
    }

    fn with(mut self, name: &'static str, value: impl ToString) -> Self {
        self.query.push((name, value.to_string()));
        self
    }

    fn what(&self) -> String {
        format!("{} {}", self.method, self.path)
    }
}

impl Client {
    /// For the cluster of `context`.
    pub fn new(context: &Context) -> Result<Self, ClientError> {
        let (mut urls, mut secure) = (Vec::new(), false);
        for url in context.known.iter().chain(&context.url) {
            let fits = |url: &reqwest::Url| matches!(url.scheme(), "http" | "https") && url.has_host();
            let parsed = reqwest::Url::parse(url).ok().filter(fits);
            let parsed = parsed.ok_or_else(|| ClientError::Address { url: url.clone() })?;
            secure |= parsed.scheme() == "https";
            let url = url.trim_end_matches('/').to_owned();
            if !urls.contains(&url) {
                urls.push(url);
            }
        }
        if urls.is_empty() {
            return Err(ClientError::Address { url: String::new() });
        }
        let (mut builder, followed) = (reqwest::Client::builder(), Followed::default());
        if secure {
            let ca = context.ca.as_deref().ok_or(ClientError::NoAuthority)?;
            builder = builder.use_preconfigured_tls(tls::config(ca, followed.clone())?);
        }
        let http = builder
            .user_agent(concat!("pontoon/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_keepalive(TCP_KEEPALIVE)
            // The token goes to the controllers themselves, never through a proxy that the environment names.
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(|source| ClientError::Setup { source })?;
        Ok(Self {
            http,
            urls,
            token: context.token.clone(),
            current: AtomicUsize::new(0),
            index: AtomicU64::new(0),
            retry_window: RETRY_WINDOW,
            followed,
            told: Told::default(),
        })
    }

    /// Which authorities (PEM) are to be trusted in place of the context's, if the cluster's has a successor since.
    pub fn followed(&self) -> Option<String> {
        self.followed.get()
    }

    /// Where the controllers are, the one that answered first; empty if none has said.
    pub fn told(&self) -> Vec<String> {
        self.told.urls()
    }

    /// Each controller is tried once: for those who look again anyway.
    pub fn without_retries(mut self) -> Self {
        self.retry_window = Duration::ZERO;
        self
    }

    /// Sends `call` and reads the whole answer.
    async fn fetch<T: DeserializeOwned>(&self, call: Call) -> Result<T, ClientError> {
        self.until_answered(async |url| {
            let response = self.send(url, &call, true).await?;
            let status = response.status().as_u16();
            let index = response.headers().get(INDEX_HEADER).and_then(|index| index.to_str().ok()?.parse().ok());
            self.saw(index.unwrap_or(0));
            let bytes = response.bytes().await.map_err(|error| broken(&error))?;
            serde_json::from_slice(&bytes).map_err(|_| ClientError::Foreign {
                url: url.to_owned(),
                status,
                what: call.what(),
                hint: "client and cluster may not have the same version",
            })
        })
        .await
    }

    /// Sends `call` and leaves the answer to be read as it comes.
    async fn open<T: DeserializeOwned>(&self, call: Call) -> Result<LineStream<T>, ClientError> {
        self.until_answered(async |url| Ok(LineStream::new(self.send(url, &call, false).await?))).await
    }

    /// The bytes of an answer as they come; where it breaks off, the last is an error.
    async fn open_bytes(&self, call: Call) -> Result<ByteStream, ClientError> {
        self.until_answered(async |url| {
            let bytes = self.send(url, &call, false).await?.bytes_stream();
            Ok(Box::pin(bytes.map_err(|error| broken(&error))) as ByteStream)
        })
        .await
    }

    async fn open_events(&self, call: Call) -> Result<EventStream, ClientError> {
        self.until_answered(async |url| Ok(EventStream::new(self.send(url, &call, false).await?))).await
    }

    /// Tries the controllers in turn, from the one that answered last: each at least once, then within the window.
    async fn until_answered<T>(&self, attempt: impl AsyncFn(&str) -> Result<T, ClientError>) -> Result<T, ClientError> {
        let started = Instant::now();
        let mut backoff = Backoff::new(RETRY_FIRST, RETRY_MOST);
        // What one of them will never answer says more than that the others do not now; and what one has said, that it is not
        // known what became of a change above all, says more than that nobody answers, also if that comes later.
        let (mut lasting, mut passing, mut said): (_, _, Option<ClientError>) = (None, false, None);
        for tried in 1.. {
            let at = self.current.load(Ordering::Relaxed);
            match attempt(&self.urls[at]).await {
                Ok(answer) => return Ok(answer),
                Err(error) if error.is_passing() => {
                    passing = true;
                    said = match said {
                        Some(before) if before.is_an_answer() && !error.is_an_answer() => Some(before),
                        _ => Some(error),
                    };
                }
                Err(error) if error.is_of_one_controller() => lasting = Some(error),
                Err(error) => return Err(error),
            }
            self.current.store((at + 1) % self.urls.len(), Ordering::Relaxed);
            if tried % self.urls.len() != 0 {
                continue;
            }
            let wait = backoff.wait();
            let is_over = started.elapsed() + wait >= self.retry_window;
            let lasting = lasting.take();
            if is_over && let Some(error) = said.take_if(|error| lasting.is_none() || error.is_an_answer()) {
                return Err(error);
            }
            if let Some(error) = lasting.filter(|_| is_over || !passing) {
                return Err(error);
            }
            passing = false;
            if tried == self.urls.len() {
                output::note(&format!("no controller can answer yet, trying for {} s", self.retry_window.as_secs()));
            }
            tokio::time::sleep(wait).await;
        }
        unreachable!("the loop has no end of its own")
    }

    async fn send(&self, url: &str, call: &Call, whole: bool) -> Result<Response, ClientError> {
        let mut request = self
            .http
            .request(call.method.clone(), format!("{url}/v1/{}", call.path))
            .bearer_auth(&self.token)
            .header(CONTROLLERS_HEADER, "?")
            .query(&call.query);
        let index = self.index.load(Ordering::Relaxed);
        if call.method == Method::GET && index > 0 {
            request = request.query(&[("at_index", index)]);
        }
        if let Some(key) = &call.key {
            request = request.header("Idempotency-Key", key);
        }
        let mut timeout = ANSWER_TIMEOUT;
        request = match &call.body {
            Body::Empty => request,
            Body::Json(bytes) => request.header("Content-Type", "application/json").body(bytes.clone()),
            Body::Archive { path, size, sent } => {
                timeout += Duration::from_secs(size / UPLOAD_BYTES_PER_SECOND);
                request
                    .header("Content-Type", "application/gzip")
                    .header("Content-Length", *size)
                    .body(archive_body(path, sent.clone()).await?)
            }
        };
        // The deadline of a streamed answer is for its beginning only.
        let answer = if whole {
            request.timeout(timeout).send().await
        } else {
            tokio::time::timeout(timeout, request.send())
                .await
                .map_err(|_| self.unreachable("it does not answer in time".into()))?
        };
        let response = answer.map_err(|error| ClientError::of_failure(url, &self.urls.join(", "), &error))?;
        self.told.hear(url, response.headers());
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let body = response.bytes().await.map_err(|error| broken(&error))?;
        Err(ClientError::of_answer(url, &call.what(), status.as_u16(), &body))
    }

    fn unreachable(&self, reason: String) -> ClientError {
        ClientError::Unreachable { urls: self.urls.join(", "), reason }
    }

    /// Reads from now on are at least as new as the change at `index`.
    fn saw(&self, index: u64) {
        self.index.fetch_max(index, Ordering::Relaxed);
    }
}

fn broken(error: &reqwest::Error) -> ClientError {
    ClientError::Broken { reason: error::innermost(error) }
}

/// The file's bytes as they are read; `sent` hears how many.
async fn archive_body(path: &Path, sent: Sent) -> Result<reqwest::Body, ClientError> {
    let file =
        tokio::fs::File::open(path).await.map_err(|source| ClientError::Archive { path: path.to_owned(), source })?;
    let mut done = 0;
    let parts = ReaderStream::with_capacity(file, 64 * 1024).inspect_ok(move |part| {
        done += part.len() as u64;
        sent(done);
    });
    Ok(reqwest::Body::wrap_stream(parts))
}

#[cfg(test)]
mod tests;
