//! kill -9: of any, of a minority, of a majority, of all, and in the middle of a write.

use anyhow::{Context, Result, ensure};
use pontoon_testbed::controllers::{Controllers, Kind};
use pontoon_testbed::until;

use crate::workload::{PATIENCE, Workload};
use crate::{few, rounds, some};

#[test]
fn any_controller_may_be_killed_and_nothing_is_lost() -> Result<()> {
    let mut controllers = Controllers::start(&Kind::of(3))?;
    let workload = Workload::start(&controllers)?;
    for round in 0..rounds(3, 15) {
        workload.until_more(some())?;
        let leader = controllers.until_whole()?;
        // The leader every other time, and each of the followers in between.
        let followers = controllers.others(leader);
        let victim = if round % 2 == 0 { leader } else { followers[round / 2 % 2] };
        controllers.kill(&[victim])?;
        workload.until_more(some())?;
        controllers.restart(&[victim])?;
    }
    workload.finish(&mut controllers).map(drop)
}

#[test]
fn two_killed_of_three_stop_writes_until_one_is_back() -> Result<()> {
    let mut controllers = Controllers::start(&Kind::of(3))?;
    let workload = Workload::start(&controllers)?;
    for round in 0..rounds(1, 10) {
        workload.until_more(some())?;
        let leader = controllers.until_whole()?;
        let left = if round % 2 == 0 { leader } else { controllers.others(leader)[0] };
        let killed = controllers.others(left);
        controllers.kill(&killed)?;
        until_leaderless(&controllers, &[left])?;
        let stuck = workload.acknowledged();
        let (status, labels) = controllers.ask(left, "/v1/apps/oracle-0/labels?consistency=stale")?;
        ensure!(status == 200, "what is there can be read without a majority: {status} {labels}");
        let (status, refusal) = controllers.ask(left, "/v1/apps/oracle-0/labels?consistency=linearizable")?;
        ensure!(status == 503, "what is newest cannot be known without a majority: {status} {refusal}");
        ensure!(workload.acknowledged() == stuck, "a write was acknowledged without a majority");
        controllers.restart(&killed[..1])?;
        workload.until_more(few())?;
        controllers.restart(&killed[1..])?;
    }
    workload.finish(&mut controllers).map(drop)
}

#[test]
fn all_killed_at_once_come_back_with_everything() -> Result<()> {
    let mut controllers = Controllers::start(&Kind::of(3))?;
    let workload = Workload::start(&controllers)?;
    let all: Vec<usize> = controllers.all().collect();
    for _ in 0..rounds(1, 10) {
        workload.until_more(some())?;
        controllers.kill(&all)?;
        controllers.restart(&all)?;
        workload.until_more(few())?;
    }
    workload.finish(&mut controllers).map(drop)
}

#[test]
fn two_killed_of_five_are_not_missed_and_three_are() -> Result<()> {
    let mut controllers = Controllers::start(&Kind::of(5))?;
    let workload = Workload::start(&controllers)?;
    for _ in 0..rounds(1, 5) {
        workload.until_more(some())?;
        let leader = controllers.until_whole()?;
        let others = controllers.others(leader);
        let killed = [leader, others[0]];
        controllers.kill(&killed)?;
        workload.until_more(some())?;
        let third = controllers.until_led(&others[1..])?;
        controllers.kill(&[third])?;
        let left: Vec<usize> = others[1..].iter().copied().filter(|one| *one != third).collect();
        until_leaderless(&controllers, &left)?;
        controllers.restart(&[killed[0], killed[1], third])?;
        workload.until_more(few())?;
    }
    workload.finish(&mut controllers).map(drop)
}

#[test]
fn a_leader_killed_with_writes_on_its_own_disk_only_loses_none_that_was_acknowledged() -> Result<()> {
    let mut controllers = Controllers::start(&Kind::of(3))?;
    let workload = Workload::start(&controllers)?;
    for round in 0..rounds(1, 10) {
        workload.until_more(some())?;
        let leader = controllers.until_whole()?;
        let followers = controllers.others(leader);
        followers.iter().try_for_each(|one| controllers.processes[*one].pause())?;
        controllers.write_and_go_on(leader, &format!("under-way-{round}"));
        until_ahead(&controllers, leader)?;
        controllers.kill(&[leader])?;
        followers.iter().try_for_each(|one| controllers.processes[*one].resume())?;
        // Their clients try again, with the same keys, at a leader that never heard of them.
        workload.until_more(some())?;
        controllers.restart(&[leader])?;
    }
    workload.finish(&mut controllers).map(drop)
}

#[test]
fn a_leader_killed_before_it_hears_that_the_others_have_a_write_does_not_see_it_applied_twice() -> Result<()> {
    let mut controllers = Controllers::start(&Kind { proxied: true, ..Kind::of(3) })?;
    let workload = Workload::start(&controllers)?;
    for round in 0..rounds(1, 10) {
        workload.until_more(some())?;
        let leader = controllers.until_whole()?;
        let followers = controllers.others(leader);
        followers.iter().try_for_each(|one| controllers.cut(*one, leader))?;
        controllers.write_and_go_on(leader, &format!("under-way-{round}"));
        until_ahead(&controllers, leader)?;
        controllers.kill(&[leader])?;
        controllers.heal();
        // The entries are in the others' logs and are committed by the next leader; the retries must find that out.
        workload.until_more(some())?;
        controllers.restart(&[leader])?;
    }
    workload.finish(&mut controllers).map(drop)
}

/// Waits until `leader` has entries of which no other has said that it has them too.
fn until_ahead(controllers: &Controllers, leader: usize) -> Result<()> {
    until("the leader to be ahead of all others", PATIENCE, || {
        let members = controllers.get(leader, "/v1/controllers")?;
        let members = members.as_array().context("not a list")?;
        let matched = |wanted: bool| {
            let these = members.iter().filter(move |member| (member["name"] == controllers.name(leader)) == wanted);
            these.filter_map(|member| member["matched"].as_u64()).max()
        };
        let (own, others) = (matched(true).context("unknown")?, matched(false).context("unknown")?);
        ensure!(own > others, "it is at {own}, another at {others}");
        Ok(())
    })
}

fn until_leaderless(controllers: &Controllers, these: &[usize]) -> Result<()> {
    until("no leader to be seen", PATIENCE, || {
        for &one in these {
            let status = controllers.get(one, "/v1/status")?;
            ensure!(status["leader"].is_null(), "{} follows {}", controllers.name(one), status["leader"]);
        }
        Ok(())
    })
}
