//! Who the controllers are and how each is, and changes of that.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::extract::State as Context;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use pontoon_api::{Controller, ControllerTiming, ErrorCode, MembershipChanged, TransferLeader};
use pontoon_core::State;
use pontoon_core::command::RevokeMachine;
use pontoon_model::{ControllerId, ControllerName, MachineRole, MemoryBytes, SiteName};
use pontoon_proto::{MeasuredReply, MembershipRequest};
use serde::Deserialize;
use tokio::time::{Instant, sleep};

use super::Api;
use super::error::{ApiError, ApiResult};
use super::extract::{Json, Key, Path, Query, Snapshot};
use crate::members::MembersError;
use crate::peers::{Answer, inspect, inspect_all, measure_all};
use crate::raft::MemberStatus;

/// Then the answer says how far it is: before a client or what is between gives the request up.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between looks at whether all have the bundles.
const LOOK: Duration = Duration::from_millis(500);

pub(super) async fn list(Context(api): Context<Api>, Snapshot(state): Snapshot) -> Json<Vec<Controller>> {
    Json(rows(&api, &state).await)
}

/// All controllers, each as it says of itself.
pub(super) async fn rows(api: &Api, state: &State) -> Vec<Controller> {
    let members = api.consensus.members();
    let (mut answers, mut timings) = tokio::join!(ask_all(api), measure_all_others(api));
    let own = inspect(&api.consensus, &api.store, &api.data_dir).await;
    let own = Answer { version: own.version.clone(), said: Some(own), clock_offset: Some(0) };
    answers.insert(api.consensus.id(), own);
    timings.insert(api.consensus.id(), api.consensus.timing().into());
    let leader = members.iter().find(|member| member.role == "leader").map(|member| member.id);
    let end = leader.and_then(|leader| answers.get(&leader)?.said.as_ref().map(|said| said.last));
    let mut rows: Vec<Controller> = state
        .controllers()
        .map(|row| {
            let member = members.iter().find(|member| member.id == row.id);
            let answer = answers.get(&row.id);
            let said = answer.and_then(|answer| answer.said.as_ref());
            Controller {
                id: row.id.to_string(),
                name: row.name.to_string(),
                site: row.site.clone(),
                role: member.map_or("removed", |member| member.role).to_owned(),
                grpc: row.grpc.to_string(),
                rest: row.rest.to_string(),
                matched: member.and_then(|member| member.matched),
                reachable: answer.is_some(),
                version: answer.map(|answer| answer.version.clone()),
                term: said.map(|said| said.term),
                applied: said.map(|said| said.applied),
                lag: said.and_then(|said| Some(end?.saturating_sub(said.applied))),
                free_disk: said.map(|said| MemoryBytes(said.free_disk)),
                feature_level: said.map(|said| said.feature_level),
                clock_offset_ms: answer.and_then(|answer| answer.clock_offset),
                missing_blobs: said.map(|said| said.missing_blobs),
                timing: timings.get(&row.id).map(|said| timing(row.id, said, leader.and_then(|id| timings.get(&id)))),
                warnings: timings
                    .get(&row.id)
                    .and_then(|said| too_short(row.name.as_str(), said))
                    .into_iter()
                    .collect(),
            }
        })
        .collect();
    warn_of_shared_sites(&mut rows);
    rows
}

async fn measure_all_others(api: &Api) -> BTreeMap<ControllerId, MeasuredReply> {
    measure_all(api.consensus.id(), &api.members.peers.others()).await.into_iter().collect()
}

/// The timing that a controller told of, and what the leader has measured of it.
fn timing(id: ControllerId, said: &MeasuredReply, leader: Option<&MeasuredReply>) -> ControllerTiming {
    let round_trips = leader.map(|leader| leader.round_trips_us.as_slice()).unwrap_or_default();
    ControllerTiming {
        auto: said.auto,
        heartbeat_ms: said.heartbeat_us / 1_000,
        election_min_ms: said.election_min_us / 1_000,
        election_max_ms: said.election_max_us / 1_000,
        flush_us: said.flush_us,
        round_trip_us: round_trips.iter().find(|(measured, _)| *measured == id).map(|(_, took)| *took),
    }
}

/// The sentence of a controller whose timing is too short.
fn too_short(name: &str, said: &MeasuredReply) -> Option<String> {
    said.warning.as_ref().map(|warning| format!("the timing of controller {name} is too short: {warning}"))
}

async fn ask_all(api: &Api) -> BTreeMap<ControllerId, Answer> {
    let asked = inspect_all(api.consensus.id(), &api.members.peers.others()).await;
    asked.into_iter().filter_map(|seen| Some((seen.id, seen.answer?))).collect()
}

pub(super) fn is_voter(row: &Controller) -> bool {
    row.role == "leader" || row.role == "voter"
}

/// How many more voters answer than a majority takes; none: too few do.
pub(super) fn to_spare(rows: &[Controller]) -> Option<usize> {
    let voters = rows.iter().filter(|row| is_voter(row)).count();
    rows.iter().filter(|row| is_voter(row) && row.reachable).count().checked_sub(voters / 2 + 1)
}

/// What to do about one that does not answer. Where too few voters do, nobody can be removed.
pub(super) fn mend(row: &Controller, rows: &[Controller]) -> String {
    match to_spare(rows) {
        Some(_) => format!("start it, or `pontoon controller remove {}` if it is gone for good", row.name),
        None => "start it; if too many are gone for good, `pontoon controller recover --from-this-copy --config FILE` on one \
                 that is left makes its copy the cluster"
            .to_owned(),
    }
}

/// Voters in one site are lost together with it.
fn warn_of_shared_sites(rows: &mut [Controller]) {
    let voters = rows.iter().filter(|row| is_voter(row)).count();
    let mut sites: BTreeMap<SiteName, Vec<String>> = BTreeMap::new();
    for row in rows.iter().filter(|row| is_voter(row)) {
        sites.entry(row.site.clone()).or_default().push(row.name.clone());
    }
    for row in rows.iter_mut().filter(|row| is_voter(row)) {
        let Some(together) = sites.get(&row.site).filter(|together| together.len() > 1) else { continue };
        let left = voters - together.len();
        let then = match left > voters / 2 {
            true => "the others go on",
            false => "nothing can be changed until it is back",
        };
        row.warnings.push(format!(
            "{} are all in site {}: when it fails, {left} of {voters} voters are left, and {then}",
            together.join(", "),
            row.site
        ));
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct HowToRemove {
    #[serde(default)]
    force: bool,
    /// Its key stays one of the cluster's.
    #[serde(default)]
    keep_trust: bool,
}

/// Removes a member, and then revokes its key: who is no controller any more shall not be able to speak as one.
pub(super) async fn remove(
    Context(api): Context<Api>,
    key: Key,
    Path(name): Path<ControllerName>,
    Query(HowToRemove { force, keep_trust }): Query<HowToRemove>,
) -> ApiResult<Response> {
    let members = api.consensus.members();
    if !force && members.iter().any(|member| member.name == name && votes(member)) {
        let stay: Vec<ControllerId> =
            members.iter().filter(|member| member.name != name && votes(member)).map(|member| member.id).collect();
        if let Some(how_far) = until_whole(&api, &stay).await {
            return Ok(goes_on(format!(
                "before {name} goes, a majority of the others must have its bundles: {how_far}"
            )));
        }
    }
    let shut_out = RevokeMachine { role: MachineRole::Controller, name: name.to_string() };
    let belongs = |api: &Api| {
        api.feed.snapshot().trust().machine(MachineRole::Controller, &shut_out.name).is_some() && !keep_trust
    };
    match api.members.carry_out(&MembershipRequest::Remove { name, force }, PATIENCE).await {
        Ok(()) => {}
        // Removed by a try whose answer was lost, or with its key kept: what is left to do is that.
        Err(MembersError::Unknown(_)) if belongs(&api) => {}
        other => return carried_out(other),
    }
    // The certificate of one that was given it elsewhere is in no list, until it is renewed.
    let revoked = belongs(&api);
    if revoked {
        api.propose(key, shut_out).await?;
    }
    Ok(Json(MembershipChanged { done: true, how_far: None, revoked }).into_response())
}

pub(super) async fn promote(Context(api): Context<Api>, Path(name): Path<ControllerName>) -> ApiResult<Response> {
    let members = api.consensus.members();
    let learner = members.iter().find(|member| member.name == name && !votes(member)).map(|member| member.id);
    if let Some(how_far) = until_whole(&api, learner.as_slice()).await {
        return Ok(goes_on(format!("before {name} votes, it must have all bundles: {how_far}")));
    }
    carry_out(&api, MembershipRequest::Promote { name }).await
}

pub(super) async fn transfer(
    Context(api): Context<Api>,
    Json(TransferLeader { to }): Json<TransferLeader>,
) -> ApiResult<Response> {
    carry_out(&api, MembershipRequest::Transfer { to }).await
}

fn votes(member: &MemberStatus) -> bool {
    member.role != "learner"
}

/// Waits until a majority of `these` have every source and bundle that the state refers to; if that takes longer, says who
/// lacks what. If too few answer there is nothing to wait for: whether enough live is for the leader to judge.
async fn until_whole(api: &Api, these: &[ControllerId]) -> Option<String> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let answers = ask_all(api).await;
        let (mut lacking, mut answered) = (Vec::new(), 0);
        for member in api.consensus.members().iter().filter(|member| these.contains(&member.id)) {
            let missing = match answers.get(&member.id) {
                Some(answer) => answer.said.as_ref().map_or(0, |said| said.missing_blobs),
                None if member.id == api.consensus.id() => {
                    inspect(&api.consensus, &api.store, &api.data_dir).await.missing_blobs
                }
                None => continue,
            };
            answered += 1;
            if missing > 0 {
                lacking.push(format!("{} still fetches {missing}", member.name));
            }
        }
        let majority = these.len() / 2 + 1;
        if answered < majority || answered - lacking.len() >= majority {
            return None;
        }
        if Instant::now() >= deadline {
            return Some(lacking.join(", "));
        }
        sleep(LOOK).await;
    }
}

async fn carry_out(api: &Api, request: MembershipRequest) -> ApiResult<Response> {
    carried_out(api.members.carry_out(&request, PATIENCE).await)
}

fn carried_out(result: Result<(), MembersError>) -> ApiResult<Response> {
    match result {
        Ok(()) => Ok(Json(MembershipChanged { done: true, how_far: None, revoked: false }).into_response()),
        Err(MembersError::Refused(why)) => Err(ApiError::new(ErrorCode::Conflict, why)),
        Err(MembersError::Unknown(why)) => Err(ApiError::not_found(why)),
        Err(MembersError::NoLeader(why)) => Err(ApiError::unavailable(why)),
        Err(MembersError::NotDone(how_far)) => Ok(goes_on(how_far)),
    }
}

fn goes_on(how_far: String) -> Response {
    (StatusCode::ACCEPTED, Json(MembershipChanged { done: false, how_far: Some(how_far), revoked: false }))
        .into_response()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::rest) fn row(name: &str, site: &str, role: &str) -> Controller {
        Controller {
            id: name.into(),
            name: name.into(),
            site: site.parse().unwrap(),
            role: role.into(),
            grpc: String::new(),
            rest: String::new(),
            matched: None,
            reachable: true,
            version: None,
            term: None,
            applied: None,
            lag: None,
            free_disk: None,
            feature_level: None,
            clock_offset_ms: None,
            missing_blobs: None,
            timing: None,
            warnings: Vec::new(),
        }
    }

    fn warnings(rows: &[(&str, &str, &str)]) -> Vec<String> {
        let mut rows: Vec<_> = rows.iter().map(|(name, site, role)| row(name, site, role)).collect();
        warn_of_shared_sites(&mut rows);
        rows.into_iter().flat_map(|row| row.warnings).collect()
    }

    #[test]
    fn a_timing_is_shown_with_what_the_leader_measured() {
        let said = MeasuredReply {
            flush_us: 7,
            heartbeat_us: 250_000,
            election_min_us: 750_000,
            election_max_us: 1_250_000,
            auto: false,
            round_trips_us: vec![(ControllerId(1), 5)],
            warning: Some("it is".into()),
        };
        let leader = MeasuredReply { round_trips_us: vec![(ControllerId(2), 80_000)], ..said.clone() };
        let shown = timing(ControllerId(2), &said, Some(&leader));
        assert_eq!((shown.round_trip_us, shown.election_max_ms, shown.flush_us), (Some(80_000), 1_250, 7));
        assert_eq!(timing(ControllerId(1), &leader, Some(&leader)).round_trip_us, None);
        assert_eq!(too_short("b", &said).unwrap(), "the timing of controller b is too short: it is");
    }

    #[test]
    fn voters_that_fail_together_are_named_with_what_is_left() {
        assert!(warnings(&[("a", "x", "leader"), ("b", "y", "voter"), ("c", "y", "learner")]).is_empty());
        let two = warnings(&[("a", "x", "leader"), ("b", "y", "voter"), ("c", "y", "voter")]);
        assert_eq!(two.len(), 2, "one for each");
        assert_eq!(
            two[0],
            "b, c are all in site y: when it fails, 1 of 3 voters are left, and nothing can be changed until it is back"
        );
        let five =
            [("a", "x", "leader"), ("b", "y", "voter"), ("c", "y", "voter"), ("d", "z", "voter"), ("e", "w", "voter")];
        assert!(warnings(&five)[0].ends_with("3 of 5 voters are left, and the others go on"));
    }
}
