//! What the others see of the reconciler's state.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use pontoon_model::{Assignment, BuildId, BuildSpec, Digest};
use tokio::sync::watch;

use super::Reconciler;
use crate::board::Board;

impl Reconciler {
    pub(super) fn publish(&mut self) {
        let memory = self.journal.memory();
        let assignment = memory.assignment.as_ref();
        let board = Board {
            generation: assignment.map_or(0, |assignment| assignment.generation),
            servos: self.tracks.values().map(|track| (track.servo, Arc::new(track.report.clone()))).collect(),
            one_offs: assignment
                .iter()
                .flat_map(|assignment| &assignment.servos)
                .filter(|spec| spec.one_off)
                .map(|spec| spec.id)
                .collect(),
            builds: assignment
                .iter()
                .flat_map(|assignment| &assignment.builds)
                .map(|spec| (spec.id, memory.ended_builds.get(&spec.id).cloned()))
                .collect(),
        };
        let wanted: BTreeMap<BuildId, BuildSpec> = assignment
            .iter()
            .flat_map(|assignment| &assignment.builds)
            .filter(|spec| !memory.ended_builds.contains_key(&spec.id))
            .map(|spec| (spec.id, spec.clone()))
            .collect();
        let needed = assignment.map(needed).unwrap_or_default();
        replace_if_new(&self.outlets.needed, needed);
        replace_if_new(&self.outlets.board, board);
        replace_if_new(&self.outlets.builds, wanted);
    }
}

fn replace_if_new<T: PartialEq>(sender: &watch::Sender<Arc<T>>, new: T) {
    sender.send_if_modified(|old| {
        let changed = **old != new;
        if changed {
            *old = Arc::new(new);
        }
        changed
    });
}

fn needed(assignment: &Assignment) -> BTreeSet<Digest> {
    let bundles = assignment.servos.iter().map(|spec| spec.bundle.digest);
    bundles.chain(assignment.builds.iter().map(|spec| spec.source.digest)).collect()
}
