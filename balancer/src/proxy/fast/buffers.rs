//! Memory for connections that have something to carry. One that is idle has none: of ten thousand open connections few are
//! busy at a time.

use std::cell::RefCell;

use bytes::BytesMut;

/// Sets of buffers that are kept for the next connection: above it memory goes back.
const MOST_SPARE: usize = 64;
/// A buffer that grew above this is not kept.
const LARGEST_KEPT: usize = 64 * 1024;
/// What a client sends at once: most heads fit.
const INPUT_BYTES: usize = 4 * 1024;
/// What a servo sends at once: most answers fit.
const SERVO_BYTES: usize = 16 * 1024;

/// What one request and its answer need.
#[derive(Default)]
pub(super) struct Buffers {
    /// From the client, not used yet.
    pub(super) input: BytesMut,
    /// To the servo: head and body, until it has answered.
    pub(super) request: Vec<u8>,
    /// From the servo, not used yet.
    pub(super) servo: BytesMut,
    /// To the client.
    pub(super) answer: Vec<u8>,
}

impl Buffers {
    fn shrink(&mut self) {
        self.request.clear();
        self.answer.clear();
        self.input.clear();
        self.servo.clear();
        for buffer in [&mut self.request, &mut self.answer] {
            if buffer.capacity() > LARGEST_KEPT {
                *buffer = Vec::new();
            }
        }
        for buffer in [&mut self.input, &mut self.servo] {
            if buffer.capacity() > LARGEST_KEPT {
                *buffer = BytesMut::new();
            }
        }
        // What was read lies before what is empty now: the next head would be read in two pieces.
        for (buffer, bytes) in [(&mut self.input, INPUT_BYTES), (&mut self.servo, SERVO_BYTES)] {
            // One that never had as much has nothing to reclaim.
            let _ = buffer.try_reclaim(bytes);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.input.is_empty() && self.request.is_empty() && self.servo.is_empty() && self.answer.is_empty()
    }

    /// Makes room for what comes next from the client.
    pub(super) fn room_for_input(&mut self) {
        if self.input.capacity() == self.input.len() {
            self.input.reserve(INPUT_BYTES);
        }
    }

    /// Makes room for what comes next from the servo.
    pub(super) fn room_for_servo(&mut self) {
        if self.servo.capacity() == self.servo.len() {
            self.servo.reserve(SERVO_BYTES);
        }
    }
}

/// Buffers of a worker that no connection has.
#[derive(Default)]
#[expect(
    clippy::vec_box,
    reason = "they go to connections as they are, and an idle connection has room for a pointer only"
)]
pub(crate) struct Spare(RefCell<Vec<Box<Buffers>>>);

impl Spare {
    pub(super) fn take(&self) -> Box<Buffers> {
        self.0.borrow_mut().pop().unwrap_or_default()
    }

    pub(super) fn put(&self, mut buffers: Box<Buffers>) {
        buffers.shrink();
        let mut all = self.0.borrow_mut();
        if all.len() < MOST_SPARE {
            all.push(buffers);
        }
    }
}
