//! What is in the way of upgrading Pontoon itself.

use std::collections::BTreeMap;

use axum::extract::State as Context;
use pontoon_api::{Controller, RunningVersion, Upgrade};
use pontoon_core::State;
use pontoon_model::{HostState, MachineRole};

use super::Api;
use super::controllers::{self, is_voter, mend};
use super::extract::{Json, Snapshot};
use crate::peers::connected_all;

/// A controller that is upgraded is away for a while: of three voters two go on, of two none do.
const VOTERS: usize = 3;

/// Entries a controller may lack and still be caught up: what is written while it answers.
pub(super) const LAG: u64 = 5_000;

/// With less free, a controller may come back with a full disk: a start writes a snapshot and its log's journal, and the
/// next binary lies beside the one before.
pub(super) const FREE: u64 = 512 * 1024 * 1024;

type Versions = BTreeMap<(MachineRole, String), Option<String>>;

pub(super) async fn check(Context(api): Context<Api>, Snapshot(state): Snapshot) -> Json<Upgrade> {
    let others = api.members.peers.others();
    let (rows, told) = tokio::join!(controllers::rows(&api, &state), connected_all(api.consensus.id(), &others));
    let machines = told.into_iter().chain([api.connected.list()]).flat_map(|reply| reply.machines);
    let connected: Versions = machines.map(|machine| ((machine.role, machine.name), machine.version)).collect();
    Json(upgrade(&state, rows, &connected))
}

fn upgrade(state: &State, controllers: Vec<Controller>, connected: &Versions) -> Upgrade {
    let mut running: Vec<RunningVersion> = controllers
        .iter()
        .map(|row| RunningVersion {
            role: MachineRole::Controller.label().to_owned(),
            name: row.name.clone(),
            version: row.version.clone(),
            connected: row.reachable,
            feature_level: row.feature_level,
        })
        .collect();
    let hosts = state.hosts_that_belong().map(|host| (MachineRole::Agent, host.name.to_string()));
    let balancers = state.balancers().map(|balancer| (MachineRole::Balancer, balancer.name.to_string()));
    running.extend(hosts.chain(balancers).map(|(role, name)| {
        let session = connected.get(&(role, name.clone()));
        RunningVersion {
            role: role.label().to_owned(),
            name,
            version: session.cloned().flatten(),
            connected: session.is_some(),
            feature_level: None,
        }
    }));
    Upgrade {
        feature_level: state.feature_level(),
        obstacles: obstacles(state, &controllers),
        warnings: warnings(state, &controllers),
        running,
    }
}

/// What must be mended first.
fn obstacles(state: &State, controllers: &[Controller]) -> Vec<String> {
    let mut found = Vec::new();
    let voters = controllers.iter().filter(|row| is_voter(row)).count();
    if !controllers.iter().any(|row| row.role == "leader") {
        found.push(
            "no controller leads: `pontoon status` says why, and nothing is to be upgraded until one does".to_owned(),
        );
    }
    if voters < VOTERS {
        found.push(format!(
            "{voters} of the controllers vote, and while one of them is upgraded nothing can be changed: let others join until \
             {VOTERS} do (`pontoon controller join`)"
        ));
    }
    for row in controllers {
        let name = &row.name;
        if !row.reachable {
            found.push(format!(
                "controller {name} does not answer: upgrading another would leave one less; {}",
                mend(row, controllers)
            ));
            continue;
        }
        if let Some(lag) = row.lag.filter(|lag| *lag > LAG) {
            found.push(format!("controller {name} lacks {lag} entries of the log: wait until it has caught up"));
        }
        if let Some(missing) = row.missing_blobs.filter(|missing| *missing > 0) {
            found
                .push(format!("controller {name} still fetches {missing} sources and bundles: wait until it has them"));
        }
        if let Some(free) = row.free_disk.filter(|free| free.0 < FREE) {
            found.push(format!(
                "controller {name} has {free} free on its disk, and {} MiB are needed: make room",
                FREE / (1024 * 1024)
            ));
        }
    }
    if state.trust().authorities().len() > 1 {
        found.push(
            "the certificate authority is being changed: wait until `pontoon ca status` names nobody who is behind, then \
             `pontoon ca retire`"
                .to_owned(),
        );
    }
    found
}

/// What does not forbid it, and is better known before.
fn warnings(state: &State, controllers: &[Controller]) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for warning in controllers.iter().flat_map(|row| &row.warnings) {
        // Controllers that are in the same place say the same.
        if !found.contains(warning) {
            found.push(warning.clone());
        }
    }
    let newest = controllers.iter().filter_map(|row| row.feature_level).max().unwrap_or(state.feature_level());
    if newest > state.feature_level() {
        let behind = |row: &&Controller| row.feature_level.is_none_or(|level| level < newest);
        let names: Vec<&str> = controllers.iter().filter(behind).map(|row| row.name.as_str()).collect();
        found.push(match names.is_empty() {
            true => format!("the feature level is about to rise from {} to {newest}", state.feature_level()),
            false => format!(
                "the feature level is {} and not {newest}: it is held back by {} and rises by itself once all can read it; until \
                 then every controller can go back to the version before",
                state.feature_level(),
                names.join(", ")
            ),
        });
    }
    let silent = state.hosts_that_belong().filter(|host| host.state != HostState::Up);
    found.extend(
        silent.map(|host| format!("host {} in {} is silent: its agent cannot be upgraded now", host.name, host.site)),
    );
    found
}

#[cfg(test)]
mod tests {
    use pontoon_model::MemoryBytes;

    use super::*;
    use crate::rest::controllers::tests::row;

    /// Three that are well, in three sites.
    fn three() -> Vec<Controller> {
        let well = |(name, site, role): (&str, &str, &str)| Controller {
            version: Some("0.1.0".into()),
            feature_level: Some(1),
            lag: Some(0),
            missing_blobs: Some(0),
            free_disk: Some(MemoryBytes(8 * FREE)),
            ..row(name, site, role)
        };
        [("north", "n", "leader"), ("east", "e", "voter"), ("west", "w", "voter")].map(well).into()
    }

    #[test]
    fn nothing_is_in_the_way_of_three_that_are_well() {
        let checked = upgrade(&State::default(), three(), &BTreeMap::new());
        assert_eq!((checked.obstacles.as_slice(), checked.warnings.as_slice()), (&[][..], &[][..]));
        assert_eq!(checked.running.len(), 3);
        assert!(checked.running.iter().all(|one| one.connected && one.version.as_deref() == Some("0.1.0")));
    }

    #[test]
    fn each_obstacle_is_said_with_what_to_do() {
        type Break = fn(&mut Vec<Controller>);
        let cases: [(Break, &str); 6] = [
            (|rows| rows[0].role = "voter".into(), "no controller leads"),
            (|rows| rows[2].role = "learner".into(), "2 of the controllers vote"),
            (|rows| rows[1].reachable = false, "controller east does not answer"),
            (|rows| rows[1].lag = Some(LAG + 1), "east lacks 5001 entries"),
            (|rows| rows[2].missing_blobs = Some(2), "west still fetches 2"),
            (|rows| rows[2].free_disk = Some(MemoryBytes(FREE - 1)), "512 MiB are needed"),
        ];
        for (break_it, part) in cases {
            let mut rows = three();
            break_it(&mut rows);
            let said = upgrade(&State::default(), rows, &BTreeMap::new()).obstacles;
            assert!(said.len() == 1 && said[0].contains(part), "{part}: {said:?}");
        }
    }

    #[test]
    fn who_holds_the_level_back_is_named_and_forbids_nothing() {
        let mut rows = three();
        rows[0].feature_level = Some(2);
        rows[1].feature_level = None;
        let checked = upgrade(&State::default(), rows, &BTreeMap::new());
        assert!(checked.obstacles.is_empty());
        assert!(
            checked.warnings[0].contains("is 1 and not 2: it is held back by east, west"),
            "{:?}",
            checked.warnings
        );
    }
}
