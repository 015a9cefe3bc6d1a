//! Copies of the sockets that are listened on, for a process that takes over.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// By port. A socket is closed with its last copy, so each is here only for as long as its port is listened on. Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sockets(Arc<Mutex<BTreeMap<u16, TcpListener>>>);

impl Sockets {
    /// More copies, to be given away. A port of which none can be made is one that the other process must wait for.
    pub(crate) fn copies(&self) -> Vec<TcpListener> {
        let copy = |(port, socket): (&u16, &TcpListener)| match socket.try_clone() {
            Ok(copy) => Some(copy),
            Err(error) => {
                tracing::warn!(port, %error, "the socket of a port cannot be handed over: it is refused for some seconds");
                None
            }
        };
        self.lock().iter().filter_map(copy).collect()
    }

    pub(super) fn put(&self, port: u16, copy: TcpListener) {
        self.lock().insert(port, copy);
    }

    /// Those that are not open are closed.
    pub(super) fn retain(&self, is_open: impl Fn(u16) -> bool) {
        self.lock().retain(|port, _| is_open(*port));
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u16, TcpListener>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
