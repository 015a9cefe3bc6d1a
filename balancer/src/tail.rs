//! Requests for whoever looks at them. While nobody does, a request costs one look at a flag.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pontoon_model::AppName;
use pontoon_proto::{RequestLine, TailChunk, TailRequest};
use rand::RngExt as _;

/// Readers at the same time: each costs every request of its app a copy of a line.
const MOST: usize = 64;

/// All that look.
#[derive(Debug, Default)]
pub(crate) struct Tails {
    any: AtomicBool,
    all: Mutex<BTreeMap<u64, Tail>>,
}

#[derive(Debug)]
struct Tail {
    request: TailRequest,
    lines: Vec<RequestLine>,
    /// Since the last chunk.
    came: u64,
}

impl Tails {
    /// Whether anybody looks.
    pub(crate) fn any(&self) -> bool {
        self.any.load(Ordering::Relaxed)
    }

    /// Somebody looks.
    pub(crate) fn begin(&self, stream: u64, request: TailRequest) {
        let mut all = self.lock();
        if all.len() >= MOST {
            return tracing::warn!("more than {MOST} readers look at requests: one of {} gets none", request.app);
        }
        all.insert(stream, Tail { request, lines: Vec::new(), came: 0 });
        self.any.store(true, Ordering::Relaxed);
    }

    /// No longer.
    pub(crate) fn end(&self, stream: u64) {
        let mut all = self.lock();
        all.remove(&stream);
        self.any.store(!all.is_empty(), Ordering::Relaxed);
    }

    /// The session has ended, and with it all that looked.
    pub(crate) fn end_all(&self) {
        self.lock().clear();
        self.any.store(false, Ordering::Relaxed);
    }

    /// A request was answered. Of more than fit into a chunk each has the same chance to be in it.
    pub(crate) fn offer(&self, app: &AppName, status: u16, line: impl Fn() -> RequestLine) {
        let mut all = self.lock();
        let wanted = |tail: &&mut Tail| {
            tail.request.app == *app && (tail.request.status_from..=tail.request.status_to).contains(&status)
        };
        for tail in all.values_mut().filter(wanted) {
            tail.came += 1;
            if tail.lines.len() < TailChunk::MOST_LINES {
                tail.lines.push(line());
            } else if let Some(place) = tail.lines.get_mut(rand::rng().random_range(0..tail.came) as usize) {
                *place = line();
            }
        }
    }

    /// What has come since the last time, for each that looks.
    pub(crate) fn chunks(&self) -> Vec<TailChunk> {
        let mut all = self.lock();
        let chunk = |(stream, tail): (&u64, &mut Tail)| {
            let mut lines = std::mem::take(&mut tail.lines);
            lines.sort_by_key(|line| line.at);
            let left_out = std::mem::take(&mut tail.came) - lines.len() as u64;
            (left_out > 0 || !lines.is_empty()).then_some(TailChunk {
                stream: *stream,
                balancer: None,
                lines,
                left_out,
            })
        };
        all.iter_mut().filter_map(chunk).collect()
    }

    /// A chunk found no way to the controller.
    pub(crate) fn lost(&self, chunk: &TailChunk) {
        if let Some(tail) = self.lock().get_mut(&chunk.stream) {
            tail.came += chunk.left_out + chunk.lines.len() as u64;
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Tail>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Shared by the access log, which offers requests, and the session, which is asked for them.
pub(crate) type SharedTails = Arc<Tails>;

#[cfg(test)]
mod tests {
    use pontoon_model::Timestamp;

    use super::*;

    fn line(at: u64) -> RequestLine {
        RequestLine {
            at: Timestamp(at),
            client: String::new(),
            method: String::new(),
            host: String::new(),
            path: String::new(),
            protocol: String::new(),
            status: 200,
            bytes: 0,
            micros: 0,
            servo: None,
            request_id: None,
        }
    }

    #[test]
    fn who_looks_gets_what_was_asked_for_and_how_much_was_left_out() {
        let tails = Tails::default();
        assert!(!tails.any());
        let app: AppName = "a".parse().unwrap();
        let request = |status_from, status_to| TailRequest { app: app.clone(), status_from, status_to };
        tails.begin(1, request(100, 599));
        tails.begin(2, request(500, 599));
        assert!(tails.any());
        for at in 0..1_000 {
            tails.offer(&app, 200, || line(at));
        }
        tails.offer(&app, 503, || line(7));
        tails.offer(&"b".parse().unwrap(), 500, || line(8));
        let chunks = tails.chunks();
        assert_eq!((chunks[0].lines.len(), chunks[0].left_out), (TailChunk::MOST_LINES, 1_001 - 50));
        assert!(chunks[0].lines.is_sorted_by_key(|line| line.at));
        assert!(chunks[0].lines.iter().any(|line| line.at.0 > 500), "not only the first that came");
        assert_eq!((chunks[1].lines.len(), chunks[1].left_out), (1, 0));
        assert!(tails.chunks().is_empty());
        tails.lost(&chunks[1]);
        assert_eq!(tails.chunks()[0].left_out, 1);
        tails.end(1);
        assert!(tails.any());
        tails.end_all();
        assert!(!tails.any());
    }
}
