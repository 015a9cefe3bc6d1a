//! One order: the proof that a host name is ours, one way or the other, and then the certificate.

use std::collections::BTreeMap;
use std::time::Duration;

use instant_acme::{
    Account, AuthorizationStatus, ChallengeType, Error as AcmeError, Identifier, NewOrder, Order, OrderStatus, Problem,
    RetryPolicy,
};
use pontoon_core::command::SetChallenge;
use pontoon_model::{BalancerName, Challenge, ChallengeKind, ControllerId, RouteVersion};
use rcgen::{CertificateParams, DistinguishedName, KeyPair};
use tokio::time::{Instant, sleep};

use super::failure::{Failure, other_way_may_do};
use crate::peers::edge_progress_all;
use crate::raft::{Peers, Proposer};
use crate::sealing::SealingKeys;
use crate::sessions::Heard;

/// The plain way first: it needs no TLS port, and works behind whatever ends TLS in front of the balancers.
const WAYS: [ChallengeKind; 2] = [ChallengeKind::Http01, ChallengeKind::TlsAlpn01];

/// How the authority is asked what has become of an order. It looks within seconds, from several places.
const ASKING: RetryPolicy = RetryPolicy::new().initial_delay(FIRST_ASK).backoff(1.4).timeout(MOST_ASKING);
const FIRST_ASK: Duration = Duration::from_millis(250);
const MOST_ASKING: Duration = Duration::from_secs(90);

/// Balancers take in a change within milliseconds. One that does not within this time is probably going, and the others
/// answer the authority.
const SHOWN: Duration = Duration::from_secs(10);
/// How often they are asked about.
const LOOK: Duration = Duration::from_millis(100);

/// What orders need of this controller.
#[derive(Clone)]
pub(super) struct Desk {
    /// This controller.
    pub own: ControllerId,
    /// Where challenges go.
    pub proposer: Proposer,
    /// How far balancers are that are connected here.
    pub heard: Heard,
    /// Who knows of the others.
    pub peers: Peers,
    /// Seals keys.
    pub sealing: SealingKeys,
}

/// A chain and its key, PEM.
pub(super) struct Made {
    pub chain: String,
    pub key: String,
    /// How it was proven; none if the authority still knew.
    pub way: Option<ChallengeKind>,
}

/// What the authority made of one way.
enum Tried {
    Proven(Option<ChallengeKind>),
    Unproven(Problem),
    /// It does not look this way.
    NotOffered,
}

impl Desk {
    /// A certificate for `host`.
    pub(super) async fn order(&self, account: &Account, host: &str) -> Result<Made, Failure> {
        let names = [Identifier::Dns(host.to_owned())];
        let mut tried = Vec::new();
        for way in WAYS {
            // One that has failed one way is over.
            let mut order = account.new_order(&NewOrder::new(&names)).await?;
            match self.prove(&mut order, host, way).await? {
                Tried::Proven(way) => return finish(&mut order, host, way).await,
                Tried::Unproven(problem) => {
                    let goes_on = other_way_may_do(&problem);
                    tried.push((way, problem));
                    if !goes_on {
                        break;
                    }
                }
                Tried::NotOffered => {}
            }
        }
        match tried.is_empty() {
            false => Err(Failure::Unproven { tried }),
            true => Err(Failure::Authority {
                why: "it offers neither HTTP-01 nor TLS-ALPN-01 for this name, and others are not made here".to_owned(),
            }),
        }
    }

    async fn prove(&self, order: &mut Order, host: &str, way: ChallengeKind) -> Result<Tried, Failure> {
        let mut proven_by = None;
        let mut authorizations = order.authorizations();
        while let Some(authorization) = authorizations.next().await {
            let mut authorization = authorization?;
            match authorization.status {
                // From an order before, which the authority remembers.
                AuthorizationStatus::Valid => continue,
                AuthorizationStatus::Pending => {}
                other => {
                    return Err(Failure::Authority {
                        why: format!("a new order begins with a proof that is {other:?}"),
                    });
                }
            }
            let Some(mut challenge) = authorization.challenge(named(way)) else { return Ok(Tried::NotOffered) };
            let shown = Challenge {
                host: host.to_owned(),
                kind: way,
                token: challenge.token.clone(),
                key_authorization: challenge.key_authorization().as_str().to_owned(),
            };
            self.show(shown).await?;
            match challenge.set_ready().await {
                Ok(()) => proven_by = Some(way),
                Err(AcmeError::Api(problem)) => return Ok(Tried::Unproven(problem)),
                Err(error) => return Err(error.into()),
            }
        }
        let problem = match order.poll_ready(&ASKING).await {
            Ok(OrderStatus::Ready) => return Ok(Tried::Proven(proven_by)),
            Ok(_) => None,
            Err(AcmeError::Api(problem)) => Some(problem),
            Err(error) => return Err(error.into()),
        };
        match self.why_unproven(order).await?.or(problem) {
            Some(problem) => Ok(Tried::Unproven(problem)),
            None => Err(Failure::Authority { why: "the order is invalid, and it does not say why".to_owned() }),
        }
    }

    /// What the authority says of the challenge that it looked for: an order only says that it is over.
    async fn why_unproven(&self, order: &mut Order) -> Result<Option<Problem>, Failure> {
        let mut authorizations = order.authorizations();
        while let Some(authorization) = authorizations.next().await {
            let mut authorization = authorization?;
            let state = authorization.refresh().await?;
            if let Some(problem) = state.challenges.iter().find_map(|challenge| challenge.error.clone()) {
                return Ok(Some(problem));
            }
        }
        Ok(None)
    }

    /// Has all balancers answer a challenge; returns when those that are connected do.
    async fn show(&self, challenge: Challenge) -> Result<(), Failure> {
        let host = challenge.host.clone();
        let command = SetChallenge { host: host.clone(), challenge: Some(challenge) };
        let (_, index) = self.proposer.propose(command.into()).await?;
        let begun = Instant::now();
        loop {
            let progress = self.progress().await;
            let behind: Vec<_> =
                progress.iter().filter(|(_, version)| version.0 < index).map(|(name, _)| name.to_string()).collect();
            if behind.is_empty() && !progress.is_empty() {
                return Ok(());
            }
            if begun.elapsed() > SHOWN {
                if progress.is_empty() {
                    return Err(Failure::NoBalancer);
                }
                tracing::warn!(host, balancers = behind.join(", "), "not all balancers can answer an authority yet");
                return Ok(());
            }
            sleep(LOOK).await;
        }
    }

    /// How far each balancer is that is connected to any controller. One that has just changed is known to two.
    async fn progress(&self) -> BTreeMap<BalancerName, RouteVersion> {
        let mut all = BTreeMap::new();
        let others = edge_progress_all(self.own, &self.peers.others()).await;
        for (name, version) in others.into_iter().chain(self.heard.edge_progress()) {
            let known: &mut RouteVersion = all.entry(name).or_default();
            *known = version.max(*known);
        }
        all
    }
}

async fn finish(order: &mut Order, host: &str, way: Option<ChallengeKind>) -> Result<Made, Failure> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new([host.to_owned()])?;
    params.distinguished_name = DistinguishedName::new();
    let request = params.serialize_request(&key)?;
    order.finalize_csr(request.der()).await?;
    let chain = order.poll_certificate(&ASKING).await?;
    Ok(Made { chain, key: key.serialize_pem(), way })
}

fn named(way: ChallengeKind) -> ChallengeType {
    match way {
        ChallengeKind::Http01 => ChallengeType::Http01,
        ChallengeKind::TlsAlpn01 => ChallengeType::TlsAlpn01,
    }
}
