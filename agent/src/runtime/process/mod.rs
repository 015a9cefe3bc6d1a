//! Servos as processes of this machine, for where there is no Docker: no isolation, no memory limits, no build tools.
//!
//! Each has a folder with its files, its output and a record of its process, and belongs to no agent:
//! it lives on when the agent ends, and the next one knows it again by process id and start time.

mod build;
mod command;
mod output;
mod record;
mod signals;

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use pontoon_model::{Digest, MemoryBytes, RuntimeKind, ServoId, Timestamp};
use pontoon_proto::LogLine;
use tokio::process::Child;
use tokio::sync::mpsc;

use self::record::Record;
use super::{BuildJob, Found, FoundState, Launch, Runtime, RuntimeError, RuntimeEvent};
use crate::archive;
use crate::diff::Origin;

/// How often processes that an earlier agent started are looked at: nobody is told when they end.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// A process that was killed is gone within this time, unless the kernel holds it.
const KILL_TIMEOUT: Duration = Duration::from_secs(5);
/// A record is written once, and in two steps: a file beside it, then its name.
const REMOVE_TRIES: u32 = 5;
/// How often a process that is to end is looked at.
const STOP_POLL: Duration = Duration::from_millis(20);

/// The process runtime.
pub struct ProcessRuntime {
    folder: PathBuf,
    listen_ip: IpAddr,
    watchers: Watchers,
    children: Children,
}

/// Processes that this agent started, until how they ended is written down.
#[derive(Clone, Default)]
struct Children(Arc<Mutex<BTreeSet<u32>>>);

impl Children {
    fn lock(&self) -> MutexGuard<'_, BTreeSet<u32>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Those who want to know when a process ends.
#[derive(Clone, Default)]
struct Watchers(Arc<Mutex<Vec<mpsc::Sender<RuntimeEvent>>>>);

impl Watchers {
    fn changed(&self) {
        let mut watchers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        watchers.retain(|watcher| !watcher.is_closed());
        for watcher in watchers.iter() {
            // A full queue already says: look again.
            let _ = watcher.try_send(RuntimeEvent::Changed);
        }
    }
}

impl ProcessRuntime {
    /// Keeps servos in `folder`; they are reached on `listen_ip`.
    pub fn open(folder: PathBuf, listen_ip: IpAddr) -> Result<Self, RuntimeError> {
        fs::create_dir_all(&folder).map_err(|error| unusable(&error))?;
        Ok(Self { folder, listen_ip, watchers: Watchers::default(), children: Children::default() })
    }

    fn folder(&self, servo: ServoId) -> PathBuf {
        self.folder.join(servo.to_string())
    }

    fn list_now(&self) -> io::Result<Vec<Found>> {
        let mut found = Vec::new();
        // Before their records are read: one that ends meanwhile is looked at again.
        let children = self.children.lock().clone();
        for entry in fs::read_dir(&self.folder)? {
            let folder = entry?.path();
            // A folder without a record is of a start that broke off; the next one replaces it.
            let Some(record) = Record::read(&folder)? else { continue };
            output::bound(&folder)?;
            let mut one = self.found(&record);
            // It has ended a moment ago, and with which code is about to be told: without it, it would count as one that
            // nobody has watched.
            if record.ended.is_none() && children.contains(&record.pid) {
                one.state = FoundState::Running;
            }
            found.push(one);
        }
        Ok(found)
    }

    fn found(&self, record: &Record) -> Found {
        let state = match record.is_alive() {
            true => FoundState::Running,
            false => FoundState::Ended { code: record.ended, out_of_memory: false },
        };
        Found {
            servo: record.servo,
            origin: Some(Origin {
                app: record.app.clone(),
                release: record.release,
                deployment: record.deployment,
                bundle: record.bundle,
            }),
            state,
            port: record.port,
            probe: record.port.map(|port| SocketAddr::new(self.listen_ip, port)),
            limits_enforced: false,
        }
    }

    async fn start_servo(&self, launch: Launch) -> Result<Found, RuntimeError> {
        let servo = launch.spec.id;
        // Left by a start that broke off.
        self.remove_servo(servo).await?;
        let (app, bundle) = (self.folder(servo).join(archive::APP_FOLDER), launch.bundle.clone());
        let folder = self.folder(servo);
        let unpacked = tokio::task::spawn_blocking(move || {
            let reader = zstd::Decoder::new(fs::File::open(bundle)?)?;
            archive::unpack(reader, &folder, archive::LIMITS)?;
            fs::create_dir_all(app).map_err(archive::ArchiveError::Io)
        });
        let prepare = |why: String| RuntimeError::Prepare { bundle: launch.spec.bundle.digest, why };
        let unpacked = unpacked.await.map_err(|error| prepare(error.to_string()))?;
        unpacked.map_err(|error| prepare(error.to_string()))?;
        self.spawn(launch).await
    }

    async fn spawn(&self, launch: Launch) -> Result<Found, RuntimeError> {
        let servo = launch.spec.id;
        let folder = self.folder(servo);
        let failed = |why: String| RuntimeError::Start { servo, why };
        // Else another program would be taken for this servo.
        if let Some(port) = launch.port
            && TcpListener::bind((self.listen_ip, port)).is_err_and(|error| error.kind() == io::ErrorKind::AddrInUse)
        {
            return Err(RuntimeError::PortTaken(port));
        }
        let mut command = command::of(&launch, &folder, self.listen_ip).map_err(failed)?;
        let child = command.spawn().map_err(|error| failed(error.to_string()))?;
        let pid = child.id().ok_or_else(|| failed("it ended before it was seen".into()))?;
        let record = Record::of(&launch, pid);
        self.children.lock().insert(pid);
        if let Err(error) = record.write(&folder) {
            self.children.lock().remove(&pid);
            // Without a record nobody would ever end it.
            signals::kill(pid);
            return Err(failed(error.to_string()));
        }
        let found = self.found(&record);
        tokio::spawn(reap(child, record, folder, self.children.clone(), self.watchers.clone()));
        Ok(Found { state: FoundState::Running, ..found })
    }

    async fn restart_servo(&self, launch: Launch) -> Result<Found, RuntimeError> {
        let servo = launch.spec.id;
        let started = self.spawn(launch).await;
        if started.is_err() {
            // As with a container: what cannot be started again is made anew.
            self.remove_servo(servo).await?;
        }
        started
    }

    async fn stop_servo(&self, servo: ServoId, grace: Duration) -> Result<(), RuntimeError> {
        let failed = |why: String| RuntimeError::Stop { servo, why };
        let folder = self.folder(servo);
        let Some(record) = Record::read(&folder).map_err(|error| failed(error.to_string()))? else { return Ok(()) };
        if record.is_alive() {
            signals::terminate(record.pid);
            // The whole group has the grace: the first process of `a & b & wait` ends before the others.
            let ending = async {
                while record.is_alive() || signals::is_there(record.pid) {
                    tokio::time::sleep(STOP_POLL).await;
                }
            };
            // What it left behind in its group ends with it, whether it ended by itself or not.
            let _ = tokio::time::timeout(grace, ending).await;
            signals::kill(record.pid);
            let ending = async {
                while record.is_alive() {
                    tokio::time::sleep(STOP_POLL).await;
                }
            };
            let killed = tokio::time::timeout(KILL_TIMEOUT, ending).await;
            killed.map_err(|_| failed(format!("process {} does not end", record.pid)))?;
        }
        Ok(())
    }

    async fn remove_servo(&self, servo: ServoId) -> Result<(), RuntimeError> {
        self.stop_servo(servo, Duration::ZERO).await?;
        let folder = self.folder(servo);
        let removed = tokio::task::spawn_blocking(move || remove_folder(&folder)).await;
        match removed.map_err(io::Error::other).flatten() {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(RuntimeError::Stop { servo, why: error.to_string() })
            }
            _ => Ok(()),
        }
    }

    /// Looks at processes that an earlier agent started: nobody tells of their end.
    fn watch_adopted(&self) {
        let (folder, watchers) = (self.folder.clone(), self.watchers.clone());
        let records = fs::read_dir(&folder).into_iter().flatten().flatten();
        let mut adopted: Vec<Record> =
            records.filter_map(|entry| Record::read(&entry.path()).ok().flatten()).filter(Record::is_alive).collect();
        if adopted.is_empty() {
            return;
        }
        tokio::spawn(async move {
            while !adopted.is_empty() {
                tokio::time::sleep(LOOK_EVERY).await;
                let before: BTreeSet<ServoId> = adopted.iter().map(|record| record.servo).collect();
                adopted.retain(Record::is_alive);
                if adopted.len() != before.len() {
                    watchers.changed();
                }
            }
        });
    }
}

/// Removes a servo's folder, also when how it ended is written into it at that moment.
fn remove_folder(folder: &Path) -> io::Result<()> {
    let mut tries = REMOVE_TRIES;
    loop {
        match fs::remove_dir_all(folder) {
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty && tries > 1 => tries -= 1,
            other => return other,
        }
    }
}

fn unusable(error: &io::Error) -> RuntimeError {
    RuntimeError::Unreachable { runtime: RuntimeKind::Process, why: error.to_string() }
}

/// Waits for a child, writes down how it ended and says so.
async fn reap(mut child: Child, mut record: Record, folder: PathBuf, children: Children, watchers: Watchers) {
    let code = child.wait().await.ok().and_then(exit_code);
    // The folder is gone when the servo was removed meanwhile; a newer record is of a newer process.
    if let Ok(Some(newest)) = Record::read(&folder)
        && newest.pid == record.pid
    {
        record.ended = code;
        if let Err(error) = record.write(&folder) {
            tracing::warn!(servo = %record.servo, %error, "cannot write down how it ended");
        }
    }
    children.lock().remove(&record.pid);
    watchers.changed();
}

fn exit_code(status: ExitStatus) -> Option<i32> {
    status.code().or_else(|| status.signal().map(|signal| 128 + signal))
}

impl Runtime for ProcessRuntime {
    fn kind(&self) -> RuntimeKind {
        RuntimeKind::Process
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<Found>, RuntimeError>> {
        Box::pin(async { self.list_now().map_err(|error| unusable(&error)) })
    }

    fn start(&self, launch: Launch) -> BoxFuture<'_, Result<Found, RuntimeError>> {
        Box::pin(self.start_servo(launch))
    }

    fn restart(&self, launch: Launch) -> BoxFuture<'_, Result<Found, RuntimeError>> {
        Box::pin(self.restart_servo(launch))
    }

    fn stop(&self, servo: ServoId, grace: Duration) -> BoxFuture<'_, Result<(), RuntimeError>> {
        Box::pin(self.stop_servo(servo, grace))
    }

    fn remove(&self, servo: ServoId) -> BoxFuture<'_, Result<(), RuntimeError>> {
        Box::pin(self.remove_servo(servo))
    }

    fn events(&self) -> mpsc::Receiver<RuntimeEvent> {
        let (sender, receiver) = mpsc::channel(1);
        self.watchers.0.lock().unwrap_or_else(PoisonError::into_inner).push(sender);
        self.watch_adopted();
        receiver
    }

    fn logs(
        &self,
        servo: ServoId,
        tail: Option<u32>,
        _since: Option<Timestamp>,
        follow: bool,
    ) -> BoxStream<'static, Result<LogLine, RuntimeError>> {
        output::read(servo, self.folder(servo), tail, follow)
    }

    fn build(&self, job: BuildJob) -> BoxFuture<'_, Result<(), RuntimeError>> {
        Box::pin(build::run(job))
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
