//! Links between controllers that are cut: both ways, one way, and so that some reach each other only by others.

use anyhow::{Result, ensure};
use pontoon_testbed::controllers::{Controllers, Kind};
use pontoon_testbed::until;

use crate::workload::{PATIENCE, Workload};
use crate::{rounds, some};

fn proxied(count: usize) -> Result<Controllers> {
    Controllers::start(&Kind { proxied: true, ..Kind::of(count) })
}

#[test]
fn a_leader_cut_off_from_both_others_is_replaced_and_follows_when_it_is_back() -> Result<()> {
    let mut controllers = proxied(3)?;
    let workload = Workload::start(&controllers)?;
    for _ in 0..rounds(2, 10) {
        workload.until_more(some())?;
        let leader = controllers.until_whole()?;
        controllers.isolate(&[leader])?;
        controllers.until_led(&controllers.others(leader))?;
        until("the one that is cut off to say that nobody leads", PATIENCE, || {
            let status = controllers.get(leader, "/v1/status")?;
            ensure!(status["leader"].is_null(), "{status}");
            Ok(())
        })?;
        workload.until_more(some())?;
        controllers.heal();
        controllers.until_whole()?;
    }
    workload.finish(&mut controllers).map(drop)
}

#[test]
fn a_follower_cut_off_comes_back_without_an_election() -> Result<()> {
    let mut controllers = proxied(3)?;
    let workload = Workload::start(&controllers)?;
    let leader = controllers.until_whole()?;
    for follower in controllers.others(leader) {
        controllers.isolate(&[follower])?;
        until("the one that is cut off to miss the leader", PATIENCE, || {
            let status = controllers.get(follower, "/v1/status")?;
            ensure!(status["leader"].is_null(), "{status}");
            Ok(())
        })?;
        workload.until_more(some())?;
        controllers.heal();
        controllers.until_whole()?;
    }
    workload.finish(&mut controllers).map(drop)
}

#[test]
fn a_leader_that_is_heard_by_none_or_hears_none_is_replaced() -> Result<()> {
    let mut controllers = proxied(3)?;
    let workload = Workload::start(&controllers)?;
    for round in 0..rounds(2, 10) {
        workload.until_more(some())?;
        let leader = controllers.until_whole()?;
        let others = controllers.others(leader);
        for &other in &others {
            if round % 2 == 0 { controllers.cut(leader, other)? } else { controllers.cut(other, leader)? }
        }
        // One that hears none sends signs of life that keep the others quiet until it gives up itself.
        controllers.until_led(&others)?;
        workload.until_more(some())?;
        controllers.heal();
        controllers.until_whole()?;
    }
    workload.finish(&mut controllers).map(drop)
}

#[test]
fn two_that_reach_each_other_only_by_the_third_go_on() -> Result<()> {
    let mut controllers = proxied(3)?;
    let workload = Workload::start(&controllers)?;
    for _ in 0..rounds(1, 5) {
        let leader = controllers.until_whole()?;
        let others = controllers.others(leader);
        // Once with the leader as the bridge, once with the leader at an end.
        for [one, other] in [[others[0], others[1]], [leader, others[0]]] {
            controllers.cut(one, other)?;
            controllers.cut(other, one)?;
            workload.until_more(some())?;
            controllers.heal();
            controllers.until_whole()?;
        }
    }
    workload.finish(&mut controllers).map(drop)
}

#[test]
fn of_five_two_pairs_go_on_over_the_one_that_reaches_both() -> Result<()> {
    let mut controllers = proxied(5)?;
    let workload = Workload::start(&controllers)?;
    for _ in 0..rounds(1, 5) {
        workload.until_more(some())?;
        let leader = controllers.until_whole()?;
        let others = controllers.others(leader);
        // The leader is in a pair, so that the other pair loses it.
        let ([one, two], [three, four]) = ([leader, others[0]], [others[2], others[3]]);
        for (a, b) in [(one, three), (one, four), (two, three), (two, four)] {
            controllers.cut(a, b)?;
            controllers.cut(b, a)?;
        }
        workload.until_more(some())?;
        controllers.heal();
        controllers.until_whole()?;
    }
    workload.finish(&mut controllers).map(drop)
}

#[test]
fn a_minority_of_five_that_is_cut_off_with_the_leader_acknowledges_nothing() -> Result<()> {
    let mut controllers = proxied(5)?;
    let workload = Workload::start(&controllers)?;
    for _ in 0..rounds(1, 5) {
        workload.until_more(some())?;
        let leader = controllers.until_whole()?;
        let others = controllers.others(leader);
        controllers.isolate(&[leader, others[0]])?;
        controllers.until_led(&others[1..])?;
        workload.until_more(some())?;
        controllers.heal();
        controllers.until_whole()?;
    }
    workload.finish(&mut controllers).map(drop)
}
