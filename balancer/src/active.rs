//! What only one process of a balancer does at a time: speaking to a controller, writing the tables. It gives way to another
//! process that asks for it.

use std::sync::Arc;

use pontoon_kit::{CancellationToken, FolderLock};
use tokio::task::JoinSet;

use crate::handover::{Door, Progress};
use crate::proxy::ports::Sockets;
use crate::session::Session;
use crate::store::Store;
use crate::table::Table;

/// The parts.
pub(crate) struct Active {
    pub(crate) session: Arc<Session>,
    pub(crate) store: Store,
    pub(crate) table: Arc<Table>,
    pub(crate) progress: Arc<Progress>,
    /// Of ports, for the next process.
    pub(crate) ports: Sockets,
    /// Held for as long as the table is written.
    pub(crate) lock: FolderLock,
}

/// When what ends.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ends {
    /// Connections are accepted no longer, and those there are end.
    pub(crate) serving: CancellationToken,
    /// What one process does and another may do without a pause between them: renewing the certificate, showing figures.
    pub(crate) alone: CancellationToken,
    /// The rest, which outlives the workers: drains are acknowledged to the end.
    pub(crate) running: CancellationToken,
    /// Set when another process has taken over.
    pub(crate) handed_over: CancellationToken,
}

impl Ends {
    /// Another process serves.
    fn hand_over(&self) {
        // First: workers look at it when they end, and give clients time to go there.
        self.handed_over.cancel();
        self.serving.cancel();
        self.alone.cancel();
    }

    /// Everything ends.
    pub(crate) fn all(&self) {
        self.serving.cancel();
        self.alone.cancel();
        self.running.cancel();
    }
}

/// The parts at work.
pub(crate) struct Running {
    speaking: CancellationToken,
    writing: CancellationToken,
    tasks: JoinSet<()>,
}

impl Active {
    /// Does it until the end, or until another process does; returns early only when a part has ended that must not.
    /// `running`: begun already, by [`Self::begin`].
    pub(crate) async fn run(self, mut running: Running, mut door: Door, ends: Ends) {
        loop {
            let heir = tokio::select! {
                _ = running.tasks.join_next() => return,
                heir = door.heir() => heir,
                () = ends.serving.cancelled() => {
                    // With it goes the last copy of the listening sockets.
                    drop(door);
                    tokio::select! {
                        _ = running.tasks.join_next() => return,
                        () = ends.running.cancelled() => return running.end().await,
                    }
                }
            };
            let process = heir.process();
            tracing::info!(process, "another process of this balancer takes over");
            // From here on the table does not change, and it is on disk.
            running.end().await;
            match heir.let_serve(self.progress.now(), self.ports.copies()).await {
                Ok(link) => {
                    tell_service_manager(process);
                    ends.hand_over();
                    door.close(process).await;
                    drop(self.lock);
                    tracing::info!("it has taken over; this process ends what it has in flight");
                    tokio::select! {
                        () = link.follow(&self.table, &self.store, &self.progress) => {}
                        () = ends.running.cancelled() => {}
                    }
                    return ends.running.cancelled().await;
                }
                Err(error) => {
                    tracing::warn!(%error, "it did not take over; this process goes on");
                    running = self.begin();
                }
            }
        }
    }

    /// Begins. What the table holds now is on disk.
    pub(crate) fn begin(&self) -> Running {
        let (speaking, writing, mut tasks) = (CancellationToken::new(), CancellationToken::new(), JoinSet::new());
        tasks.spawn(self.store.clone().keep_edge(self.table.clone(), writing.clone()));
        tasks.spawn(self.store.clone().keep(self.table.clone(), writing.clone()));
        tasks.spawn(self.session.clone().run(speaking.clone()));
        Running { speaking, writing, tasks }
    }
}

impl Running {
    /// The session ends, and then the newest tables are written.
    async fn end(mut self) {
        self.speaking.cancel();
        self.tasks.join_next().await;
        self.writing.cancel();
        // One that panicked has said so in the log.
        while self.tasks.join_next().await.is_some() {}
    }
}

/// For systemd, which watches the process that it knows as the service's.
fn tell_service_manager(process: Option<u32>) {
    let Some(process) = process else { return };
    if let Err(error) = sd_notify::notify(false, &[sd_notify::NotifyState::MainPid(process)]) {
        tracing::warn!(%error, "systemd was not told that process {process} is the balancer now");
    }
}
