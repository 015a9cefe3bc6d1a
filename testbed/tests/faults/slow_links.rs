//! Links between controllers that become longer while they work: the timing follows.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pontoon_testbed::controllers::{Controllers, Kind};
use pontoon_testbed::until;

use crate::few;
use crate::workload::{PATIENCE, Workload};

/// In each direction: the 80 ms of round trip that `wan` stands for.
const FAR: Duration = Duration::from_millis(40);

/// The heartbeat of each in milliseconds; all must answer.
fn heartbeats(controllers: &Controllers) -> Result<Vec<u64>> {
    let rows = controllers.get(0, "/v1/controllers")?;
    let rows = rows.as_array().context("no list")?;
    ensure!(rows.len() == controllers.count(), "{rows:?}");
    rows.iter().map(|row| row["timing"]["heartbeat_ms"].as_u64().with_context(|| format!("{row}"))).collect()
}

#[test]
fn the_timing_follows_a_way_that_becomes_longer_and_a_lost_leader_is_replaced_by_it() -> Result<()> {
    let mut controllers = Controllers::start(&Kind { proxied: true, ..Kind::of(3) })?;
    let workload = Workload::start(&controllers)?;
    workload.until_more(few())?;
    controllers.delay(FAR);
    until("all to be as patient as the way is long", PATIENCE, || {
        let heartbeats = heartbeats(&controllers)?;
        ensure!(heartbeats.iter().all(|ms| (250..=1_000).contains(ms)), "{heartbeats:?}");
        let rows = controllers.get(0, "/v1/controllers")?;
        let trips =
            rows.as_array().context("no list")?.iter().filter_map(|row| row["timing"]["round_trip_us"].as_u64());
        let trips: Vec<u64> = trips.collect();
        ensure!(trips.len() == 2 && trips.iter().all(|us| *us >= 80_000), "{rows}");
        Ok(())
    })?;
    workload.until_more(few())?;
    let leader = controllers.until_whole()?;
    controllers.kill(&[leader])?;
    controllers.until_led(&controllers.others(leader))?;
    workload.until_more(few())?;
    controllers.restart(&[leader])?;
    workload.until_more(few())?;
    workload.finish(&mut controllers).map(drop)
}
