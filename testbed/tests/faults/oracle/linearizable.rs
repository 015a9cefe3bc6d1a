//! Whether the operations on one key can be put into one order: by `todc-utils`, which implements the algorithm of Wing,
//! Gong and Lowe and depends on nothing. (`porcupine-rs` is faster on long histories, but brings a benchmark harness with
//! plots among its ordinary dependencies; the histories here are cut by key and short.)
//!
//! Neither knows of operations without an answer. They are made certain here, which is exact because every value is
//! written once: a write without an answer that no read saw may be left out, since it can always be put behind
//! everything; one that was seen happened before the first such read returned.

use std::collections::BTreeMap;
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Result, ensure};
use todc_utils::linearizability::WGLChecker;
use todc_utils::linearizability::history::{Action, History};
use todc_utils::specifications::Specification;

use super::{Operation, Value, What};

/// Longest search for an order: some hundred operations with a handful at a time take milliseconds.
const SEARCH: Duration = Duration::from_secs(60);

/// A label: it holds what was written last.
struct Register;

impl Specification for Register {
    type State = Option<Value>;
    type Operation = What;

    fn init() -> Self::State {
        None
    }

    fn apply(operation: &What, state: &Self::State) -> (bool, Self::State) {
        match operation {
            What::Write(value) => (true, Some(*value)),
            What::Read(seen) => (seen == state, *state),
        }
    }
}

/// Fails if there is no order.
pub(super) fn check(operations: &[&Operation]) -> Result<()> {
    let certain = certain(operations);
    if certain.is_empty() {
        return Ok(());
    }
    let count = certain.len();
    let (sender, found) = mpsc::channel();
    std::thread::spawn(move || sender.send(WGLChecker::<Register>::is_linearizable(history(&certain))));
    match found.recv_timeout(SEARCH) {
        Ok(linearizable) => ensure!(linearizable, "not linearizable: {count} operations can be put into no order"),
        Err(error) => anyhow::bail!("whether {count} operations are linearizable was not found out: {error}"),
    }
    Ok(())
}

/// An operation with its beginning and its end.
type Certain = (What, Duration, Duration);

fn certain(operations: &[&Operation]) -> Vec<Certain> {
    let mut first_seen: BTreeMap<Value, Duration> = BTreeMap::new();
    for operation in operations {
        if let (What::Read(Some(value)), Some(returned)) = (operation.what, operation.returned) {
            let first = first_seen.entry(value).or_insert(returned);
            *first = returned.min(*first);
        }
    }
    let end = |operation: &Operation| match operation.what {
        What::Write(value) => operation.returned.or(first_seen.get(&value).copied()),
        What::Read(_) => operation.returned,
    };
    operations.iter().filter_map(|one| Some((one.what, one.called, end(one)?))).collect()
}

fn history(operations: &[Certain]) -> History<What> {
    // Of two at the same moment, beginnings come first: that only makes more of them concurrent.
    let mut actions: Vec<(Duration, bool, usize)> = Vec::with_capacity(2 * operations.len());
    for (at, (_, called, returned)) in operations.iter().enumerate() {
        actions.push((*called, false, at));
        actions.push(((*returned).max(*called), true, at));
    }
    actions.sort_unstable();
    let action = |(_, ends, at): (Duration, bool, usize)| {
        let what = operations[at].0;
        (at, if ends { Action::Response(what) } else { Action::Call(what) })
    };
    History::from_actions(actions.into_iter().map(action).collect())
}
