//! Three real controllers on loopback, with an agent and a balancer that speak the protocol and run nothing.

mod edge;
mod fake_agent;
mod fake_balancer;
mod machine;
mod members;
mod nodes;
mod requests;
mod rpc_matrix;
mod sealing;
mod trust;

use fake_agent::FakeAgent;
use fake_balancer::FakeBalancer;
use nodes::{Cluster, archive, until};
use pontoon_controller::ControllerError;
use pontoon_kit::{CancellationToken, LockError, Role};
use pontoon_proto::{AgentMessage, BalancerMessage, services};
use serde_json::{Value, json};
use tonic::Request;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_becomes_a_routed_app_and_survives_the_loss_of_the_leader() {
    let mut cluster = Cluster::start(3).await;
    // Neither is connected to the controller that takes the upload.
    let agent = FakeAgent::start(&cluster, "h1", 1).await;
    let balancer = FakeBalancer::start(&cluster, "lb1", 2).await;
    let created = cluster.post(0, "/v1/apps", json!({"name": "site"})).await;
    assert_eq!(created["domains"], json!(["site.localhost"]), "{created}");
    let source = cluster.upload(0, "site", archive(&[("index.html", "<h1>hello</h1>")])).await;
    let digest = source["digest"].as_str().expect("a digest").to_owned();
    let copies = (0..3).filter(|node| cluster.has_blob(*node, &digest)).count();
    assert!(copies >= 2, "a majority has it before the answer: {copies}");

    let build = cluster.post(0, "/v1/apps/site/builds", json!({"source": digest})).await;
    let path = format!("/v1/apps/site/builds/{}", build["id"]);
    let built = until("the build to succeed", async || {
        let build = cluster.get(0, &path).await;
        if build["state"] == "succeeded" { Ok(build) } else { Err(build.to_string()) }
    })
    .await;
    assert_eq!(agent.built_from(), b"index.html", "the agent got the source through its controller");
    let path = format!("/v1/apps/site/deployments/{}", built["deployment"]);
    until("the deployment to end", async || {
        let deployment = cluster.get(2, &path).await;
        if deployment["state"] == "done" { Ok(()) } else { Err(deployment.to_string()) }
    })
    .await;
    until("the balancer to route to the servo", async || match balancer.servos_of("site.localhost") {
        servos if servos == vec![fake_agent::ADDRESS.parse().unwrap()] => Ok(()),
        servos => Err(format!("{servos:?}")),
    })
    .await;

    let log = cluster.text(0, "/v1/apps/site/logs?tail=5").await;
    assert!(log.contains("hello from the fake agent"), "through another controller: {log}");

    let index = cluster.put(0, "/v1/apps/site/scale", json!({"count": 2})).await["index"].clone();
    let app = cluster.get(1, &format!("/v1/apps/site?at_index={index}")).await;
    assert_eq!(app["scale"]["web"]["count"], 2, "a read elsewhere sees the change it asks for");

    let leader = cluster.leader().await;
    cluster.stop(leader).await;
    let other = (leader + 1) % 3;
    until("both servos to be routed by those who are left", async || {
        match balancer.servos_of("site.localhost").len() {
            2 => Ok(()),
            count => Err(format!("{count} routed; {}", cluster.get(other, "/v1/status").await["problems"])),
        }
    })
    .await;
    cluster.put(other, "/v1/apps/site/scale", json!({"count": 1})).await;
    until("the surplus servo to be drained and gone", async || {
        let servos = cluster.get(other, "/v1/apps/site/servos").await;
        match servos.as_array().map(Vec::len) {
            Some(1) => Ok(()),
            _ => Err(format!("{servos}; the balancer is at {:?}", balancer.version())),
        }
    })
    .await;
    agent.stop();
    balancer.stop();
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_speaks_for_another() {
    let cluster = Cluster::start(1).await;
    let channel = |role, name: &str| {
        let credentials = pontoon_kit::Credentials::new(cluster.authority.issue(role, name).unwrap()).unwrap();
        pontoon_kit::rpc::channel(cluster.grpc(0), Role::Controller, &credentials).unwrap()
    };
    let agents = |role, name| services::agents_client::AgentsClient::new(channel(role, name));
    let hello = || tokio_stream::iter([AgentMessage::Hello(fake_agent::hello("h1"))]);

    // The certificate's role.
    for role in [Role::Balancer, Role::Controller] {
        let refused = agents(role, "h1").session(Request::new(hello())).await.expect_err("the wrong role");
        assert_eq!(refused.code(), tonic::Code::PermissionDenied);
    }
    // The certificate's name.
    let mut session = agents(Role::Agent, "h2").session(Request::new(hello())).await.unwrap().into_inner();
    let refused = session.message().await.expect_err("another host");
    assert_eq!(refused.code(), tonic::Code::PermissionDenied);

    let mut balancers = services::balancers_client::BalancersClient::new(channel(Role::Balancer, "other"));
    let hello = tokio_stream::iter([BalancerMessage::Hello(fake_balancer::hello("lb1", 0))]);
    let mut session = balancers.session(Request::new(hello)).await.unwrap().into_inner();
    assert_eq!(session.message().await.expect_err("another balancer").code(), tonic::Code::PermissionDenied);

    let mut peers = services::peers_client::PeersClient::new(channel(Role::Agent, "h1"));
    let request = pontoon_proto::ProposeRequest { commands: Vec::new() };
    let refused = peers.propose(Request::new(request)).await.expect_err("an agent proposes nothing");
    assert_eq!(refused.code(), tonic::Code::PermissionDenied);
    assert_eq!(cluster.get(0, "/v1/hosts").await, json!([]), "nobody was registered");
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_is_there_again_after_a_restart() {
    let mut cluster = Cluster::start(3).await;
    cluster.post(0, "/v1/apps", json!({"name": "kept"})).await;
    let source = cluster.upload(1, "kept", archive(&[("index.html", "x")])).await;
    for node in 0..3 {
        cluster.stop(node).await;
    }
    for node in 0..3 {
        cluster.launch(node);
    }
    let names =
        |apps: &Value| apps.as_array().map(|apps| apps.iter().map(|app| app["name"].clone()).collect::<Vec<_>>());
    for node in 0..3 {
        until("the app to be there again", async || {
            let apps = cluster.try_get(node, "/v1/apps").await?;
            if names(&apps) == Some(vec![json!("kept")]) { Ok(()) } else { Err(apps.to_string()) }
        })
        .await;
    }
    let build = cluster.post(2, "/v1/apps/kept/builds", json!({"source": source["digest"]})).await;
    assert_eq!(build["state"], "queued", "{build}");
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_counts_everywhere_at_once_and_the_audit_has_what_was_asked_of_each() {
    let mut cluster = Cluster::start(3).await;
    until("the first token", async || {
        let tokens = cluster.get(0, "/v1/tokens").await;
        if tokens[0]["name"] == "first" { Ok(()) } else { Err(tokens.to_string()) }
    })
    .await;
    cluster.post(0, "/v1/apps", json!({"name": "site"})).await;
    // Each is used where it was not made, before that controller can have been told.
    for made in 0..3 {
        let token = cluster.post(made, "/v1/tokens", json!({"scopes": ["deploy:site"]})).await;
        let secret = token["token"].as_str().unwrap();
        for used in 0..3 {
            cluster.get_as(secret, used, "/v1/apps/site").await.unwrap();
            assert!(cluster.get_as(secret, used, "/v1/hosts").await.unwrap_err().starts_with("403"));
        }
        let index = cluster.delete(made, &format!("/v1/tokens/{}", token["id"])).await["index"].clone();
        for used in 0..3 {
            // A controller that knows of the revocation takes it no more.
            cluster.get(used, &format!("/v1/apps?at_index={index}")).await;
            assert!(cluster.get_as(secret, used, "/v1/apps/site").await.unwrap_err().starts_with("401"));
        }
    }
    let audit = cluster.get(1, "/v1/audit?limit=1000").await;
    assert_eq!(audit["missing"], json!([]), "{audit}");
    let records = audit["records"].as_array().unwrap();
    for node in ["c0", "c1", "c2"] {
        let of_node = |action: &str| {
            records.iter().filter(|record| record["controller"] == node && record["action"] == action).count()
        };
        assert_eq!(
            (of_node("CreateToken"), of_node("RevokeToken"), of_node("WrongToken")),
            (1, 1, 3),
            "{node}: {audit}"
        );
    }
    assert!(records.is_sorted_by_key(|record| record["at"].as_u64()));

    cluster.stop(2).await;
    let audit = cluster.get(0, "/v1/audit").await;
    assert!(audit["missing"].to_string().contains("c2"), "{audit}");
    cluster.launch(2);
    until("the records of before", async || {
        let audit = cluster.try_get(2, "/v1/audit").await?;
        let found = audit["missing"] == json!([]) && audit["records"].to_string().contains("c2");
        if found { Ok(()) } else { Err(audit.to_string()) }
    })
    .await;
    cluster.stop_all().await;
}

#[tokio::test]
async fn a_second_controller_on_the_same_folder_is_told_who_has_it() {
    let cluster = Cluster::start(1).await;
    let error = pontoon_controller::run(cluster.config(0), CancellationToken::new()).await.unwrap_err();
    assert!(matches!(error, ControllerError::Lock(LockError::Held { holder: Some(_), .. })), "{error}");
    cluster.stop_all().await;
}
