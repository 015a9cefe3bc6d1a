//! Tasks of HTTP/2 connections stay on their worker's thread.

use std::future::Future;

use hyper::rt::Executor;

/// Spawns on the worker's own set of tasks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Local;

impl<F> Executor<F> for Local
where
    F: Future + 'static,
    F::Output: 'static,
{
    fn execute(&self, task: F) {
        tokio::task::spawn_local(task);
    }
}
