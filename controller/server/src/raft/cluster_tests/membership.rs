//! Controllers join, are promoted, removed, and hand leadership over, while somebody writes.

use std::collections::BTreeSet;
use std::sync::Mutex;

use super::*;
use crate::members::{self, Members, MembersError};
use pontoon_core::command::RegisterController;
use pontoon_proto::MembershipRequest as Ask;

/// Proposes commands through whichever controllers run, each until one of them has acknowledged it.
struct Writer {
    through: Arc<Mutex<Vec<Proposer>>>,
    stop: CancellationToken,
    written: Arc<AtomicU32>,
    writing: JoinHandle<Vec<String>>,
}

impl Writer {
    fn start(cluster: &Cluster) -> Self {
        let through = cluster.running().into_iter().map(|at| cluster.consensus(at).proposer());
        let through = Arc::new(Mutex::new(through.collect::<Vec<_>>()));
        let (stop, written) = (CancellationToken::new(), Arc::new(AtomicU32::new(0)));
        let (proposers, stopped, count) = (through.clone(), stop.clone(), written.clone());
        let writing = tokio::spawn(async move {
            let mut acknowledged = Vec::new();
            while !stopped.is_cancelled() {
                let app = format!("w-{}", acknowledged.len());
                let mut key = None;
                for at in 0_usize.. {
                    let proposer = {
                        let all = proposers.lock().unwrap();
                        all[at % all.len()].clone()
                    };
                    let key = *key.get_or_insert_with(|| proposer.fresh_key());
                    let stamped = Stamped { key, command: create(&app) };
                    match proposer.propose_stamped(vec![stamped]).await {
                        Ok((outcomes, _)) => {
                            assert_eq!(outcomes, [Ok(Reply::Done)], "{app}");
                            break;
                        }
                        Err(error) => assert!(at < 100, "{app}: {error}"),
                    }
                }
                acknowledged.push(app);
                count.fetch_add(1, Ordering::Relaxed);
            }
            acknowledged
        });
        Self { through, stop, written, writing }
    }

    /// Waits until some more are acknowledged: the writer goes on in this state of things.
    async fn more(&self) {
        let before = self.written.load(Ordering::Relaxed);
        let more = || (self.written.load(Ordering::Relaxed) >= before + 10).then_some(());
        wait_for("more writes", more).await;
    }

    /// Writes go through these from now on.
    fn through(&self, cluster: &Cluster) {
        let proposers = cluster.running().into_iter().map(|at| cluster.consensus(at).proposer());
        *self.through.lock().unwrap() = proposers.collect();
    }

    /// Ends it; every write that was acknowledged must be in the state of every controller that runs.
    async fn finish(self, cluster: &Cluster) {
        self.stop.cancel();
        let acknowledged = timeout(BOUND, self.writing).await.unwrap().unwrap();
        cluster.all_have(&acknowledged.iter().map(String::as_str).collect::<Vec<_>>()).await;
    }
}

impl Cluster {
    /// Starts a new controller with an empty store that is to be let in.
    async fn newcomer(&mut self) -> usize {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (at, grpc) = (self.members.len(), listener.local_addr().unwrap());
        let id = ControllerId((at as u64 + 1) * 1_000);
        self.members.push(Member { id, name: format!("controller-{}", at + 1).parse().unwrap(), grpc });
        let config = self.config(at);
        self.nodes.push(Some(Node::start(config, listener, self.as_if.clone()).await));
        at
    }

    async fn join(&mut self, voter: bool) -> usize {
        let at = self.newcomer().await;
        let entering = members::join(self.consensus(at), self.members[at].grpc, voter, std::future::ready(()));
        timeout(BOUND, entering).await.expect("in time").unwrap();
        self.announce(at).await;
        at
    }

    async fn announce(&self, at: usize) {
        let member = &self.members[at];
        let row = RegisterController {
            id: member.id,
            name: member.name.clone(),
            site: "x".parse().unwrap(),
            grpc: member.grpc,
            rest: member.grpc,
        };
        self.consensus(at).proposer().propose(row.into()).await.unwrap();
    }

    async fn ask(&self, through: usize, request: Ask) -> Result<(), MembersError> {
        let consensus = self.consensus(through);
        let asked = Members {
            own: self.members[through].name.clone(),
            id: consensus.id(),
            queue: consensus.membership(),
            leadership: consensus.leadership(),
            peers: consensus.peers(),
        };
        asked.carry_out(&request, BOUND).await
    }

    fn named(&self, at: usize) -> pontoon_model::ControllerName {
        self.members[at].name.clone()
    }

    fn remove(&self, at: usize) -> Ask {
        Ask::Remove { name: self.named(at), force: false }
    }

    /// Removes `at`, asked of `through`, and waits until it has noticed that; then it ends, as its process would.
    async fn remove_and_end(&mut self, at: usize, through: usize) {
        self.ask(through, self.remove(at)).await.unwrap();
        let noticing = members::removed(self.consensus(at), self.members[at].grpc);
        let Ok(why) = timeout(BOUND, noticing).await else {
            let standing = self.consensus(through).membership().standing(self.members[at].id);
            let (out, by) = (self.consensus(at), self.consensus(through));
            panic!(
                "{at} does not notice: {:?} {:?} {:?} {:?} {:?}, {:?} {:?}",
                out.position(),
                *out.leadership().borrow(),
                out.members(),
                standing,
                by.position(),
                *by.leadership().borrow(),
                by.members()
            );
        };
        assert!(why.contains("was removed"), "{why}");
        self.nodes[at].take().unwrap().vanish().await;
    }

    /// Waits until all that run know `at` as the voters.
    async fn until_vote(&self, at: &[usize]) {
        let wanted: Vec<_> = at.iter().map(|at| self.members[*at].id).collect();
        let right = |node: usize| {
            let mut seen: Vec<_> = voters(self, node).into_iter().map(|(_, id)| id).collect();
            seen.sort();
            seen == wanted
        };
        wait_for("the voters that are wanted", || self.running().into_iter().all(right).then_some(())).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_controller_becomes_three_and_five_and_three_and_one_and_no_acknowledged_write_is_lost() {
    let mut cluster = Cluster::start_with(1, pontoon_core::level::NEWEST).await;
    cluster.leader().await;
    cluster.announce(0).await;
    let writer = Writer::start(&cluster);
    for count in 2..=5 {
        cluster.join(true).await;
        writer.through(&cluster);
        cluster.until_vote(&(0..count).collect::<Vec<_>>()).await;
        writer.more().await;
    }
    // The first two were there from the beginning, and one of them leads most likely: it is asked for its own removal.
    for (removed, through, stay) in
        [(0, 0, vec![1, 2, 3, 4]), (1, 4, vec![2, 3, 4]), (2, 3, vec![3, 4]), (3, 4, vec![4])]
    {
        let stays: Vec<_> = stay.iter().map(|at| cluster.consensus(*at).proposer()).collect();
        *writer.through.lock().unwrap() = stays;
        cluster.remove_and_end(removed, through).await;
        cluster.until_vote(&stay).await;
        writer.more().await;
    }
    writer.finish(&cluster).await;
    let rows: Vec<_> = cluster.consensus(4).feed().snapshot().controllers().map(|row| row.id).collect();
    assert_eq!(rows, [cluster.members[4].id], "those that left are forgotten");
    let last = cluster.ask(4, Ask::Remove { name: cluster.named(4), force: true }).await.unwrap_err();
    assert!(matches!(&last, MembersError::Refused(why) if why.contains("only controller that votes")), "{last}");
    cluster.shut_down().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_learner_follows_is_promoted_and_a_restart_asks_for_nothing() {
    let mut cluster = Cluster::start().await;
    let leader = cluster.leader().await;
    cluster.consensus(leader).proposer().propose(create("before")).await.unwrap();
    let new = cluster.join(false).await;
    cluster.all_have(&["before"]).await;
    cluster.until_vote(&[0, 1, 2]).await;
    let name = cluster.named(new);
    let refused = cluster.ask(new, Ask::Transfer { to: Some(name.clone()) }).await.unwrap_err();
    assert!(matches!(&refused, MembersError::Refused(why) if why.contains("does not vote")), "{refused}");

    cluster.ask((leader + 1) % 3, Ask::Promote { name: name.clone() }).await.unwrap();
    cluster.until_vote(&[0, 1, 2, 3]).await;
    cluster.ask(new, Ask::Promote { name }).await.unwrap();
    cluster.nodes[new].take().unwrap().vanish().await;
    cluster.restart(new).await;
    assert!(cluster.consensus(new).is_settled(), "it does not ask to be let in again");
    cluster.until_vote(&[0, 1, 2, 3]).await;
    let unknown = cluster.ask(0, Ask::Remove { name: "nobody".parse().unwrap(), force: false }).await.unwrap_err();
    assert!(matches!(&unknown, MembersError::Unknown(why) if why.contains("pontoon controllers")), "{unknown}");
    cluster.shut_down().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_learner_whose_store_is_lost_comes_back_as_a_learner() {
    let mut cluster = Cluster::start().await;
    let leader = cluster.leader().await;
    let learner = cluster.join(false).await;
    let old = cluster.members[learner].id;
    cluster.nodes[learner].take().unwrap().vanish().await;
    lose_database(&cluster.data_dir(learner));
    cluster.consensus(leader).proposer().propose(create("meanwhile")).await.unwrap();

    cluster.come_back(learner, cluster.config(learner)).await;
    let new = cluster.consensus(learner).id();
    assert_ne!(new, old, "an id is never used again");
    let alone = |node: usize| {
        let named =
            cluster.consensus(node).members().into_iter().filter(|member| member.name == cluster.named(learner));
        named.map(|member| (member.id, member.role)).eq([(new, "learner")])
    };
    wait_for("the new id instead of the old", || cluster.running().into_iter().all(alone).then_some(())).await;
    cluster.until_vote(&[0, 1, 2]).await;
    cluster.all_have(&["meanwhile"]).await;
    cluster.ask(leader, Ask::Promote { name: cluster.named(learner) }).await.unwrap();
    cluster.shut_down().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_lost_its_store_finds_the_leader_through_any_member_it_knows() {
    let mut cluster = Cluster::start().await;
    cluster.leader().await;
    let joined = cluster.join(true).await;
    cluster.until_vote(&[0, 1, 2, 3]).await;
    cluster.nodes[joined].take().unwrap().vanish().await;
    lose_database(&cluster.data_dir(joined));
    let leader = cluster.leader().await;
    // As it is when all others have come after it.
    let knows = cluster.members[(leader + 1) % 3].clone();
    let config = ConsensusConfig { members: vec![knows, cluster.members[joined].clone()], ..cluster.config(joined) };
    cluster.come_back(joined, config).await;
    cluster.shut_down().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_just_died_counts_for_no_majority_and_does_not_get_to_lead() {
    let mut cluster = Cluster::start().await;
    let leader = cluster.leader().await;
    let dead = (leader + 1) % 3;
    cluster.nodes[dead].take().unwrap().vanish().await;
    // Its last answer is of a moment ago.
    let to = Some(cluster.named(dead));
    let refused = cluster.ask(leader, Ask::Transfer { to }).await.unwrap_err();
    assert!(matches!(&refused, MembersError::Refused(why) if why.contains("cannot lead")), "{refused}");
    assert!(cluster.consensus(leader).leadership().borrow().leading, "nothing was handed over");
    cluster.shut_down().await;

    let mut cluster = Cluster::start().await;
    let leader = cluster.leader().await;
    let (dead, lives) = ((leader + 1) % 3, (leader + 2) % 3);
    cluster.nodes[dead].take().unwrap().vanish().await;
    let refused = cluster.ask(leader, cluster.remove(lives)).await.unwrap_err();
    assert!(matches!(&refused, MembersError::Refused(why) if why.contains("2 of them must live")), "{refused}");
    cluster.consensus(leader).proposer().propose(create("goes-on")).await.unwrap();
    cluster.shut_down().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_or_an_address_that_is_taken_does_not_come_in() {
    let mut cluster = Cluster::start().await;
    cluster.leader().await;
    let at = cluster.newcomer().await;
    let (own, id) = (cluster.members[at].grpc, cluster.consensus(at).id());
    // With the certificate of a member: another machine that calls itself so.
    cluster.nodes[at].take().unwrap().vanish().await;
    cluster.members[at].name = cluster.named(0);
    std::fs::remove_dir_all(cluster.data_dir(at)).unwrap();
    cluster.restart(at).await;
    let refused =
        timeout(BOUND, members::join(cluster.consensus(at), own, true, std::future::ready(()))).await.unwrap();
    let why = refused.unwrap_err();
    assert!(why.contains("already a member") && why.contains(&id.to_string()), "{why}");
    cluster.nodes[at].take().unwrap().vanish().await;
    cluster.until_vote(&[0, 1, 2]).await;
    cluster.shut_down().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leadership_goes_where_it_is_wanted_and_writes_go_on() {
    let cluster = Cluster::start().await;
    let first = cluster.leader().await;
    let writer = Writer::start(&cluster);
    for round in 1..=4 {
        let (to, through) = ((first + round) % 3, (first + 2 * round) % 3);
        cluster.ask(through, Ask::Transfer { to: Some(cluster.named(to)) }).await.unwrap();
        assert_eq!(cluster.leader().await, to);
        writer.more().await;
    }
    let before = cluster.leader().await;
    cluster.ask(before, Ask::Transfer { to: None }).await.unwrap();
    assert_ne!(cluster.leader().await, before);
    writer.finish(&cluster).await;
    cluster.shut_down().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removal_that_leaves_too_few_is_refused_unless_forced_and_the_dead_one_may_go() {
    let mut cluster = Cluster::start().await;
    let leader = cluster.leader().await;
    let (dead, other) = ((leader + 1) % 3, (leader + 2) % 3);
    cluster.announce(dead).await;
    cluster.nodes[dead].take().unwrap().vanish().await;
    // Until its last answer is old it counts as living.
    let queue = cluster.consensus(leader).membership();
    let noticed = || queue.may_be_replaced(&cluster.named(other)).is_err().then_some(());
    wait_for("the leader to notice that one is dead", noticed).await;
    let refused = cluster.ask(other, cluster.remove(other)).await.unwrap_err();
    let MembersError::Refused(why) = refused else { panic!("{refused}") };
    assert!(why.contains("--force") && why.contains("2 of them must live"), "{why}");
    cluster.until_vote(&[0, 1, 2]).await;
    cluster.ask(other, cluster.remove(dead)).await.unwrap();
    let mut stay = vec![leader, other];
    stay.sort_unstable();
    cluster.until_vote(&stay).await;
    assert!(cluster.consensus(leader).feed().snapshot().controllers().next().is_none());
    cluster.consensus(other).proposer().propose(create("after")).await.unwrap();

    // It comes back, not knowing, and finds that it is out.
    cluster.restart(dead).await;
    let noticing = members::removed(cluster.consensus(dead), cluster.members[dead].grpc);
    timeout(BOUND, noticing).await.expect("it notices");
    cluster.shut_down().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_dies_in_the_middle_of_a_change_leaves_nothing_half_done() {
    let mut cluster = Cluster::start_with(5, pontoon_core::level::NEWEST).await;
    let writer = Writer::start(&cluster);
    for round in 0..2 {
        let leader = cluster.leader().await;
        let victim = cluster.running().into_iter().find(|at| *at != leader).unwrap();
        let through = cluster.running().into_iter().find(|at| *at != leader && *at != victim).unwrap();
        let change = Change::Remove { name: cluster.named(victim), force: false };
        let raft = cluster.consensus(leader).raft.clone();
        let asked = cluster.consensus(leader).membership();
        wait_for("the change to be taken", || matches!(asked.ask(&change), Progress::Wait(_)).then_some(())).await;
        if round == 0 {
            // As soon as there are two sets of voters, or one without the victim: whatever comes first.
            let begun = || {
                // Asked again, as whoever wants a change does: on a busy machine leadership may blink, and then the change
                // that was taken is let go.
                cluster.running().into_iter().for_each(|at| drop(cluster.consensus(at).membership().ask(&change)));
                let metrics = raft.metrics();
                let metrics = metrics.borrow_watched();
                let voters = metrics.membership_config.membership();
                (voters.get_joint_config().len() == 2 || voters.voter_ids().count() < 5).then_some(())
            };
            wait_for("the change to begin", begun).await;
        }
        let stays = cluster.running().into_iter().filter(|at| ![leader, victim].contains(at));
        *writer.through.lock().unwrap() = stays.map(|at| cluster.consensus(at).proposer()).collect();
        cluster.nodes[leader].take().unwrap().vanish().await;
        // Asked of whoever leads now: done, or done by it.
        match cluster.ask(through, cluster.remove(victim)).await {
            Ok(()) | Err(MembersError::Unknown(_)) => {}
            Err(error) => panic!("{error}"),
        }
        cluster.nodes[victim].take().unwrap().vanish().await;
        cluster.restart(leader).await;
        let stay = cluster.running();
        cluster.until_vote(&stay).await;
        writer.more().await;
        if round == 0 {
            assert_eq!(stay.len(), 4);
        }
    }
    writer.through(&cluster);
    writer.finish(&cluster).await;
    cluster.shut_down().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_planned_stop_hands_over_to_who_answers_now_not_to_who_did_a_moment_ago() {
    let mut cluster = Cluster::start_with(5, pontoon_core::level::NEWEST).await;
    for _ in 0..2 {
        let leader = cluster.leader().await;
        cluster.consensus(leader).proposer().propose(create(&format!("app-{leader}"))).await.unwrap();
        let consensus = cluster.consensus(leader);
        let all_have_it = || {
            let matched: BTreeSet<_> = consensus.members().iter().map(|member| member.matched).collect();
            handover::successor(&consensus.raft, BOUND).filter(|_| matched.len() == 1)
        };
        let likely = wait_for("a successor of equals", all_have_it).await;
        let at = cluster.members.iter().position(|member| member.id.0 == likely).unwrap();

        cluster.nodes[at].take().unwrap().vanish().await;
        let consensus = cluster.consensus(leader);
        let target = handover::hand_over(&consensus.raft, &consensus.leadership(), &consensus.pace).await;
        assert!(target.is_some_and(|target| target != likely), "handed to {target:?}, and {likely} had just died");
        cluster.restart(at).await;
    }
    cluster.shut_down().await;
}
