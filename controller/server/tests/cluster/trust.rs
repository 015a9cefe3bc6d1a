//! Who belongs: joining with a token, revocation, renewal, another authority; three real controllers.

use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use pontoon_controller::ControllerError;
use pontoon_enrol::{Admitted, JoinError, Who, join};
use pontoon_kit::{Credentials, Identity, Role, rpc};
use pontoon_model::ControllerId;
use pontoon_proto::services::agents_client::AgentsClient;
use pontoon_proto::{AgentMessage, BlobRequest};
use serde_json::{Value, json};

use super::machine::Machine;
use super::nodes::{Cluster, until};

/// Far more than anything here takes.
const BOUND: Duration = Duration::from_secs(20);

pub async fn founded(count: usize) -> Cluster {
    pontoon_kit::telemetry::init("info,openraft=error");
    let cluster = Cluster::start(count).await;
    for node in 0..count {
        until("every controller to know the authority and itself", async || {
            let machines = cluster.get(node, "/v1/machines").await;
            let known = machines.as_array().unwrap().len();
            if known == count { Ok(()) } else { Err(machines.to_string()) }
        })
        .await;
    }
    cluster
}

async fn token(cluster: &Cluster, node: usize, body: Value) -> String {
    let made = cluster.post(node, "/v1/join-tokens", body).await;
    made["token"].as_str().expect("the token itself").to_owned()
}

async fn try_join(
    cluster: &Cluster,
    node: usize,
    token: &str,
    name: &str,
    folder: &Path,
) -> Result<Admitted, JoinError> {
    let who = Who { role: Role::Agent, name, site: None };
    join(cluster.grpc(node), &token.parse().unwrap(), &who, folder).await
}

fn all(cluster: &Cluster) -> Vec<std::net::SocketAddr> {
    (0..cluster.len()).map(|node| cluster.grpc(node)).collect()
}

/// A certificate is good for the rest of the second it ends in.
async fn until_over(folder: &Path) {
    let over = Identity::load(folder).unwrap().validity().unwrap().ends + Duration::from_secs(1);
    while SystemTime::now() < over {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_joins_with_a_token_at_any_controller_and_nobody_without() {
    let cluster = founded(3).await;
    let folder = tempfile::tempdir().unwrap();
    let text = token(&cluster, 0, json!({"role": "agent"})).await;
    // At once, and at another than the one that made it.
    let admitted = try_join(&cluster, 1, &text, "h1", &folder.path().join("h1")).await.unwrap();
    assert_eq!(admitted.cluster, "test");
    assert_eq!(admitted.controllers.len(), 3);
    let machine = Machine::start("h1", &folder.path().join("h1"), all(&cluster));
    until("the host to be there", async || {
        let hosts = cluster.get(2, "/v1/hosts").await;
        if hosts[0]["name"] == "h1" { Ok(()) } else { Err(format!("{hosts} {}", machine.last_end())) }
    })
    .await;
    let listed = cluster.get(2, "/v1/machines").await.to_string();
    assert!(listed.contains("\"h1\""), "{listed}");
    let tokens = cluster.get(2, "/v1/join-tokens").await;
    assert_eq!((&tokens[0]["uses_left"], tokens[0].get("token")), (&json!(0), None), "{tokens}");

    let refused = |result: Result<Admitted, JoinError>| result.expect_err("it may not join").to_string();
    let why = refused(try_join(&cluster, 0, &text, "h2", &folder.path().join("h2")).await);
    assert!(why.contains("as many machines as it was made for"), "{why}");
    let again = refused(try_join(&cluster, 0, &text, "h1", &folder.path().join("h1")).await);
    assert!(again.contains("certificate of agent h1 already"), "{again}");
    let text = token(&cluster, 0, json!({"role": "agent", "uses": 9})).await;
    let imposter = refused(try_join(&cluster, 2, &text, "h1", &folder.path().join("imposter")).await);
    assert!(imposter.contains("already, with another key"), "{imposter}");
    let bad_name = refused(try_join(&cluster, 2, &text, "No_Name", &folder.path().join("bad")).await);
    assert!(bad_name.contains("No_Name"), "{bad_name}");
    let who = Who { role: Role::Balancer, name: "lb", site: None };
    let role = refused(join(cluster.grpc(0), &text.parse().unwrap(), &who, &folder.path().join("lb")).await);
    assert!(role.contains("this token lets in agents"), "{role}");
    let guessed = format!("{}{}", &text[..text.len() - 4], if text.ends_with("0000") { "1111" } else { "0000" });
    let guess = refused(try_join(&cluster, 0, &guessed, "h3", &folder.path().join("h3")).await);
    assert!(guess.contains("this token is not known"), "{guess}");
    // A token of another cluster names another authority: nothing is sent.
    let mut foreign: pontoon_kit::pki::JoinText = text.parse().unwrap();
    foreign.authority.0[0] ^= 1;
    let foreign = refused(try_join(&cluster, 0, &foreign.to_string(), "h4", &folder.path().join("h4")).await);
    assert!(foreign.contains("the token is of another cluster"), "{foreign}");
    cluster
        .try_delete(
            1,
            &format!("/v1/join-tokens/{}", cluster.get(1, "/v1/join-tokens").await[0]["id"].as_str().unwrap()),
        )
        .await
        .unwrap();
    drop(machine);
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_machine_is_out_everywhere_within_a_second() {
    let cluster = founded(3).await;
    let folder = tempfile::tempdir().unwrap();
    let text = token(&cluster, 0, json!({"role": "agent", "uses": 2})).await;
    let mut machines = Vec::new();
    // Each connected to another controller.
    for (node, name) in [(1, "h1"), (2, "h2")] {
        let own = folder.path().join(name);
        try_join(&cluster, node, &text, name, &own).await.unwrap();
        let controllers = (0..3).map(|step| cluster.grpc((node + step) % 3)).collect();
        machines.push(Machine::start(name, &own, controllers));
    }
    for machine in &machines {
        until("a session", async || if machine.begun() > 0 { Ok(()) } else { Err(machine.last_end()) }).await;
    }
    let (h1, h2) = (&machines[0], &machines[1]);
    let (ended, begun) = (h1.ended(), h1.begun());
    let since = Instant::now();
    cluster.try_delete(0, "/v1/machines/agent/h1").await.unwrap();
    until("its session to end", async || if h1.ended() > ended { Ok(()) } else { Err("it goes on".into()) }).await;
    println!("a session ended {:?} after the revocation was asked for", since.elapsed());
    for node in 0..3 {
        until("every controller to refuse it", async || {
            let channel = rpc::channel(cluster.grpc(node), Role::Controller, &h1.credentials).unwrap();
            let request = BlobRequest { digest: pontoon_model::Digest([0; 32]) };
            match AgentsClient::new(channel).get_blob(request).await {
                // Nobody has this blob: it was let in.
                Err(status) if status.code() == tonic::Code::NotFound => Err(status.to_string()),
                Err(_) => Ok(()),
                Ok(_) => Err("it was answered".into()),
            }
        })
        .await;
    }
    assert_eq!((h1.begun(), h2.ended()), (begun, 0), "it never comes back, and the other was not disturbed");
    // Nothing ran on it, so it is no host any more.
    until("the other to be the only host", async || {
        let (hosts, status) = (cluster.get(1, "/v1/hosts").await, cluster.get(1, "/v1/status").await);
        let one = hosts.as_array().is_some_and(|all| all.len() == 1) && hosts[0]["name"] == "h2";
        if one && status["hosts"] == 1 { Ok(()) } else { Err(format!("{hosts} {status}")) }
    })
    .await;
    // Its certificate is no way to another one, and neither is the old key with a new token.
    let own = folder.path().join("h1");
    std::fs::remove_file(own.join("cert.pem")).unwrap();
    let text = token(&cluster, 0, json!({"role": "agent"})).await;
    let refused = try_join(&cluster, 0, &text, "h1", &own).await.expect_err("its key was revoked").to_string();
    assert!(refused.contains("key was revoked"), "{refused}");
    // With a new key it may.
    try_join(&cluster, 0, &text, "h1", &folder.path().join("h1-anew")).await.unwrap();
    let error = cluster.try_delete(0, "/v1/machines/controller/c1").await.expect_err("it is a member");
    assert!(error.contains("pontoon controller remove c1"), "{error}");
    drop(machines);
    cluster.stop_all().await;
}

/// Who is no controller any more shall not be able to speak as one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_controller_that_is_removed_is_trusted_no_longer_unless_that_was_asked_for() {
    let mut cluster = founded(3).await;
    let key = |cluster: &Cluster, node| Identity::load(&cluster.tls(node)).unwrap().key_id().unwrap();
    let known = async |cluster: &Cluster| cluster.get(0, "/v1/machines").await.to_string();
    let remove = async |cluster: &Cluster, path: &str| {
        until("it to be removed", async || {
            let answer = cluster.try_delete(0, path).await?;
            if answer["done"] == true { Ok(answer) } else { Err(answer.to_string()) }
        })
        .await
    };
    let two = key(&cluster, 2).to_string();
    assert!(known(&cluster).await.contains(&two));
    let answer = remove(&cluster, "/v1/controllers/c2").await;
    assert_eq!(answer["revoked"], true, "{answer}");
    assert!(!known(&cluster).await.contains(&two));
    // It is told so, or that it is no member: both are the end.
    let ended = cluster.ended(2).await;
    assert!(matches!(ended, ControllerError::ShutOut { .. } | ControllerError::Removed { .. }), "{ended}");
    let shown = Credentials::new(Identity::load(&cluster.tls(2)).unwrap()).unwrap();
    for node in 0..2 {
        until("every controller to refuse it", async || {
            let channel = rpc::channel(cluster.grpc(node), Role::Controller, &shown).unwrap();
            let request = BlobRequest { digest: pontoon_model::Digest([0; 32]) };
            let status = AgentsClient::new(channel).get_blob(request).await.expect_err("it is no agent");
            // Whoever is trusted is told that this is not a controller's to ask for.
            match status.code() {
                tonic::Code::PermissionDenied => Err(status.to_string()),
                _ => Ok(()),
            }
        })
        .await;
    }

    // One that shall come back with its key; and then not.
    let one = key(&cluster, 1).to_string();
    let answer = remove(&cluster, "/v1/controllers/c1?keep_trust=true").await;
    assert_eq!(answer["revoked"], false, "{answer}");
    assert!(matches!(cluster.ended(1).await, ControllerError::Removed { .. }));
    assert!(known(&cluster).await.contains(&one));
    let gone = cluster.try_delete(0, "/v1/controllers/c1?keep_trust=true").await.expect_err("it is no member");
    assert!(gone.contains("404"), "{gone}");
    // With an empty data folder and a new id, and nothing else, as it says itself.
    std::fs::remove_dir_all(cluster.data_dir(1)).unwrap();
    cluster.launch_as(1, |config| {
        let id = ControllerId(11);
        (config.id, config.members[1].id) = (id, id);
        (config.join, config.founding) = (true, None);
    });
    until("it to vote again", async || {
        let listed = cluster.try_get(0, "/v1/controllers").await?;
        let votes = |row: &Value| row["id"] == "c11" && (row["role"] == "voter" || row["role"] == "leader");
        if listed.as_array().is_some_and(|rows| rows.iter().any(votes)) { Ok(()) } else { Err(listed.to_string()) }
    })
    .await;
    assert_eq!(remove(&cluster, "/v1/controllers/c1").await["revoked"], true);
    let ended = cluster.ended(1).await;
    assert!(matches!(ended, ControllerError::ShutOut { .. } | ControllerError::Removed { .. }), "{ended}");
    assert!(!known(&cluster).await.contains(&one));
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_was_off_past_the_end_of_its_certificate_gets_another_with_its_own_key() {
    let mut cluster = founded(3).await;
    let folder = tempfile::tempdir().unwrap();
    let text = token(&cluster, 0, json!({"role": "agent"})).await;
    let own = folder.path().join("h1");
    try_join(&cluster, 0, &text, "h1", &own).await.unwrap();
    let authority = cluster.authority.clone();
    let ended = |folder: &Path, role, name: &str| {
        let identity = Identity::load(folder).unwrap();
        let request = Identity::request(&identity.key).unwrap();
        let certificate = authority.certify(role, name, &request, Duration::ZERO).unwrap();
        Identity { certificate, ..identity }.save(folder).unwrap();
    };
    ended(&own, Role::Agent, "h1");
    until_over(&own).await;
    let machine = Machine::start("h1", &own, all(&cluster));
    until("a session", async || if machine.begun() > 0 { Ok(()) } else { Err(machine.last_end()) }).await;
    until("a certificate that is good to be kept", async || {
        let kept = Identity::load(&own).unwrap().validity().unwrap();
        if kept.ends > SystemTime::now() { Ok(()) } else { Err(format!("{kept:?}")) }
    })
    .await;

    // All controllers at once: none could reach another, so that no change could be agreed on.
    for node in 0..3 {
        cluster.stop(node).await;
    }
    let names: Vec<String> = (0..3).map(|node| format!("c{node}")).collect();
    (0..3).for_each(|node| ended(&cluster.tls(node), Role::Controller, &names[node]));
    until_over(&cluster.tls(2)).await;
    for node in 0..3 {
        cluster.launch(node);
    }
    cluster.leader().await;
    until("the machine to be back", async || {
        let hosts = cluster.try_get(0, "/v1/hosts").await?;
        if hosts[0]["state"] == "up" { Ok(()) } else { Err(format!("{hosts} {}", machine.last_end())) }
    })
    .await;
    drop(machine);
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_authority_is_changed_while_everything_works() {
    let cluster = founded(3).await;
    let folder = tempfile::tempdir().unwrap();
    let text = token(&cluster, 0, json!({"role": "agent", "uses": 2})).await;
    for name in ["h1", "off"] {
        try_join(&cluster, 0, &text, name, &folder.path().join(name)).await.unwrap();
    }
    let machine = Machine::start("h1", &folder.path().join("h1"), all(&cluster));
    until("a session", async || if machine.begun() > 0 { Ok(()) } else { Err(machine.last_end()) }).await;
    let before = cluster.get(0, "/v1/ca").await;
    cluster.post(1, "/v1/ca/rotate", Value::Null).await;
    let twice = cluster.try_post(1, "/v1/ca/rotate", Value::Null).await.expect_err("one at a time");
    assert!(twice.contains("being changed already"), "{twice}");
    until("all that run to have another certificate", async || {
        let ca = cluster.get(2, "/v1/ca").await;
        let behind: Vec<_> = ca["behind"].as_array().unwrap().iter().map(|one| one["name"].to_string()).collect();
        if behind == ["\"off\""] { Ok(()) } else { Err(format!("{behind:?}")) }
    })
    .await;
    let refused = cluster.try_post(0, "/v1/ca/retire", json!({})).await.expect_err("one would be shut out");
    assert!(refused.contains("agent off"), "{refused}");
    cluster.post(0, "/v1/ca/retire", json!({"force": true})).await;
    until("every controller to trust the new one only", async || {
        for node in 0..3 {
            let ca = cluster.get(node, "/v1/ca").await;
            if ca["authorities"].as_array().unwrap().len() != 1 || ca["authorities"] == before["authorities"] {
                return Err(ca.to_string());
            }
        }
        Ok(())
    })
    .await;
    assert_eq!(machine.ended(), 0, "the session went on all the time");
    // Whoever was off still finds its way back with its key: the new authority's certificate is signed by the old one.
    let late = Machine::start("off", &folder.path().join("off"), all(&cluster));
    tokio::time::timeout(BOUND, async {
        until("it to come back", async || if late.begun() > 0 { Ok(()) } else { Err(late.last_end()) }).await;
    })
    .await
    .expect("within the bound");
    // A token from before names the former authority.
    let stale = try_join(&cluster, 1, &text, "h8", &folder.path().join("h8")).await.expect_err("it names another");
    let stale = stale.to_string();
    assert!(
        stale.contains("changed since the token was made") && stale.contains("token create --role agent"),
        "{stale}"
    );
    let fresh = token(&cluster, 0, json!({"role": "agent"})).await;
    try_join(&cluster, 0, &fresh, "h9", &folder.path().join("h9")).await.unwrap();
    drop((machine, late));
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_no_certificate_may_ask_for_one_and_nothing_else() {
    let cluster = founded(1).await;
    let known = Credentials::new(cluster.authority.issue(Role::Agent, "h1").unwrap()).unwrap();
    let channel = rpc::anonymous_channel(cluster.grpc(0), Role::Controller, &known).unwrap();
    let hello = tokio_stream::iter([AgentMessage::Hello(super::fake_agent::hello("h1"))]);
    let refused = AgentsClient::new(channel).session(hello).await.expect_err("it has no certificate");
    assert_eq!(refused.code(), tonic::Code::Unauthenticated, "{refused}");
    cluster.stop_all().await;
}
