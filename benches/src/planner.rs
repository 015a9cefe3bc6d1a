//! A pass of the planner over a settled cluster of a million servos, and what the index that makes it cheap costs.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use pontoon_core::plan::{PlanInput, plan_again, plan_everything};
use pontoon_core::view;
use pontoon_model::Timestamp;

use crate::figure;
use crate::settled::{self, Extent};

const PASSES: u32 = 1_000;

pub(crate) fn run() -> Result<()> {
    let state = settled::state(Extent::MILLION)?;
    let now = Timestamp(state.time().0 + 1);
    let (observed, input) = (settled::observed(&state, now), PlanInput { now, leader_since: Timestamp(0) });
    let mut seen = None;
    let first = timed(|| plan_again(&state, &observed, &input, &mut seen));
    ensure!(first.0.ops.is_empty(), "it is not settled: {:?}", first.0.ops.first());
    let begun = Instant::now();
    for _ in 0..PASSES {
        ensure!(plan_again(&state, &observed, &input, &mut seen).ops.is_empty(), "it is not settled");
    }
    figure::print("plan_pass_settled_million", micros(begun.elapsed() / PASSES), "us");
    figure::print("plan_pass_all_hosts_million", micros(first.1), "us");
    let everything = timed(|| plan_everything(&state, &observed, &input));
    ensure!(everything.0.ops.is_empty(), "it is not settled: {:?}", everything.0.ops.first());
    figure::print("plan_audit_million", everything.1.as_secs_f64(), "s");
    let table = timed(|| view::route_table(&state));
    figure::print("routes_all_million", table.1.as_secs_f64(), "s");
    let changed = settled::with_one_servo_silent(&state)?;
    let after = timed(|| view::route_table_after(&table.0, &state, &changed));
    ensure!(after.0 == view::route_table(&changed), "the routes differ");
    figure::print("routes_one_app_million", micros(after.1), "us");
    Ok(())
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

fn timed<T>(run: impl FnOnce() -> T) -> (T, Duration) {
    let begun = Instant::now();
    let value = run();
    (value, begun.elapsed())
}
