//! The stream to a controller: who we are, what changed, signs of life; assignments and log requests back.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pontoon_enrol::{RenewalAsked, obey};
use pontoon_kit::{Backoff, Credentials};
use pontoon_model::epoch::{epoch_of, is_former};
use pontoon_model::{Assignment, BuildId, ServoId, ServoReport};
use pontoon_proto::{AgentDirective, AgentHello, AgentMessage, BuildReport, Heartbeat, KnownControllers, known};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::metadata::MetadataValue;
use tonic::{Request, Streaming};

use crate::board::BoardFeed;
use crate::capacity;
use crate::controllers::{Client, Controllers};
use crate::logs::LogReader;

/// Signs of life: three of them fit into the time after which a host counts as suspect.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// A controller that does not open the stream within this time is passed over.
const OPEN_TIMEOUT: Duration = Duration::from_secs(3);
/// Waits before another controller is tried: a dead controller's agents reach the others within 2 s, spread out.
const RETRY_FIRST: Duration = Duration::from_millis(200);
const RETRY_MOST: Duration = Duration::from_secs(2);
/// A session this long was a good one: the next wait is the shortest again.
const GOOD_SESSION: Duration = Duration::from_secs(5);
/// Messages not yet sent; when the controller reads slower than that, the newest state waits on the board.
const QUEUE: usize = 16;
/// Reports in one message: with full last lines they stay far below the largest message.
const REPORTS_PER_MESSAGE: usize = 500;

/// Says what this host is; asked anew for every session.
pub(crate) type Introduce = Arc<dyn Fn() -> futures_util::future::BoxFuture<'static, AgentHello> + Send + Sync>;

/// What a session needs.
pub(crate) struct Session {
    pub(crate) controllers: Arc<Controllers>,
    pub(crate) board: BoardFeed,
    pub(crate) assignments: mpsc::Sender<Assignment>,
    pub(crate) introduce: Introduce,
    pub(crate) logs: LogReader,
    pub(crate) credentials: Credentials,
    /// Wishes for a new certificate.
    pub(crate) renewal: RenewalAsked,
}

impl Session {
    /// Keeps a session with one of the controllers, whichever answers, until `shutdown`.
    pub(crate) async fn run(self, shutdown: CancellationToken) {
        let mut backoff = Backoff::new(RETRY_FIRST, RETRY_MOST);
        let mut silent = false;
        while !shutdown.is_cancelled() {
            let (address, client) = self.controllers.current();
            let began = Instant::now();
            let ended = tokio::select! {
                ended = self.one(address, client) => ended,
                () = shutdown.cancelled() => return,
            };
            let lived = began.elapsed();
            if lived >= GOOD_SESSION {
                backoff.reset();
                silent = false;
            }
            // Once per outage: with all controllers away this would fill the log.
            if !silent {
                tracing::warn!(controller = %address, why = ended, "no session with this controller; servos keep running, trying another");
            }
            silent = true;
            self.controllers.advance();
            tokio::select! {
                () = tokio::time::sleep(backoff.wait()) => {}
                () = shutdown.cancelled() => return,
            }
        }
    }

    /// One session, to its end; says why it ended.
    async fn one(&self, address: SocketAddr, mut client: Client) -> String {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let mut hello = (self.introduce)().await;
        hello.generation = self.board.borrow().generation;
        if sender.send(AgentMessage::Hello(hello)).await.is_err() {
            return "the stream closed at once".into();
        }
        let mut opening = Request::new(ReceiverStream::new(receiver));
        opening.metadata_mut().insert(known::READS, MetadataValue::from_static(known::ALL));
        let version = MetadataValue::from_static(pontoon_model::VERSION);
        opening.metadata_mut().insert(known::VERSION, version);
        let opening = client.session(opening);
        let directives = match tokio::time::timeout(OPEN_TIMEOUT, opening).await {
            Ok(Ok(response)) => response.into_inner(),
            Ok(Err(status)) => return status.message().to_owned(),
            Err(_) => return format!("no answer within {} s", OPEN_TIMEOUT.as_secs()),
        };
        tracing::info!(controller = %address, "session opened");
        let mut open = Open {
            session: self,
            sender,
            client,
            reported: Reported::default(),
            sequence: 0,
            log_streams: HashMap::new(),
        };
        open.run(directives).await
    }
}

/// What the controller was told in this session.
#[derive(Default)]
struct Reported {
    any: bool,
    servos: BTreeMap<ServoId, Arc<ServoReport>>,
    builds: Vec<BuildId>,
}

struct Open<'a> {
    session: &'a Session,
    sender: mpsc::Sender<AgentMessage>,
    client: Client,
    reported: Reported,
    sequence: u64,
    log_streams: HashMap<u64, AbortHandle>,
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        // Who wanted the logs is behind the controller that is gone.
        self.log_streams.values().for_each(AbortHandle::abort);
    }
}

impl Open<'_> {
    async fn run(&mut self, mut directives: Streaming<AgentDirective>) -> String {
        let mut board = self.session.board.clone();
        board.mark_changed();
        let mut beat = tokio::time::interval(HEARTBEAT);
        beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let sent = tokio::select! {
                changed = board.changed() => match changed {
                    Ok(()) => {
                        let messages = self.news(&board);
                        self.send(messages).await
                    }
                    Err(_) => return "the agent ends".into(),
                },
                _ = beat.tick() => {
                    self.sequence += 1;
                    let beat = Heartbeat { sequence: self.sequence, free_memory: capacity::free_memory() };
                    self.send(vec![AgentMessage::Heartbeat(beat)]).await
                }
                directive = directives.message() => match directive {
                    Ok(Some(directive)) => match self.take(directive).await {
                        Some(end) => return end,
                        None => true,
                    },
                    Ok(None) => return "the controller ended the session".into(),
                    Err(status) => return status.message().to_owned(),
                },
            };
            if !sent {
                return "the stream broke".into();
            }
        }
    }

    async fn send(&self, messages: Vec<AgentMessage>) -> bool {
        for message in messages {
            if self.sender.send(message).await.is_err() {
                return false;
            }
        }
        true
    }

    /// What changed on the board since the last message; all of it at first.
    fn news(&mut self, board: &BoardFeed) -> Vec<AgentMessage> {
        let board = board.borrow().clone();
        let changed: Vec<ServoReport> = board
            .servos
            .iter()
            .filter(|(servo, report)| self.reported.servos.get(servo) != Some(report))
            .map(|(_, report)| ServoReport::clone(report))
            .collect();
        let mut messages: Vec<AgentMessage> =
            changed.chunks(REPORTS_PER_MESSAGE).map(|part| AgentMessage::Servos(part.to_vec())).collect();
        if messages.is_empty() && !self.reported.any {
            // Nothing runs here: that is news too.
            messages.push(AgentMessage::Servos(Vec::new()));
        }
        self.reported.any = true;
        self.reported.servos = board.servos.clone();
        self.reported.builds.retain(|build| board.builds.contains_key(build));
        for (build, outcome) in &board.builds {
            if let Some(outcome) = outcome.clone().filter(|_| !self.reported.builds.contains(build)) {
                self.reported.builds.push(*build);
                messages.push(AgentMessage::Build(BuildReport { build: *build, outcome }));
            }
        }
        messages
    }

    /// Does what the controller says; returns why the session ends, if it does.
    async fn take(&mut self, directive: AgentDirective) -> Option<String> {
        match directive {
            AgentDirective::Assignment(assignment) => {
                let known = self.session.board.borrow().generation;
                if is_former(assignment.generation, known) {
                    return Some(former(assignment.generation, known));
                }
                if self.session.assignments.send(assignment).await.is_err() {
                    return Some("the agent ends".into());
                }
            }
            AgentDirective::LogWanted { stream, request } => {
                self.log_streams.retain(|_, task| !task.is_finished());
                let reading = self.session.logs.clone().push(self.client.clone(), stream, request);
                self.log_streams.insert(stream, tokio::spawn(reading).abort_handle());
            }
            AgentDirective::LogUnwanted { stream } => {
                if let Some(task) = self.log_streams.remove(&stream) {
                    task.abort();
                }
            }
            AgentDirective::Trust(now) => {
                if let Err(error) = obey(&self.session.credentials, &self.session.renewal, now) {
                    tracing::error!(%error, "what the cluster trusts cannot be taken in");
                }
            }
            AgentDirective::Controllers { known } => self.session.controllers.learn(KnownControllers { known }).await,
            AgentDirective::GoElsewhere => return Some("the controller has lost the others".into()),
        }
        None
    }
}

/// Why nothing is done of what a controller gives that belongs to what this host's cluster was before.
fn former(given: u64, known: u64) -> String {
    let (epoch, own) = (epoch_of(given), epoch_of(known));
    let which = match epoch == own {
        true => format!("one of epoch {epoch} that was made earlier, or it is far behind"),
        false => format!("a cluster of epoch {epoch}"),
    };
    format!(
        "it belongs to {which}, and this host to what the cluster has become since (epoch {own}, index {known} after {given}): \
         nothing of it is done here"
    )
}
