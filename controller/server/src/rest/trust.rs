//! Tokens to join with, machines, revocation, the certificate authority.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State as Context;
use axum::response::IntoResponse;
use pontoon_api::ErrorCode;
use pontoon_api::trust::{Authority, Ca, CreateJoinToken, JoinToken, Machine, RetireAuthority};
use pontoon_core::{State, command};
use pontoon_enrol::role_of;
use pontoon_kit::pki::{Fingerprint, JoinText};
use pontoon_model::{Digest, MachineRole, SiteName};

use super::Api;
use super::change::Applied;
use super::error::{ApiError, ApiResult};
use super::extract::{Json, Key, Path, Snapshot, state_at};
use crate::raft::StateFeed;
use crate::trust::{SignError, next_authority};

/// Life of a token that is made without one: long enough to set a machine up, too short to be found later.
const TOKEN_LIFE: Duration = Duration::from_secs(24 * 3600);

pub(super) async fn create_token(
    Context(api): Context<Api>,
    key: Key,
    Json(body): Json<CreateJoinToken>,
) -> ApiResult<impl IntoResponse> {
    let state = api.feed.snapshot();
    let signing = state.trust().signing().ok_or_else(|| ApiError::from(SignError::NotFounded))?;
    let text = JoinText::make(role_of(body.role), Fingerprint(signing.fingerprint.0));
    let secret = Digest(JoinText::hash_of(&text.secret));
    let life = body.ttl_s.map_or(TOKEN_LIFE, Duration::from_secs);
    let uses = body.uses.unwrap_or(1);
    let create = command::CreateJoinToken { secret, role: body.role, site: body.site.clone(), life, uses };
    let (_, index) = api.propose(key, create).await?;
    let made = state_at(&api.feed, index).await?;
    let row = made.trust().token(&secret).map(|row| token(&api.feed, row));
    let row = row.ok_or_else(|| {
        ApiError::unavailable("the token was made, but its text was in an earlier answer, which is lost; make another")
    })?;
    Ok(Applied { index, body: JoinToken { token: Some(text.to_string()), ..row } })
}

pub(super) async fn tokens(Context(api): Context<Api>, Snapshot(state): Snapshot) -> Json<Vec<JoinToken>> {
    Json(state.trust().tokens().map(|row| token(&api.feed, row)).collect())
}

pub(super) async fn revoke_token(
    Context(api): Context<Api>,
    key: Key,
    Path(id): Path<String>,
) -> ApiResult<impl IntoResponse> {
    api.change(key, command::RevokeJoinToken { id }).await
}

pub(super) async fn machines(Snapshot(state): Snapshot) -> Json<Vec<Machine>> {
    Json(state.trust().machines().map(|row| machine(&state, row)).collect())
}

pub(super) async fn revoke_machine(
    Context(api): Context<Api>,
    key: Key,
    Path((role, name)): Path<(MachineRole, String)>,
) -> ApiResult<impl IntoResponse> {
    let is_it = |member: &crate::raft::MemberStatus| member.name.as_str() == name;
    if role == MachineRole::Controller && api.consensus.members().iter().any(is_it) {
        return Err(ApiError::new(
            ErrorCode::Conflict,
            format!("controller {name} is a member of the cluster; `pontoon controller remove {name}` first"),
        ));
    }
    api.change(key, command::RevokeMachine { role, name }).await
}

pub(super) async fn ca(Snapshot(state): Snapshot) -> Json<Ca> {
    let trust = state.trust();
    let authorities = trust.authorities();
    let newest = authorities.len();
    let authorities = (1..).zip(&authorities).map(|(at, row)| Authority {
        fingerprint: row.fingerprint,
        certificate: row.certificate.clone(),
        made_at: row.made_at.0,
        signs: at == newest,
    });
    Json(Ca {
        authorities: authorities.collect(),
        behind: trust.behind(state.time()).map(|row| machine(&state, row)).collect(),
    })
}

pub(super) async fn rotate_ca(Context(api): Context<Api>, key: Key) -> ApiResult<impl IntoResponse> {
    let next = next_authority(api.state_to_seal_by().await?.trust(), &api.sealing)?;
    api.change(key, next).await
}

pub(super) async fn retire_ca(
    Context(api): Context<Api>,
    key: Key,
    Json(body): Json<RetireAuthority>,
) -> ApiResult<impl IntoResponse> {
    let former = api.feed.snapshot().trust().former().map(|row| row.fingerprint);
    let fingerprint = former.ok_or_else(|| {
        ApiError::new(
            ErrorCode::Conflict,
            "there is one authority, which signs; `pontoon ca rotate` makes the next one",
        )
    })?;
    api.change(key, command::RetireAuthority { fingerprint, force: body.force }).await
}

fn token(feed: &StateFeed, row: &pontoon_model::JoinToken) -> JoinToken {
    JoinToken {
        id: row.id(),
        role: row.role,
        site: row.site.clone(),
        made_at: feed.by_own_clock(row.made_at),
        expires_at: feed.by_own_clock(row.expires_at),
        uses_left: row.uses_left,
        token: None,
    }
}

fn machine(state: &State, row: &Arc<pontoon_model::Machine>) -> Machine {
    Machine {
        role: row.role,
        name: row.name.clone(),
        site: site_of(state, row.role, &row.name),
        joined_at: row.joined_at.0,
        certificate_ends: row.certificate_ends.0,
        key: row.key,
        signed_by: row.signed_by,
    }
}

/// As the machine itself has said when it was there.
fn site_of(state: &State, role: MachineRole, name: &str) -> Option<SiteName> {
    match role {
        MachineRole::Controller => {
            state.controllers().find(|row| row.name.as_str() == name).map(|row| row.site.clone())
        }
        MachineRole::Agent => state.host(&name.parse().ok()?).map(|row| row.site.clone()),
        MachineRole::Balancer => state.balancer(&name.parse().ok()?).map(|row| row.site.clone()),
    }
}

impl From<SignError> for ApiError {
    fn from(error: SignError) -> Self {
        ApiError::unavailable(error.to_string())
    }
}
