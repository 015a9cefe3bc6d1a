//! The session with a controller: where route tables come from and acknowledgements go.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pontoon_enrol::{Remembered, RenewalAsked, listed, obey};
use pontoon_kit::{Backoff, CancellationToken, Credentials, Role, rpc};
use pontoon_model::epoch::{epoch_of, is_former};
use pontoon_model::{BalancerName, Reach, SiteName};
use pontoon_proto::services::balancers_client::BalancersClient;
use pontoon_proto::{
    BalancerAck, BalancerDirective, BalancerHello, BalancerMessage, KnownControllers, MAX_MESSAGE_BYTES, REPORT_EVERY,
    known,
};
use tokio::sync::mpsc::{self, error::TrySendError};
use tokio::time::{self, Instant, MissedTickBehavior};
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataValue;
use tonic::{Request, Streaming};

use crate::handover::Progress;
use crate::proxy::ports::Board;
use crate::report::{Next, Reporter};
use crate::status::Link;
use crate::table::{ApplyError, Table};
use crate::tail::SharedTails;

/// A sign of life is sent this often (the controllers' clocks for silent balancers count in seconds).
const ACK_INTERVAL: Duration = Duration::from_secs(1);
/// Waits between tries, over all controllers: short at first, since a controller that died is replaced by another
/// at once; never longer than 2 s, so that a cluster that comes back hears its balancers soon.
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(2);
/// A controller that does not open the session within this time is passed over: more than a connect takes at most.
const OPEN_TIMEOUT: Duration = Duration::from_secs(4);
/// A session that lived this long was a good one: the next try begins with the short wait.
const GOOD_SESSION: Duration = Duration::from_secs(5);
/// Messages on their way: more than a few only if the controller reads slowly, and then later ones replace them.
const OUTGOING: usize = 16;
/// How often requests are shown to those who look at them.
const TAIL_EVERY: Duration = Duration::from_millis(250);

/// What a session needs.
pub(crate) struct Session {
    pub(crate) name: BalancerName,
    pub(crate) site: SiteName,
    /// Where users reach this balancer.
    pub(crate) listen: SocketAddr,
    /// How other balancers reach this one; none: they do not.
    pub(crate) reach: Option<Reach>,
    pub(crate) credentials: Credentials,
    /// Wishes for a new certificate.
    pub(crate) renewal: RenewalAsked,
    pub(crate) controllers: Arc<Mutex<Controllers>>,
    pub(crate) remembered: Remembered,
    pub(crate) table: Arc<Table>,
    /// How far this balancer is, the process before this one included.
    pub(crate) progress: Arc<Progress>,
    /// What the controllers have heard of requests.
    pub(crate) reporter: Mutex<Reporter>,
    /// Who looks at requests.
    pub(crate) tails: SharedTails,
    pub(crate) link: Arc<Link>,
    pub(crate) ports: Board,
}

/// The controllers, in the order in which they are tried.
#[derive(Debug)]
pub(crate) struct Controllers {
    pub(crate) configured: Vec<SocketAddr>,
    pub(crate) known: Vec<SocketAddr>,
    /// Which is talked to, or was last.
    pub(crate) at: usize,
}

impl Controllers {
    fn current(&self) -> SocketAddr {
        self.known[self.at % self.known.len()]
    }

    /// Takes a new list; the one that is talked to stays, and if it is not in the list, the first comes after it.
    fn set(&mut self, known: Vec<SocketAddr>) {
        let current = self.current();
        self.at = known.iter().position(|address| *address == current).unwrap_or(known.len() - 1);
        self.known = known;
    }
}

/// A session that was opened.
struct Opened {
    outgoing: mpsc::Sender<BalancerMessage>,
    incoming: Streaming<BalancerDirective>,
    /// Whether the controller reads what is said of requests.
    reads_requests: bool,
}

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("no connection can be made")]
    Endpoint(#[from] tonic::transport::Error),
    #[error("no answer within {OPEN_TIMEOUT:?}")]
    Slow,
    #[error("the controller refused or the connection broke: {}", .0.message())]
    Status(#[from] tonic::Status),
    #[error("the controller ended it")]
    Closed,
    #[error("this controller has lost the others")]
    GoElsewhere,
    #[error(
        "it belongs to a cluster that began earlier (epoch {}, version {given}), and this balancer's table is of what the cluster \
         has become since (epoch {}, version {known}); or it is far behind",
        epoch_of(*given), epoch_of(*known)
    )]
    Former {
        /// The version of the controller's table.
        given: u64,
        /// That of ours.
        known: u64,
    },
    #[error(transparent)]
    Resync(#[from] ApplyError),
}

impl Session {
    /// Keeps a session with one of the controllers until `shutdown`. The table stays as it is between sessions.
    pub(crate) async fn run(self: Arc<Self>, shutdown: CancellationToken) {
        let mut backoff = Backoff::new(FIRST_WAIT, LONGEST_WAIT);
        loop {
            let controller = self.controllers().current();
            let begun = Instant::now();
            let ended = tokio::select! {
                ended = self.with(controller) => ended,
                () = shutdown.cancelled() => {
                    self.tails.end_all();
                    return self.link.set(None);
                }
            };
            let was_linked = self.link.controller().is_some();
            self.link.set(None);
            if was_linked || matches!(ended, Ended::Resync(_)) {
                tracing::info!(%controller, "session ended: {ended}");
            } else {
                tracing::debug!(%controller, "no session: {ended}");
            }
            if was_linked && begun.elapsed() > GOOD_SESSION {
                backoff.reset();
            }
            // A gap is closed by the same controller; anything else is a reason to ask the next.
            if !matches!(ended, Ended::Resync(_)) {
                self.controllers().at += 1;
            }
            tokio::select! {
                () = time::sleep(backoff.wait()) => {}
                () = shutdown.cancelled() => return,
            }
        }
    }

    fn controllers(&self) -> MutexGuard<'_, Controllers> {
        self.controllers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A controller said where all of them are: used from now on and at the next start.
    async fn learn(&self, told: KnownControllers) {
        {
            let mut controllers = self.controllers();
            let known = told.in_order(&self.site, &controllers.configured);
            if known != controllers.known {
                tracing::info!(controllers = listed(&known), "the controllers are elsewhere now");
                controllers.set(known);
            }
        }
        self.remembered.save(told).await;
    }

    async fn with(&self, controller: SocketAddr) -> Ended {
        match self.open(controller).await {
            Ok(Opened { outgoing, incoming, reads_requests }) => {
                self.link.set(Some(controller));
                tracing::info!(%controller, version = %self.table.version(), "session opened");
                let ended = match self.talk(outgoing, incoming, reads_requests).await {
                    Ok(never) => match never {},
                    Err(ended) => ended,
                };
                self.tails.end_all();
                ended
            }
            Err(ended) => ended,
        }
    }

    async fn open(&self, controller: SocketAddr) -> Result<Opened, Ended> {
        let channel = rpc::channel(controller, Role::Controller, &self.credentials)?;
        let mut client = BalancersClient::new(channel)
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES);
        let (outgoing, messages) = mpsc::channel(OUTGOING);
        let hello = BalancerHello {
            name: self.name.clone(),
            site: self.site.clone(),
            listen: self.listen,
            have: self.table.held(),
        };
        outgoing.send(BalancerMessage::Hello(hello)).await.map_err(|_| Ended::Closed)?;
        let mut request = Request::new(ReceiverStream::new(messages));
        request.metadata_mut().insert(known::READS, MetadataValue::from_static(known::ALL));
        let version = MetadataValue::from_static(pontoon_model::VERSION);
        request.metadata_mut().insert(known::VERSION, version);
        if let Some(reach) = self.reach.and_then(|reach| MetadataValue::try_from(reach.to_string()).ok()) {
            request.metadata_mut().insert(known::PEER, reach);
        }
        let opened = time::timeout(OPEN_TIMEOUT, client.session(request)).await;
        let opened = opened.map_err(|_| Ended::Slow)??;
        let reads = opened.metadata().get(known::READS).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let reads_requests = reads.split(',').any(|one| one.trim() == known::REQUESTS);
        Ok(Opened { outgoing, incoming: opened.into_inner(), reads_requests })
    }

    async fn talk(
        &self,
        outgoing: mpsc::Sender<BalancerMessage>,
        mut incoming: Streaming<BalancerDirective>,
        reads_requests: bool,
    ) -> Result<std::convert::Infallible, Ended> {
        let mut reports = time::interval(REPORT_EVERY);
        reports.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut looks = time::interval(TAIL_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut ticks = time::interval(ACK_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut told = BalancerAck::default();
        let (mut hears_edge, mut told_edge) = (false, None);
        let (mut ports, mut told_ports) = (self.ports.follow(), Vec::new());
        loop {
            let mut due = false;
            tokio::select! {
                directive = incoming.message() => match directive?.ok_or(Ended::Closed)? {
                    BalancerDirective::Controllers { known } => self.learn(KnownControllers { known }).await,
                    directive => {
                        hears_edge |= matches!(directive, BalancerDirective::Edge(_));
                        self.obey(directive)?;
                    }
                },
                () = self.progress.changed() => {}
                // The board lives as long as this.
                _ = ports.changed() => {}
                _ = ticks.tick() => due = true,
                _ = reports.tick(), if reads_requests => self.report(&outgoing),
                _ = looks.tick(), if self.tails.any() => self.show(&outgoing),
            }
            let now = self.progress.now();
            if due || now != told {
                match outgoing.try_send(BalancerMessage::Ack(now)) {
                    Ok(()) => told = now,
                    // The next one says more; `told` stays, so it is sent at the next occasion.
                    Err(TrySendError::Full(_)) => {}
                    Err(TrySendError::Closed(_)) => return Err(Ended::Closed),
                }
            }
            let edge = Some(self.table.edge_version());
            // Only a controller that tells of these versions reads what is said of them. If it cannot be said now, it is with
            // the next sign of life.
            if hears_edge
                && edge != told_edge
                && let Some(version) = edge
                && outgoing.try_send(BalancerMessage::EdgeApplied(version)).is_ok()
            {
                told_edge = edge;
            }
            // A controller that cannot read this has never named a port.
            let now = self.ports.reports();
            if now != told_ports && outgoing.try_send(BalancerMessage::Ports(now.clone())).is_ok() {
                told_ports = now;
            }
        }
    }

    /// Tells how many requests came, if there is room for it; otherwise the next report tells it.
    fn report(&self, outgoing: &mpsc::Sender<BalancerMessage>) {
        let mut reporter = self.reporter.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((report, totals)) = reporter.next(&self.table).map(Next::split)
            && outgoing.try_send(BalancerMessage::Requests(report)).is_ok()
        {
            reporter.told(totals);
        }
    }

    /// Shows requests to those who look, where acknowledgements leave room.
    fn show(&self, outgoing: &mpsc::Sender<BalancerMessage>) {
        for chunk in self.tails.chunks() {
            if outgoing.capacity() <= OUTGOING / 2 {
                self.tails.lost(&chunk);
            } else if let Err(error) = outgoing.try_send(BalancerMessage::Tail(chunk))
                && let BalancerMessage::Tail(chunk) = error.into_inner()
            {
                self.tails.lost(&chunk);
            }
        }
    }

    fn obey(&self, directive: BalancerDirective) -> Result<(), Ended> {
        match directive {
            BalancerDirective::Table(table) => self.took_table(self.table.apply_table(&table))?,
            BalancerDirective::Piece(piece) => self.took_table(self.table.apply_piece(&piece))?,
            BalancerDirective::Delta(delta) => self.table.apply_delta(&delta)?,
            BalancerDirective::Trust(now) => {
                if let Err(error) = obey(&self.credentials, &self.renewal, now) {
                    tracing::error!(%error, "what the cluster trusts cannot be taken in");
                }
            }
            BalancerDirective::GoElsewhere => return Err(Ended::GoElsewhere),
            BalancerDirective::Edge(table) => match self.table.apply_edge(&table) {
                Err(error @ ApplyError::Older { .. }) => tracing::warn!("ignored: {error}"),
                applied => applied?,
            },
            BalancerDirective::EdgeDelta(delta) => self.table.apply_edge_delta(&delta)?,
            BalancerDirective::Controllers { .. } => {}
            BalancerDirective::TailWanted { stream, request } => self.tails.begin(stream, request),
            BalancerDirective::TailUnwanted { stream } => self.tails.end(stream),
        }
        Ok(())
    }

    /// What became of a whole table.
    fn took_table(&self, taken: Result<(), ApplyError>) -> Result<(), Ended> {
        match taken {
            // It will catch up, and then sends a delta that does not fit, which leads to a new Hello.
            Err(error @ ApplyError::Older { given, have }) => {
                if is_former(given.0, have.0) {
                    return Err(Ended::Former { given: given.0, known: have.0 });
                }
                tracing::warn!("ignored: {error}; if the cluster was made anew, remove this balancer's data folder");
                Ok(())
            }
            taken => Ok(taken?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    #[test]
    fn a_new_list_does_not_end_the_session_and_what_comes_after_it_is_in_the_list() {
        let list = |ports: &[u16]| ports.iter().copied().map(address).collect::<Vec<_>>();
        let mut controllers = Controllers { configured: list(&[1, 2]), known: list(&[1, 2]), at: 1 };
        controllers.set(list(&[3, 2, 1]));
        assert_eq!(controllers.current(), address(2));
        controllers.at += 1;
        assert_eq!(controllers.current(), address(1));
        // The one that is talked to is gone from the list: when it goes, the nearest comes.
        controllers.set(list(&[4, 5, 6]));
        controllers.at += 1;
        assert_eq!(controllers.current(), address(4));
    }
}
