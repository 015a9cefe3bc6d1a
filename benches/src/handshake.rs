//! What trust between machines costs: a connection with certificates on both sides, and each message on it.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use pontoon_kit::{Authority, Credentials, Role, rpc, tls};
use pontoon_model::Digest;
use pontoon_proto::services::enrolment_client::EnrolmentClient;
use pontoon_proto::services::enrolment_server::{Enrolment, EnrolmentServer};
use pontoon_proto::{JoinReply, JoinRequest, RenewReply, RenewRequest, RevokedReply, RevokedRequest};
use tokio::net::TcpListener;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Server};
use tonic::{Request, Response, Status};

use crate::{figure, workload};

/// Connections of each kind.
const CONNECTIONS: usize = 200;
/// Calls on one connection.
const CALLS: u32 = 2_000;
/// As large as a command with its labels.
const MESSAGE: usize = 512;

/// Answers at once, so that what is measured is the way.
#[derive(Clone)]
struct Echo;

#[tonic::async_trait]
impl Enrolment for Echo {
    async fn join(&self, _: Request<JoinRequest>) -> Result<Response<JoinReply>, Status> {
        Err(Status::unimplemented("no part of this"))
    }

    async fn renew(&self, request: Request<RenewRequest>) -> Result<Response<RenewReply>, Status> {
        Ok(Response::new(RenewReply::Refused { why: request.into_inner().name }))
    }

    async fn revoked(&self, _: Request<RevokedRequest>) -> Result<Response<RevokedReply>, Status> {
        Err(Status::unimplemented("no part of this"))
    }
}

fn message() -> RenewRequest {
    RenewRequest {
        role: pontoon_model::MachineRole::Agent,
        name: "x".repeat(MESSAGE),
        request: Digest([0; 32]).0.to_vec().into(),
    }
}

pub(crate) fn run() -> Result<()> {
    workload::runtime()?.block_on(async {
        let authority = Authority::create()?;
        let credentials = |role, id| anyhow::Ok(Credentials::new(authority.issue(role, id)?)?);
        let (server, client) = (credentials(Role::Controller, "a")?, credentials(Role::Agent, "h")?);
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let secured = listener.local_addr()?;
        let router = rpc::server(pontoon_enrol::needs).add_service(EnrolmentServer::new(Echo));
        tokio::spawn(router.serve_with_incoming(tls::incoming(listener, server)));
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let plain = listener.local_addr()?;
        let router = Server::builder().tcp_nodelay(true).add_service(EnrolmentServer::new(Echo));
        tokio::spawn(router.serve_with_incoming(TcpIncoming::from(listener).with_nodelay(Some(true))));

        let with_certificates = || rpc::channel(secured, Role::Controller, &client).context("a channel");
        let without = || {
            let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{plain}"))?;
            anyhow::Ok(endpoint.tcp_nodelay(true).connect_lazy())
        };
        // A first call makes the connection; what the same call takes on a plain one is no part of the handshake.
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..CONNECTIONS {
            ours.push(first_call(with_certificates()?).await?);
            theirs.push(first_call(without()?).await?);
        }
        let milliseconds = |times: &[Duration]| figure::median_seconds(times) * 1_000.0;
        figure::print_beside("mtls_connect_and_call", milliseconds(&ours), "ms", "plain", milliseconds(&theirs));
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..figure::RUNS {
            ours.push(calls(with_certificates()?).await?);
            theirs.push(calls(without()?).await?);
        }
        let microseconds = |times: &[Duration]| figure::median_seconds(times) * 1e6;
        figure::print_beside("mtls_call", microseconds(&ours), "us", "plain", microseconds(&theirs));
        Ok(())
    })
}

async fn first_call(channel: Channel) -> Result<Duration> {
    let begun = Instant::now();
    EnrolmentClient::new(channel).renew(message()).await?;
    Ok(begun.elapsed())
}

/// One call of many, one after the other.
async fn calls(channel: Channel) -> Result<Duration> {
    let mut client = EnrolmentClient::new(channel);
    client.renew(message()).await?;
    let begun = Instant::now();
    for _ in 0..CALLS {
        client.renew(message()).await?;
    }
    Ok(begun.elapsed() / CALLS)
}
