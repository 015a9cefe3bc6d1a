//! The time for `Date` headers, written once a second.

use std::cell::{Cell, RefCell};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

/// As a worker has it.
#[derive(Default)]
pub(super) struct Date {
    line: RefCell<Vec<u8>>,
    until: Cell<Option<Instant>>,
}

impl Date {
    /// Appends the header.
    pub(super) fn put(&self, to: &mut Vec<u8>) {
        let now = Instant::now();
        if self.until.get().is_none_or(|until| now >= until) {
            let time = SystemTime::now();
            let into_second = time.duration_since(UNIX_EPOCH).unwrap_or_default().subsec_nanos();
            self.until.set(Some(now + Duration::from_secs(1) - Duration::from_nanos(into_second.into())));
            *self.line.borrow_mut() = format!("date: {}\r\n", httpdate::fmt_http_date(time)).into_bytes();
        }
        to.extend_from_slice(&self.line.borrow());
    }
}
