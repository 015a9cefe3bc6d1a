//! The leader raises the cluster's feature level once all members can read the next one. The others that could read more
//! look too: a leader of an older version does not know of what it is asked to write, and cannot say who holds it back.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use futures_util::future::join_all;
use openraft::async_runtime::watch::WatchReceiver;
use pontoon_core::command::RaiseFeatureLevel;
use pontoon_core::{Stamped, State, level};
use pontoon_kit::Backoff;
use pontoon_model::ControllerId;
use pontoon_proto::DescribeRequest;
use tokio::sync::watch;
use tokio::time::timeout;

use super::batcher::Batcher;
use super::encoded::Encoded;
use super::leadership::Leadership;
use super::peers::Peers;
use super::runtime;
use super::state_machine::StateFeed;
use super::types::Raft;

/// Between looks, while the level is below what this controller can read: an upgrade takes minutes.
const LOOK: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// A member that does not say within this time what it can read is down or cut off.
const ANSWER: Duration = Duration::from_secs(1);

/// Why the level is not higher, as this controller found it last. Clones share it.
#[derive(Debug, Clone, Default)]
pub(super) struct HeldBack {
    why: Arc<ArcSwapOption<String>>,
}

impl HeldBack {
    /// What to say to whoever wants to write what needs a higher level.
    pub(super) fn sentence(&self, needed: u32, now: u32) -> String {
        let why = self.why.load_full();
        let why = why.as_ref().map_or("not all controllers have been asked yet", |why| why.as_str());
        format!("this needs feature level {needed} and the cluster is at {now}: {why}")
    }
}

/// What it takes to raise the level.
pub(super) struct Levels {
    pub(super) id: ControllerId,
    pub(super) raft: Raft,
    pub(super) feed: StateFeed,
    pub(super) leadership: watch::Receiver<Leadership>,
    pub(super) peers: Peers,
    pub(super) batcher: Batcher,
    pub(super) held_back: HeldBack,
}

impl Levels {
    /// Raises the level whenever this controller leads and all members can read the next; ends when there is none that this
    /// controller can read, or with the consensus.
    pub(super) async fn run(mut self) {
        let mut backoff = Backoff::new(LOOK.0, LOOK.1);
        loop {
            let now = self.feed.look(State::feature_level);
            if now >= level::NEWEST {
                return;
            }
            let held_back = self.raise(now + 1).await.err();
            if let Some(why) = &held_back {
                tracing::debug!(level = now, why, "the feature level stays");
            }
            self.held_back.why.store(held_back.map(Arc::new));
            let wait = backoff.wait_by(&mut runtime::rng());
            match timeout(wait, runtime::changed(&mut self.leadership)).await {
                Ok(Ok(())) => backoff = Backoff::new(LOOK.0, LOOK.1),
                Ok(Err(_)) => return,
                Err(_) => {}
            }
        }
    }

    /// Raises the level by one, or says why it stays.
    async fn raise(&self, to: u32) -> Result<(), String> {
        // Learners too: they apply the same entries.
        let members: Vec<(u64, String)> = {
            let metrics = self.raft.metrics();
            let metrics = metrics.borrow_watched();
            metrics.membership_config.nodes().map(|(id, peer)| (*id, peer.name.to_string())).collect()
        };
        let others = members.iter().filter(|(id, _)| *id != self.id.0);
        let answers = join_all(others.map(|(id, name)| self.ask(ControllerId(*id), name, to))).await;
        let held_back: Vec<String> = answers.into_iter().filter_map(Result::err).collect();
        if !held_back.is_empty() {
            return Err(format!(
                "held back by {}; once all run a version that can, it rises by itself",
                held_back.join(", ")
            ));
        }
        if !self.leadership.borrow().leading {
            return Err("all controllers can read it, and the leader has not raised it yet".to_owned());
        }
        let command = Stamped { key: self.batcher.fresh_key(), command: RaiseFeatureLevel { to }.into() };
        let command = Encoded::new(&command).map_err(|error| error.to_string())?;
        self.batcher.propose(vec![command]).await.map_err(|error| error.to_string())?;
        tracing::info!(level = to, "all controllers can read it: the feature level is raised");
        Ok(())
    }

    /// Whether a member can read `level`, or its name and why not.
    async fn ask(&self, id: ControllerId, name: &str, level: u32) -> Result<(), String> {
        let mut client = self.peers.reach(id)?.client();
        match timeout(ANSWER, client.describe(DescribeRequest { from: self.id })).await {
            Ok(Ok(described)) => {
                let described = described.into_inner();
                if described.feature_level >= level {
                    return Ok(());
                }
                Err(format!(
                    "controller {name} (version {} reads level {})",
                    described.version, described.feature_level
                ))
            }
            Ok(Err(_)) | Err(_) => {
                self.peers.forget(id);
                Err(format!("controller {name} (it does not answer)"))
            }
        }
    }
}
