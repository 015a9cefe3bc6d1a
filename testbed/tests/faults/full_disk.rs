//! Disks without room.

use anyhow::{Result, ensure};
use pontoon_testbed::controllers::{Controllers, Kind};
use pontoon_testbed::skip::disks_or_skip;
use pontoon_testbed::until;

use crate::workload::{PATIENCE, Workload};
use crate::{few, rounds, some};

/// Room for the log of a short test.
const MIB: u64 = 64;

#[test]
fn full_disks_refuse_writes_in_so_many_words_and_recover_when_there_is_room() -> Result<()> {
    if !disks_or_skip("full disks") {
        return Ok(());
    }
    let mut controllers = Controllers::start(&Kind { disk_mib: Some(MIB), ..Kind::of(3) })?;
    let workload = Workload::start(&controllers)?;
    for round in 0..rounds(2, 6) {
        workload.until_more(some())?;
        workload.forget_refusals();
        let leader = controllers.until_whole()?;
        let mut order = controllers.others(leader);
        // With a leader that is full last nothing is committed any more before it is found to be full.
        order.insert(if round % 2 == 0 { 0 } else { order.len() }, leader);
        for &one in &order {
            controllers.disks[one].fill()?;
            if round % 2 == 1 && one != leader {
                until_said_to_be_full(&controllers, one, round)?;
            }
        }
        until("a write to be refused because the disk is full", PATIENCE, || {
            let refusals = workload.refusals();
            let full = |(status, why): &&(u16, String)| *status == 507 && why.contains("full");
            ensure!(refusals.iter().find(full).is_some(), "the last refusal: {:?}", refusals.last());
            Ok(())
        })?;
        for one in controllers.all() {
            ensure!(controllers.processes[one].is_running()?, "{} has ended", controllers.name(one));
            let (status, labels) = controllers.ask(one, "/v1/apps/oracle-0/labels?consistency=stale")?;
            ensure!(status == 200, "what is there can be read on a full disk: {status} {labels}");
        }
        controllers.disks.iter().try_for_each(|disk| disk.make_room())?;
        workload.until_more(some())?;
        controllers.until_whole()?;
    }
    workload.finish(&mut controllers).map(drop)
}

/// Waits until `one` has said once in each round so far that its disk is full.
fn until_said_to_be_full(controllers: &Controllers, one: usize, round: usize) -> Result<()> {
    until("the full disk to be noticed", PATIENCE, || {
        let times = controllers.processes[one].log().matches("the disk of the Raft log is full").count();
        ensure!(times > round / 2, "{times} times");
        Ok(())
    })
}

#[test]
fn one_full_disk_is_not_missed_whoever_has_it() -> Result<()> {
    if !disks_or_skip("one full disk") {
        return Ok(());
    }
    let mut controllers = Controllers::start(&Kind { disk_mib: Some(MIB), ..Kind::of(3) })?;
    let workload = Workload::start(&controllers)?;
    for round in 0..rounds(2, 6) {
        workload.until_more(few())?;
        let leader = controllers.until_whole()?;
        let full = if round % 2 == 0 { controllers.others(leader)[0] } else { leader };
        controllers.disks[full].fill()?;
        // Another leads if it was the leader's.
        workload.until_more(some())?;
        controllers.disks[full].make_room()?;
        controllers.until_whole()?;
    }
    workload.finish(&mut controllers).map(drop)
}

#[test]
fn a_controller_killed_with_a_full_disk_starts_again_when_there_is_room() -> Result<()> {
    if !disks_or_skip("killed with a full disk") {
        return Ok(());
    }
    let mut controllers = Controllers::start(&Kind { disk_mib: Some(MIB), ..Kind::of(3) })?;
    let workload = Workload::start(&controllers)?;
    workload.until_more(some())?;
    let leader = controllers.until_whole()?;
    let full = controllers.others(leader)[0];
    controllers.disks[full].fill()?;
    workload.until_more(some())?;
    controllers.kill(&[full])?;
    controllers.disks[full].make_room()?;
    controllers.restart(&[full])?;
    controllers.until_whole()?;
    workload.finish(&mut controllers).map(drop)
}
