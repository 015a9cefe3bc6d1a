//! SIGSTOP and SIGCONT: a controller that hangs with its connections open, and comes back believing what it believed.

use anyhow::{Result, ensure};
use pontoon_testbed::controllers::{Controllers, Kind};
use pontoon_testbed::until;

use crate::workload::{PATIENCE, Workload};
use crate::{few, rounds, some};

#[test]
fn a_paused_leader_is_replaced_and_believes_no_longer_that_it_leads_when_it_wakes() -> Result<()> {
    let mut controllers = Controllers::start(&Kind::of(3))?;
    let workload = Workload::start(&controllers)?;
    for _ in 0..rounds(2, 10) {
        workload.until_more(some())?;
        let leader = controllers.until_whole()?;
        controllers.processes[leader].pause()?;
        let others = controllers.others(leader);
        controllers.until_led(&others)?;
        workload.until_more(some())?;
        // Its clients' requests of before it slept, and those that came meanwhile, are answered now.
        controllers.processes[leader].resume()?;
        workload.until_more(few())?;
        controllers.until_whole()?;
    }
    workload.finish(&mut controllers).map(drop)
}

#[test]
fn a_paused_follower_is_not_missed_and_a_paused_majority_stops_writes() -> Result<()> {
    let mut controllers = Controllers::start(&Kind::of(3))?;
    let workload = Workload::start(&controllers)?;
    for _ in 0..rounds(1, 5) {
        workload.until_more(some())?;
        let leader = controllers.until_whole()?;
        let followers = controllers.others(leader);
        controllers.processes[followers[0]].pause()?;
        workload.until_more(some())?;
        controllers.processes[followers[1]].pause()?;
        until("the leader to say that it leads no longer", PATIENCE, || {
            let status = controllers.get(leader, "/v1/status")?;
            ensure!(status["leader"].is_null(), "{status}");
            Ok(())
        })?;
        let stuck = workload.acknowledged();
        let status = controllers.get(leader, "/v1/apps/oracle-0/labels?consistency=stale")?;
        ensure!(status.is_object(), "what is there can be read without a majority: {status}");
        ensure!(workload.acknowledged() == stuck, "a write was acknowledged without a majority");
        followers.iter().try_for_each(|one| controllers.processes[*one].resume())?;
        workload.until_more(few())?;
    }
    workload.finish(&mut controllers).map(drop)
}

#[test]
fn all_paused_at_once_go_on_when_they_wake() -> Result<()> {
    let mut controllers = Controllers::start(&Kind::of(3))?;
    let workload = Workload::start(&controllers)?;
    for _ in 0..rounds(1, 10) {
        workload.until_more(some())?;
        controllers.all().try_for_each(|one| controllers.processes[one].pause())?;
        // Longer than any election: each wakes with its deadline passed.
        let asleep = std::time::Instant::now();
        until("two elections' time to pass", PATIENCE, || {
            ensure!(asleep.elapsed() > std::time::Duration::from_secs(2), "{:?}", asleep.elapsed());
            Ok(())
        })?;
        controllers.all().try_for_each(|one| controllers.processes[one].resume())?;
        workload.until_more(few())?;
    }
    workload.finish(&mut controllers).map(drop)
}
