//! A pretended engine in memory, for tests and simulated hosts: servos "run" at once and really listen.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream, StreamExt};
use pontoon_model::{Digest, MemoryBytes, RuntimeKind, ServoId, Timestamp};
use pontoon_proto::LogLine;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use super::{BuildJob, Found, FoundState, Launch, Runtime, RuntimeError, RuntimeEvent};
use crate::diff::Origin;

/// The pretended engine; clones share it, so that it outlives an agent as a real one does.
#[derive(Clone)]
pub struct FakeRuntime {
    listen_ip: IpAddr,
    inner: Arc<Mutex<Inner>>,
}

#[derive(Default)]
struct Inner {
    servos: BTreeMap<ServoId, Fake>,
    watchers: Vec<mpsc::Sender<RuntimeEvent>>,
    calls: Vec<String>,
}

struct Fake {
    found: Found,
    listener: Option<AbortHandle>,
}

impl FakeRuntime {
    /// An engine without servos; those to come listen on `listen_ip` and their outside port.
    pub fn new(listen_ip: IpAddr) -> Self {
        Self { listen_ip, inner: Arc::default() }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // A test that panicked elsewhere is the failure to show, not this.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was asked of it so far, in order, e.g. `start s1`.
    pub fn calls(&self) -> Vec<String> {
        self.inner().calls.clone()
    }

    /// Ends a servo's process as a crash would.
    pub fn crash(&self, servo: ServoId, code: i32) {
        self.end(servo, FoundState::Ended { code: Some(code), out_of_memory: false });
    }

    /// Removes a servo as a person with the engine's own tools would.
    pub fn vanish(&self, servo: ServoId) {
        let mut inner = self.inner();
        if let Some(fake) = inner.servos.remove(&servo) {
            fake.listener.iter().for_each(AbortHandle::abort);
        }
        inner.changed();
    }

    /// The servos that run.
    pub fn running(&self) -> Vec<ServoId> {
        let inner = self.inner();
        inner
            .servos
            .values()
            .filter(|fake| fake.found.state == FoundState::Running)
            .map(|fake| fake.found.servo)
            .collect()
    }

    fn end(&self, servo: ServoId, state: FoundState) {
        let mut inner = self.inner();
        if let Some(fake) = inner.servos.get_mut(&servo) {
            fake.found.state = state;
            fake.listener.take().iter().for_each(AbortHandle::abort);
        }
        inner.changed();
    }

    async fn run(&self, verb: &str, launch: Launch) -> Result<Found, RuntimeError> {
        let servo = launch.spec.id;
        self.inner().calls.push(format!("{verb} {servo}"));
        let address = launch.port.map(|port| SocketAddr::new(self.listen_ip, port));
        let silent = launch.spec.command == "silent";
        let listener = match address.filter(|_| !silent) {
            Some(address) => {
                let bound = TcpListener::bind(address).await;
                let listener = bound.map_err(|error| match error.kind() {
                    ErrorKind::AddrInUse => RuntimeError::PortTaken(address.port()),
                    _ => RuntimeError::Start { servo, why: error.to_string() },
                })?;
                let accept = async move { while listener.accept().await.is_ok() {} };
                Some(tokio::spawn(accept).abort_handle())
            }
            None => None,
        };
        let found = Found {
            servo,
            origin: Some(Origin::of(&launch.spec)),
            state: FoundState::Running,
            port: launch.port,
            probe: address,
            limits_enforced: false,
        };
        let mut inner = self.inner();
        inner.servos.insert(servo, Fake { found: found.clone(), listener });
        inner.changed();
        Ok(found)
    }
}

impl Inner {
    fn changed(&mut self) {
        self.watchers.retain(|watcher| !watcher.is_closed());
        for watcher in &self.watchers {
            // A full queue already says: look again.
            let _ = watcher.try_send(RuntimeEvent::Changed);
        }
    }
}

impl Runtime for FakeRuntime {
    fn kind(&self) -> RuntimeKind {
        RuntimeKind::Process
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<Found>, RuntimeError>> {
        let found = self.inner().servos.values().map(|fake| fake.found.clone()).collect();
        Box::pin(std::future::ready(Ok(found)))
    }

    fn start(&self, launch: Launch) -> BoxFuture<'_, Result<Found, RuntimeError>> {
        Box::pin(self.run("start", launch))
    }

    fn restart(&self, launch: Launch) -> BoxFuture<'_, Result<Found, RuntimeError>> {
        Box::pin(self.run("restart", launch))
    }

    fn stop(&self, servo: ServoId, _grace: Duration) -> BoxFuture<'_, Result<(), RuntimeError>> {
        self.inner().calls.push(format!("stop {servo}"));
        self.end(servo, FoundState::Ended { code: Some(143), out_of_memory: false });
        Box::pin(std::future::ready(Ok(())))
    }

    fn remove(&self, servo: ServoId) -> BoxFuture<'_, Result<(), RuntimeError>> {
        self.inner().calls.push(format!("remove {servo}"));
        self.vanish(servo);
        Box::pin(std::future::ready(Ok(())))
    }

    fn events(&self) -> mpsc::Receiver<RuntimeEvent> {
        let (sender, receiver) = mpsc::channel(1);
        self.inner().watchers.push(sender);
        receiver
    }

    fn logs(
        &self,
        servo: ServoId,
        _tail: Option<u32>,
        _since: Option<Timestamp>,
        _follow: bool,
    ) -> BoxStream<'static, Result<LogLine, RuntimeError>> {
        let line = match self.inner().servos.contains_key(&servo) {
            true => Ok(LogLine { at: None, stderr: false, text: format!("output of {servo}") }),
            false => Err(RuntimeError::NoLog(servo)),
        };
        stream::iter([line]).boxed()
    }

    fn build(&self, _job: BuildJob) -> BoxFuture<'_, Result<(), RuntimeError>> {
        let reason = "the pretended engine builds nothing".to_owned();
        Box::pin(std::future::ready(Err(RuntimeError::Build(reason))))
    }

    fn clear_builds(&self) -> BoxFuture<'_, Result<(), RuntimeError>> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn collect_garbage(&self, _keep: Vec<Digest>) -> BoxFuture<'_, Result<(), RuntimeError>> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn leave(&self, _caches: bool) -> BoxFuture<'_, Result<(), RuntimeError>> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn foreign_memory(&self) -> BoxFuture<'_, Result<MemoryBytes, RuntimeError>> {
        Box::pin(std::future::ready(Ok(MemoryBytes(0))))
    }
}
