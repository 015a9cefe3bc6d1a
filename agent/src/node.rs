//! Wires an agent together.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use pontoon_enrol::{ASK_EVERY, Renewal, hear_of_revoked};
use pontoon_kit::{CancellationToken, Credentials, FolderLock, Identity, LockError, PkiError, clock, file};
use pontoon_model::{Digest, HostName, Incarnation, MemoryBytes, RuntimeKind};
use pontoon_proto::AgentHello;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::blobs::Blobs;
use crate::board::Board;
use crate::builds::Builds;
use crate::capacity;
use crate::config::{Config, ConfigError, RuntimeChoice};
use crate::controllers::Controllers;
use crate::journal::{Journal, JournalError};
use crate::logs::{self, LogReader};
use crate::reconcile::{Outlets, Place, Reconciler};
use crate::runtime::docker::{DockerRuntime, DockerSettings};
use crate::runtime::process::ProcessRuntime;
use crate::runtime::{Runtime, RuntimeError};
use crate::session::Session;

/// The static PID 1 of every container, built with this crate.
const INIT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/pontoon-init"));
/// Assignments and outcomes not yet looked at: the newest assignment replaces older ones anyway.
const QUEUE: usize = 4;
/// When the agent ends servos at its own end, they get this long: a person waits.
const EXIT_GRACE: Duration = Duration::from_secs(5);
/// And this long where nobody does, as each servo that is replaced (`view::STOP_GRACE` of the controllers): requests may be
/// under way.
const REVOKED_GRACE: Duration = Duration::from_secs(30);
/// Balancers have let go of the servos of a revoked host by then: a table is with all of them within a second.
const ROUTES_GONE: Duration = Duration::from_secs(3);
/// Garbage grows by a few bundles a day.
const COLLECT_EVERY: Duration = Duration::from_secs(600);

/// Why an agent cannot run.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// Its configuration makes no sense.
    #[error("cannot use the configuration")]
    Config(#[from] ConfigError),
    /// Its key or certificate cannot be used.
    #[error(
        "this host's key and certificate (its `tls_dir`) cannot be used; where one of the files is lost or damaged, `pontoon \
         agent join ADDR --token TOKEN` with the same --data-dir gets another certificate, and leaves the configuration and \
         what runs here as they are"
    )]
    Identity(#[from] PkiError),
    /// A controller's address cannot be used with it.
    #[error("cannot use the certificate to reach controllers")]
    Channel(#[from] tonic::transport::Error),
    /// Its folder cannot be used.
    #[error("cannot use the data folder {}", path.display())]
    DataFolder {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another agent runs on it, or it cannot be known that none does.
    #[error("{}", .0.in_words(
        "this agent's data folder is not free: stop the agent that runs on it (`systemctl stop` where it is a service), or \
         give this one a `data_dir` and a name of its own"
    ))]
    Lock(#[from] LockError),
    /// Its journal cannot be used.
    #[error("cannot use the journal")]
    Journal(#[from] JournalError),
    /// What runs here cannot be seen.
    #[error("cannot use the runtime")]
    Runtime(#[from] RuntimeError),
    /// Its cluster does not take its certificate any more.
    #[error(
        "host {host} was revoked, and does not belong to its cluster any more: its apps have left the routes and run elsewhere, \
         and what of them ran here was stopped. To use this machine again, remove {} and let it join with a new token \
         (`pontoon agent join ADDR --token TOKEN`)", key.display()
    )]
    Revoked {
        /// Its name.
        host: HostName,
        /// Its key, which is worth nothing any more.
        key: PathBuf,
    },
    /// A part of it ended that never should.
    #[error("a part of the agent ended unexpectedly: {0}")]
    PartEnded(String),
}

/// Whether the files that `config` names can be used. Nothing is made, taken or listened on.
pub fn check(config: &Config) -> Result<(), AgentError> {
    credentials(config).map(drop)
}

fn credentials(config: &Config) -> Result<Credentials, AgentError> {
    Ok(Credentials::new(Identity::load(&config.tls_dir)?)?)
}

/// Runs an agent until `shutdown`. Its servos keep running, unless the configuration says otherwise.
pub async fn run(config: Config, shutdown: CancellationToken) -> Result<(), AgentError> {
    config.check()?;
    let folders = Folders::make(&config.data_dir)?;
    // Before the runtime, which clears away what nobody is known to need.
    let lock = FolderLock::take(&folders.data).await?;
    let runtime = open_runtime(&config, &folders).await?;
    run_on(config, folders, lock, runtime, shutdown).await
}

/// Runs an agent on a given runtime (tests and simulated hosts bring their own).
pub async fn run_with(
    config: Config,
    runtime: Arc<dyn Runtime>,
    shutdown: CancellationToken,
) -> Result<(), AgentError> {
    config.check()?;
    let folders = Folders::make(&config.data_dir)?;
    let lock = FolderLock::take(&folders.data).await?;
    run_on(config, folders, lock, runtime, shutdown).await
}

/// Runs an agent whose folder is its own. The lock comes before the incarnation: controllers take the highest for the host's
/// agent, so a second one that only started would take the host over.
async fn run_on(
    config: Config,
    folders: Folders,
    _lock: FolderLock,
    runtime: Arc<dyn Runtime>,
    shutdown: CancellationToken,
) -> Result<(), AgentError> {
    let credentials = credentials(&config)?;
    let controllers = Arc::new(Controllers::new(&config, credentials.clone())?);
    let failed = |source| AgentError::DataFolder { path: folders.blobs.clone(), source };
    let blobs = Arc::new(Blobs::new(folders.blobs.clone(), Arc::clone(&controllers)).map_err(failed)?);

    let mut journal = Journal::open(&config.data_dir)?;
    journal.change(|memory| memory.incarnation = next_start(memory.incarnation, clock::unix_millis()))?;
    let incarnation = journal.memory().incarnation;
    let (board, board_feed) = watch::channel(Arc::new(Board::default()));
    let (wanted_builds, wanted_builds_feed) = watch::channel(Arc::new(BTreeMap::new()));
    let (needed, needed_feed) = watch::channel(Arc::new(BTreeSet::new()));
    let (assignment_sender, assignments) = mpsc::channel(QUEUE);
    let (ended_sender, ended_builds) = mpsc::channel(QUEUE);
    let place = Place { listen_ip: config.listen_ip, ports: config.ports.clone() };
    let outlets = Outlets { board, builds: wanted_builds, needed };
    let mut reconciler = Reconciler::new(journal, place, Arc::clone(&runtime), Arc::clone(&blobs), outlets);
    reconciler.recover().await?;

    // Parts end when the reconciler has: until then controllers hear of what it does.
    let parts_end = CancellationToken::new();
    let _guard = parts_end.clone().drop_guard();
    let mut parts = JoinSet::new();
    let (renewal, asked) = watch::channel(0);
    let session = Session {
        credentials: credentials.clone(),
        renewal,
        controllers: Arc::clone(&controllers),
        board: board_feed.clone(),
        assignments: assignment_sender,
        introduce: introduce(&config, incarnation, Arc::clone(&runtime)),
        logs: LogReader { runtime: Arc::clone(&runtime), board: board_feed, builds: folders.build_logs.clone() },
    };
    parts.spawn(session.run(parts_end.clone()));
    let known = Arc::clone(&controllers);
    parts.spawn(hear_of_revoked(credentials.clone(), move || known.addresses(), ASK_EVERY, parts_end.clone()));
    let revoked = credentials.clone();
    let renewing = Renewal { credentials, folder: config.tls_dir.clone(), asked };
    let known = Arc::clone(&controllers);
    parts.spawn(renewing.keep(move || known.addresses(), parts_end.clone()));
    let builds = Builds {
        runtime: Arc::clone(&runtime),
        blobs: Arc::clone(&blobs),
        controllers,
        logs: folders.build_logs.clone(),
        temporary: folders.temporary.clone(),
    };
    parts.spawn(builds.run(wanted_builds_feed, ended_sender, parts_end.clone()));
    parts.spawn(collect(runtime, blobs, folders.build_logs, needed_feed, parts_end.clone()));

    let mut is_revoked = false;
    tokio::select! {
        () = reconciler.run(assignments, ended_builds, shutdown.clone()) => {}
        () = revoked.until_revoked() => is_revoked = true,
        ended = parts.join_next() => {
            let why = ended.and_then(Result::err).map_or_else(|| "it returned".to_owned(), |error| error.to_string());
            return Err(AgentError::PartEnded(why));
        }
    }
    parts_end.cancel();
    while parts.join_next().await.is_some() {}
    if is_revoked {
        return Err(end_what_runs(reconciler, &config, &shutdown).await);
    }
    if config.stop_servos_on_exit {
        reconciler.stop_all(EXIT_GRACE).await;
    }
    Ok(())
}

/// Which start this is, after `last`. The clock has its say, as with the generations of Cassandra's gossip: a count alone begins
/// again when the data folder was lost or an earlier copy of it put back, and controllers would refuse this start as a former one.
fn next_start(last: Incarnation, now: u64) -> Incarnation {
    Incarnation(now.max(last.0 + 1))
}

/// What a host does that is told by one of its controllers that it is out. They have placed its servos elsewhere: here these
/// would be second ones, with the cluster's environment, that nobody looks after.
async fn end_what_runs(mut reconciler: Reconciler, config: &Config, shutdown: &CancellationToken) -> AgentError {
    tracing::error!(
        host = %config.name,
        "this host was revoked: its cluster trusts it no longer, and runs its apps elsewhere; what runs here is stopped"
    );
    // Also for the next start, which would bring back what was assigned last.
    reconciler.forget_assignment();
    let _ = tokio::time::timeout(ROUTES_GONE, shutdown.cancelled()).await;
    reconciler.stop_all(REVOKED_GRACE).await;
    AgentError::Revoked { host: config.name.clone(), key: config.tls_dir.join("key.pem") }
}

/// Stops and removes every servo of this agent, whoever started it, and with the last agent of the cluster its network
/// and build caches. For whoever tears a cluster down.
pub async fn remove_everything(config: &Config) -> Result<(), AgentError> {
    let folders = Folders::make(&config.data_dir)?;
    let runtime = open_runtime(config, &folders).await?;
    runtime.clear_builds().await?;
    for found in runtime.list().await? {
        runtime.stop(found.servo, Duration::ZERO).await?;
        runtime.remove(found.servo).await?;
    }
    runtime.leave(true).await?;
    Ok(())
}

struct Folders {
    blobs: PathBuf,
    build_logs: PathBuf,
    servos: PathBuf,
    temporary: PathBuf,
    data: PathBuf,
}

impl Folders {
    fn make(data: &Path) -> Result<Self, AgentError> {
        let failed = |source| AgentError::DataFolder { path: data.to_owned(), source };
        fs::create_dir_all(data).map_err(failed)?;
        // Containers get files from here by absolute path.
        let data = fs::canonicalize(data).map_err(failed)?;
        let folder = |name: &str| {
            let path = data.join(name);
            fs::create_dir_all(&path).map_err(|source| AgentError::DataFolder { path: path.clone(), source })?;
            Ok::<_, AgentError>(path)
        };
        let (blobs, build_logs, servos, temporary) =
            (folder("blobs")?, folder("builds")?, folder("servos")?, folder("tmp")?);
        Ok(Self { blobs, build_logs, servos, temporary, data })
    }

    /// Puts the supervisor where containers can mount it from; named by its content, so that running
    /// servos keep theirs when the agent is upgraded.
    fn write_init(&self) -> Result<PathBuf, AgentError> {
        let path = self.data.join(format!("init-{}", Digest::of(INIT).short()));
        if !path.exists() {
            file::replace(&path, INIT, 0o755)
                .map_err(|source| AgentError::DataFolder { path: path.clone(), source })?;
        }
        Ok(path)
    }
}

async fn open_runtime(config: &Config, folders: &Folders) -> Result<Arc<dyn Runtime>, AgentError> {
    let wants_docker = match config.runtime {
        RuntimeChoice::Docker => true,
        RuntimeChoice::Process => false,
        RuntimeChoice::Auto => DockerRuntime::answers().await,
    };
    if !wants_docker {
        let why = if config.runtime == RuntimeChoice::Auto { "no Docker engine answers" } else { "as configured" };
        tracing::info!(why, "servos run as processes: no isolation, no builds that need tools");
        return Ok(Arc::new(ProcessRuntime::open(folders.servos.clone(), config.listen_ip)?));
    }
    let runtime = DockerRuntime::connect(DockerSettings {
        cluster: config.cluster.clone(),
        host: config.name.clone(),
        listen_ip: config.listen_ip,
        temporary: folders.temporary.clone(),
        init: folders.write_init()?,
        ca_bundle: config.ca_bundle_path(),
    })
    .await?;
    tracing::info!(api = runtime.api_version(), "servos run in Docker");
    Ok(Arc::new(runtime))
}

fn introduce(config: &Config, incarnation: Incarnation, runtime: Arc<dyn Runtime>) -> crate::session::Introduce {
    let (host, site, configured) = (config.name.clone(), config.site.clone(), config.memory);
    Arc::new(move || {
        let (host, site, runtime) = (host.clone(), site.clone(), Arc::clone(&runtime));
        Box::pin(async move {
            let foreign = match (configured, runtime.foreign_memory().await) {
                (Some(_), _) => MemoryBytes::default(),
                (None, Ok(foreign)) => foreign,
                (None, Err(error)) => {
                    tracing::warn!(%error, "what else runs here is not known; counting nothing for it");
                    MemoryBytes::default()
                }
            };
            let capacity = capacity::detect(configured, foreign);
            AgentHello { host, site, incarnation, capacity, runtime: runtime.kind(), generation: 0 }
        })
    })
}

/// Removes what nothing needs any more, now and then.
async fn collect(
    runtime: Arc<dyn Runtime>,
    blobs: Arc<Blobs>,
    build_logs: PathBuf,
    needed: watch::Receiver<Arc<BTreeSet<Digest>>>,
    end: CancellationToken,
) {
    loop {
        let needed = needed.borrow().clone();
        if runtime.kind() == RuntimeKind::Docker
            && let Err(error) = runtime.collect_garbage(needed.iter().copied().collect()).await
        {
            tracing::warn!(%error, "unused bundles could not be removed");
        }
        let swept = blobs.collect_garbage(&needed).and_then(|()| logs::collect_garbage(&build_logs));
        if let Err(error) = swept {
            tracing::warn!(%error, "unused files could not be removed");
        }
        tokio::select! {
            () = tokio::time::sleep(COLLECT_EVERY) => {}
            () = end.cancelled() => return,
        }
    }
}
