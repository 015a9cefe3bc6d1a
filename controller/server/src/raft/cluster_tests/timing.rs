//! The timing follows what is measured, at all controllers and while they run.

use super::*;

fn heartbeats(cluster: &Cluster) -> Vec<u128> {
    cluster.running().into_iter().map(|at| cluster.consensus(at).timing().timing.heartbeat.as_millis()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_way_that_becomes_longer_makes_all_more_patient_and_a_restart_does_not_forget_it() {
    let mut cluster = Cluster::start().await;
    let leader = cluster.leader().await;
    assert_eq!(heartbeats(&cluster), [100, 100, 100]);
    cluster.as_if.delay.store(80, Ordering::Relaxed);
    let chosen = || {
        let chosen = cluster.consensus(leader).feed().look(pontoon_core::State::chosen_timing)?.heartbeat_ms;
        let all = heartbeats(&cluster).into_iter().all(|heartbeat| heartbeat == u128::from(chosen));
        all.then_some(chosen)
    };
    // A busy machine adds to it.
    let chosen = wait_for("the timing to follow", chosen).await;
    assert!((250..=1_000).contains(&chosen), "{chosen}");
    let timing = cluster.consensus(leader).timing();
    assert_eq!(timing.timing.election_min.as_millis(), 3 * u128::from(chosen));
    assert_eq!(timing.timing.election_max.as_millis(), 5 * u128::from(chosen));
    assert!(timing.auto && timing.warning.is_none(), "{timing:?}");
    assert!(timing.round_trips.values().all(|took| took.as_millis() >= 80), "{timing:?}");

    // A lost leader is replaced, and who comes back is as patient as the others.
    cluster.nodes[leader].take().unwrap().vanish().await;
    let next = cluster.leader().await;
    cluster.consensus(next).proposer().propose(create("after")).await.unwrap();
    cluster.restart(leader).await;
    cluster.all_have(&["after"]).await;
    wait_for("all to be as patient", || {
        heartbeats(&cluster).into_iter().all(|heartbeat| heartbeat >= u128::from(chosen)).then_some(())
    })
    .await;
    cluster.shut_down().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_was_given_times_keeps_them_and_says_when_they_are_too_short() {
    let mut cluster = Cluster::start().await;
    cluster.leader().await;
    // One of three.
    cluster.nodes[0].take().unwrap().shut_down().await;
    cluster.auto_timing = false;
    cluster.restart(0).await;
    cluster.as_if.delay.store(150, Ordering::Relaxed);
    let warning = wait_for("a warning", || cluster.consensus(0).timing().warning).await;
    assert!(warning.contains("heartbeat of 100 ms is shorter than a round trip"), "{warning}");
    // Whoever leads: the others follow what one of them chooses, and all take writes.
    for (at, app) in ["a", "b", "c"].into_iter().enumerate() {
        cluster.consensus(at).proposer().propose(create(app)).await.unwrap();
    }
    cluster.all_have(&["a", "b", "c"]).await;
    assert_eq!(heartbeats(&cluster)[0], 100);
    cluster.as_if.delay.store(0, Ordering::Relaxed);
    wait_for("the warning to go", || cluster.consensus(0).timing().warning.is_none().then_some(())).await;
    cluster.shut_down().await;
}
