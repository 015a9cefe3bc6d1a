//! Disks whose fdatasync takes a tenth of a second and more: the kernel's own throttle of block devices, set for the
//! controller's process and the disk that is its own.

use anyhow::{Context, Result};
use pontoon_testbed::controllers::{Controllers, Kind};
use pontoon_testbed::disk::Slow;
use pontoon_testbed::skip::disks_or_skip;

use crate::workload::Workload;
use crate::{few, rounds, some};

/// Write requests a second. A group commit takes three or four of them, about 100 ms: as long as a heartbeat of the `lan`
/// profile, and below its election timeout, without which no vote would be on disk in time.
const WRITES: u32 = 40;

fn slow(controllers: &Controllers, one: usize) -> Result<Slow> {
    let pid = controllers.processes[one].pid().context("it does not run")?;
    controllers.disks[one].slow(controllers.name(one), pid, WRITES)
}

/// Whether disks can be made slow here; says why not.
fn throttle_or_skip(test: &str, controllers: &Controllers) -> bool {
    match slow(controllers, 0) {
        Ok(_) => true,
        Err(reason) => {
            eprintln!("SKIPPED {test}: {reason:#}");
            false
        }
    }
}

#[test]
fn one_slow_disk_does_not_stop_writes_and_three_only_slow_them_down() -> Result<()> {
    if !disks_or_skip("slow disks") {
        return Ok(());
    }
    let mut controllers = Controllers::start(&Kind { disk_mib: Some(64), ..Kind::of(3) })?;
    if !throttle_or_skip("slow disks", &controllers) {
        return Ok(());
    }
    let workload = Workload::start(&controllers)?;
    for _ in 0..rounds(1, 5) {
        let leader = controllers.until_whole()?;
        for one in [leader, controllers.others(leader)[0]] {
            let slow = slow(&controllers, one)?;
            workload.until_more(some())?;
            drop(slow);
        }
        let all = controllers.all().map(|one| slow(&controllers, one)).collect::<Result<Vec<_>>>()?;
        workload.until_more(some())?;
        // Killed in the middle of a slow flush.
        let leader = controllers.until_led(&controllers.all().collect::<Vec<_>>())?;
        controllers.kill(&[leader])?;
        workload.until_more(few())?;
        drop(all);
        controllers.restart(&[leader])?;
        workload.until_more(few())?;
    }
    workload.finish(&mut controllers).map(drop)
}
