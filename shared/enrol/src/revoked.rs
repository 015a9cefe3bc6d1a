//! What a controller that was shut out does not say of itself: other controllers are asked for it.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use pontoon_kit::{Backoff, CancellationToken, Credentials, KeyId, Role, rpc};
use pontoon_proto::RevokedRequest;
use pontoon_proto::services::enrolment_client::EnrolmentClient;
use tokio::time::{sleep, timeout};

use crate::machine_role;

/// Longest time between two questions. Ten thousand machines ask each of three controllers about seventy times a second, which
/// is a tenth of a core for the handshakes; and with two of three that tell the truth, a machine hears it within two of them.
pub const ASK_EVERY: Duration = Duration::from_secs(60);
/// A controller answers from memory.
const ANSWER: Duration = Duration::from_secs(5);

/// Asks one of `controllers` after the other which keys were revoked, `every` so often, until `stop`. Each is asked over a
/// connection of its own: a machine that is connected to a controller which was shut out, and does not say so, hears of it from
/// another, and ends that connection.
pub async fn hear_of_revoked(
    credentials: Credentials,
    controllers: impl Fn() -> Vec<SocketAddr> + Send,
    every: Duration,
    stop: CancellationToken,
) {
    // Spread out, since many machines start together.
    let mut pause = Backoff::new(every, every);
    for turn in 0_usize.. {
        tokio::select! {
            () = sleep(pause.wait()) => {}
            () = stop.cancelled() => return,
        }
        let all = controllers();
        let Some(address) = turn.checked_rem(all.len()).map(|at| all[at]) else { continue };
        let asked = tokio::select! {
            asked = timeout(ANSWER, ask(&credentials, address)) => asked,
            () = stop.cancelled() => return,
        };
        match asked {
            Ok(Ok(keys)) => {
                if let Err(error) = credentials.hear_of_revoked(&keys) {
                    tracing::error!(%address, %error, "which keys were revoked cannot be taken in");
                }
            }
            // One that is down, is refused itself, or is of an older version: the next is asked next.
            Ok(Err(why)) => tracing::debug!(%address, why, "it does not say which keys were revoked"),
            Err(_) => tracing::debug!(%address, "it does not answer"),
        }
    }
}

async fn ask(credentials: &Credentials, address: SocketAddr) -> Result<BTreeSet<KeyId>, String> {
    let own = credentials.identity().peer().map_err(|error| error.to_string())?;
    let channel = rpc::channel(address, Role::Controller, credentials).map_err(|error| error.to_string())?;
    let request = RevokedRequest { role: machine_role(own.role) };
    let reply = EnrolmentClient::new(channel).revoked(request).await;
    let reply = reply.map_err(|status| status.message().to_owned())?.into_inner();
    Ok(reply.keys.into_iter().map(|key| KeyId(key.0)).collect())
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use pontoon_kit::{Authority, Identity, tls};
    use pontoon_model::Digest;
    use pontoon_proto::services::enrolment_server::{Enrolment, EnrolmentServer};
    use pontoon_proto::{JoinReply, JoinRequest, RenewReply, RenewRequest, RevokedReply, TrustNow};
    use tokio::sync::watch;
    use tonic::transport::Channel;
    use tonic::{Request, Response, Status};

    use super::*;
    use crate::obey;

    /// Far more than anything here takes.
    const BOUND: Duration = Duration::from_secs(20);

    /// A controller that says that these keys were revoked, and nothing else.
    struct Says(Vec<Digest>);

    #[tonic::async_trait]
    impl Enrolment for Says {
        async fn join(&self, _: Request<JoinRequest>) -> Result<Response<JoinReply>, Status> {
            Err(Status::unimplemented("not here"))
        }

        async fn renew(&self, _: Request<RenewRequest>) -> Result<Response<RenewReply>, Status> {
            Err(Status::unimplemented("not here"))
        }

        async fn revoked(&self, _: Request<RevokedRequest>) -> Result<Response<RevokedReply>, Status> {
            Ok(Response::new(RevokedReply { keys: self.0.clone() }))
        }
    }

    async fn start(identity: Identity, says: Vec<Digest>) -> SocketAddr {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = rpc::server(crate::needs).add_service(EnrolmentServer::new(Says(says)));
        let incoming = tls::incoming(listener, Credentials::new(identity).unwrap());
        tokio::spawn(async move { server.serve_with_incoming(incoming).await });
        address
    }

    async fn answers(channel: &Channel) -> bool {
        let request = RevokedRequest { role: pontoon_model::MachineRole::Agent };
        timeout(BOUND, EnrolmentClient::new(channel.clone()).revoked(request)).await.is_ok_and(|asked| asked.is_ok())
    }

    #[tokio::test]
    async fn a_controller_that_hides_its_revocation_is_left_once_another_tells_and_is_not_believed_again() {
        let authority = Authority::create().unwrap();
        let issue = |role, name| authority.issue(role, name).unwrap();
        let (liar, honest) = (issue(Role::Controller, "c1"), issue(Role::Controller, "c2"));
        let revoked = Digest(liar.key_id().unwrap().0);
        let (liar, honest) = (start(liar, vec![]).await, start(honest, vec![revoked]).await);
        let credentials = Credentials::new(issue(Role::Agent, "h1")).unwrap();
        let channel = |address| rpc::channel(address, Role::Controller, &credentials).unwrap();
        let (to_liar, to_honest) = (channel(liar), channel(honest));
        assert!(answers(&to_liar).await, "the machine is connected to it");

        let (stop, every) = (CancellationToken::new(), Duration::from_millis(20));
        tokio::spawn(hear_of_revoked(credentials.clone(), move || vec![liar, honest], every, stop.clone()));
        let since = Instant::now();
        while answers(&to_liar).await {
            assert!(since.elapsed() < BOUND, "it is still believed");
            sleep(Duration::from_millis(5)).await;
        }
        stop.cancel();
        // What it has still sent says that nobody was revoked.
        let now = TrustNow { roots: credentials.trust().roots, revoked: vec![], renew: false };
        obey(&credentials, &watch::channel(0).0, now).unwrap();
        assert!(!answers(&to_liar).await && !answers(&channel(liar)).await, "it stays shut out");
        assert!(answers(&to_honest).await);
    }
}
