//! What controllers ask each other about the membership, with certificates as they show them.

use std::net::SocketAddr;

use pontoon_kit::{Credentials, Identity, Role, rpc};
use pontoon_model::ControllerId;
use pontoon_proto::services::peers_client::PeersClient;
use pontoon_proto::{MembershipReply, MembershipRequest};
use serde_json::json;
use tonic::Status;
use tonic::transport::Channel;

use super::nodes::{Cluster, archive, until};
use super::trust::founded;

/// Nobody listens there.
const NOWHERE: ([u8; 4], u16) = ([127, 0, 0, 1], 1);

/// How often a promotion is asked for while it must not be made: far more often than the queue needs for one.
const ASKS: usize = 40;

fn client(cluster: &Cluster, identity: Identity) -> PeersClient<Channel> {
    let credentials = Credentials::new(identity).unwrap();
    PeersClient::new(rpc::channel(cluster.grpc(0), Role::Controller, &credentials).unwrap())
}

async fn ask(client: &PeersClient<Channel>, request: &MembershipRequest) -> Result<MembershipReply, Status> {
    client.clone().change_members(request.clone()).await.map(tonic::Response::into_inner)
}

fn join(id: u64) -> MembershipRequest {
    MembershipRequest::Join { id: ControllerId(id), grpc: SocketAddr::from(NOWHERE), voter: false, empty: true }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_controller_whose_certificate_was_made_elsewhere_can_be_shut_out_like_any_other() {
    let cluster = founded(1).await;
    let issue = || cluster.authority.issue(Role::Controller, "c9").unwrap();
    let (identity, imposter) = (issue(), issue());
    let own_key = pontoon_model::Digest(identity.key_id().unwrap().0);
    let (c9, imposter) = (client(&cluster, identity), client(&cluster, imposter));
    until("it to follow", async || match ask(&c9, &join(9)).await {
        Ok(MembershipReply::Done) => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    // It does nothing but ask, so nobody but the one that let it in has noted its key.
    let machines = cluster.get(0, "/v1/machines").await;
    let row = machines.as_array().unwrap().iter().find(|row| row["name"] == "c9").expect("a row").clone();
    assert_eq!((&row["role"], &row["key"]), (&json!("controller"), &json!(own_key)), "{row}");
    match ask(&imposter, &join(10)).await.unwrap() {
        MembershipReply::Refused { why } => assert!(why.contains("with another key"), "{why}"),
        other => panic!("{other:?}"),
    }
    let removed = cluster.delete(0, "/v1/controllers/c9").await;
    assert_eq!(removed["done"], true, "{removed}");
    // It is no member and trusted no longer, by the key that was noted.
    until("it to be shut out", async || match ask(&c9, &join(9)).await {
        Err(_) => Ok(()),
        answered => Err(format!("{answered:?}")),
    })
    .await;
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_learner_that_lacks_a_bundle_does_not_vote_whoever_asks_for_it() {
    let mut cluster = founded(1).await;
    cluster.post(0, "/v1/apps", json!({"name": "site"})).await;
    let source = cluster.upload(0, "site", archive(&[("index.html", "hello")])).await;
    let digest = source["digest"].as_str().expect("a digest").to_owned();
    cluster.post(0, "/v1/apps/site/builds", json!({"source": digest})).await;
    // There is no other copy for it to fetch.
    let (blob, aside) = (cluster.blob(0, &digest), cluster.blob(0, &digest).with_extension("aside"));
    std::fs::rename(&blob, &aside).unwrap();
    let node = cluster.let_one_in();
    let name = format!("c{node}");
    until("it to follow", async || {
        let listed = cluster.get(0, "/v1/controllers").await;
        let row = listed.as_array().unwrap().iter().find(|row| row["name"] == name.as_str());
        match row.is_some_and(|row| row["role"] == "learner" && row["missing_blobs"] == 1) {
            true => Ok(()),
            false => Err(listed.to_string()),
        }
    })
    .await;
    let c0 = client(&cluster, Identity::load(&cluster.tls(0)).unwrap());
    let promote = MembershipRequest::Promote { name: name.parse().unwrap() };
    let id = ControllerId(node as u64 + 1);
    let newcomer = client(&cluster, Identity::load(&cluster.tls(node)).unwrap());
    let vote = MembershipRequest::Join { id, grpc: cluster.grpc(node), voter: true, empty: false };
    for _ in 0..ASKS {
        for reply in [ask(&c0, &promote).await.unwrap(), ask(&newcomer, &vote).await.unwrap()] {
            match reply {
                MembershipReply::Wait { why } => assert!(why.contains("bundles"), "{why}"),
                other => panic!("{other:?}"),
            }
        }
    }
    std::fs::rename(&aside, &blob).unwrap();
    until("it to vote", async || match ask(&c0, &promote).await.unwrap() {
        MembershipReply::Done => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    assert!(cluster.has_blob(node, &digest), "it has what it lacked");
    cluster.stop_all().await;
}
