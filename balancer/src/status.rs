//! Whether this balancer hears a controller, for its health answer.

use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};

/// The link to the controllers.
#[derive(Debug, Default)]
pub(crate) struct Link(Mutex<Option<SocketAddr>>);

impl Link {
    /// The controller of the running session, if there is one.
    pub(crate) fn controller(&self) -> Option<SocketAddr> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A session began or ended.
    pub(crate) fn set(&self, controller: Option<SocketAddr>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = controller;
    }
}
