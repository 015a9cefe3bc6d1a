//! What people set is in no file of a controller as they set it, and every controller of the cluster can open it all the same.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use pontoon_controller::backup::{Place, restore};
use pontoon_controller::raft::{Compaction, Member};
use pontoon_kit::{Authority, Role};
use pontoon_model::ControllerId;
use serde_json::{Value, json};

use super::fake_agent::FakeAgent;
use super::nodes::{Cluster, archive, until};

const APP: &str = "shop-of-needles";
const HAYSTACK: &str = "/v1/apps/shop-of-needles/env";
const NEEDLE: &str = "hunter2 is hidden in the hay";
const EAB: &str = "bmVlZGxlLW9mLWFuLWFjY291bnQ";

/// Files of the data folder that hold these bytes.
fn holding(folder: &Path, needle: &[u8]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let path = entry.path();
        if path.is_dir() {
            found.extend(holding(&path, needle));
        } else if fs::read(&path).unwrap().windows(needle.len()).any(|part| part == needle) {
            found.push(path);
        }
    }
    found
}

async fn env(cluster: &Cluster, node: usize) -> Result<(), String> {
    let env = cluster.try_get(node, HAYSTACK).await?;
    if env["NEEDLE"] == NEEDLE { Ok(()) } else { Err(env.to_string()) }
}

/// Sets a variable, and then enough else that snapshots are made.
async fn fill(cluster: &Cluster) {
    cluster.post(0, "/v1/apps", json!({"name": APP})).await;
    cluster.patch(1, HAYSTACK, json!({"set": {"NEEDLE": NEEDLE}})).await;
    for n in 0..12 {
        cluster.patch(2, HAYSTACK, json!({"set": {"HAY": format!("{n}").repeat(10_000)}})).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_people_set_is_in_no_file_of_a_data_folder_and_opens_where_it_is_used() {
    let mut cluster = Cluster::start(3).await;
    for node in 0..3 {
        cluster.stop(node).await;
    }
    for node in 0..3 {
        let store = Compaction { snapshot_bytes: 64 * 1024, kept_bytes: 64 * 1024 };
        cluster.launch_as(node, |config| config.store = store);
    }
    cluster.leader().await;
    fill(&cluster).await;
    let made = Authority::create().unwrap().issue(Role::Balancer, "a.example").unwrap();
    cluster.post(0, "/v1/certificates", json!({"chain": made.certificate, "key": made.key})).await;
    let acme = json!({"directory": "https://127.0.0.1:1/dir", "email": "you@a.example", "agree_tos": true,
        "eab_kid": "kid", "eab_hmac": EAB});
    cluster.put(1, "/v1/acme", acme).await;

    // It reaches who shall have it: a build, and whoever may look.
    let agent = FakeAgent::start(&cluster, "h1", 1).await;
    let source = cluster.upload(0, APP, archive(&[("index.html", "x")])).await;
    cluster.post(0, &format!("/v1/apps/{APP}/builds"), json!({"source": source["digest"]})).await;
    until("the agent to be given the value", async || match agent.value_of("NEEDLE") {
        Some(value) if value == NEEDLE => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    for node in 0..3 {
        until("the value to be shown", async || env(&cluster, node).await).await;
        until("a snapshot with the app", async || {
            let snapshot = cluster.data_dir(node).join("raft/snapshots");
            if holding(&snapshot, APP.as_bytes()).is_empty() { Err("there is none".to_owned()) } else { Ok(()) }
        })
        .await;
    }
    // The same value again is no change: no release is made of it.
    let before = cluster.get(0, &format!("/v1/apps/{APP}/releases")).await;
    cluster.patch(2, HAYSTACK, json!({"set": {"NEEDLE": NEEDLE}})).await;
    assert_eq!(cluster.get(0, &format!("/v1/apps/{APP}/releases")).await, before);

    agent.stop();
    let line_of = |key: &str| key.lines().nth(1).expect("a line of the key").to_owned();
    let keys = [line_of(&made.key), line_of(cluster.authority.key())];
    for node in 0..3 {
        cluster.stop(node).await;
        let folder = cluster.data_dir(node);
        for needle in [NEEDLE, "11111111111111111111", EAB, &keys[0], &keys[1]] {
            assert_eq!(holding(&folder, needle.as_bytes()), Vec::<PathBuf>::new(), "{needle}");
        }
        // The search finds what is there: in the log and in a snapshot.
        let found = holding(&folder, APP.as_bytes());
        let is_in = |part: &str| found.iter().any(|path| path.to_string_lossy().contains(part));
        assert!(is_in("snapshots") && found.len() >= 2, "{found:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_joins_or_has_lost_its_keys_gets_them_from_the_others() {
    let mut cluster = Cluster::start(3).await;
    fill(&cluster).await;
    let newcomer = cluster.let_one_in();
    until("the newcomer to show the value", async || env(&cluster, newcomer).await).await;
    let mode = fs::metadata(cluster.tls(newcomer).join("sealing.keys")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let lost = (cluster.leader().await + 1) % 3;
    cluster.stop(lost).await;
    fs::remove_file(cluster.tls(lost).join("sealing.keys")).unwrap();
    cluster.launch(lost);
    until("the keys to be there again", async || env(&cluster, lost).await).await;
    assert_eq!(keys_of(&cluster, lost), keys_of(&cluster, newcomer));
    cluster.stop_all().await;
}

/// A controller that starts goes through all that its log says before it knows of its newest key.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_are_kept_when_every_controller_starts_again() {
    let mut cluster = Cluster::start(3).await;
    cluster.post(0, "/v1/apps", json!({"name": APP})).await;
    cluster.patch(1, HAYSTACK, json!({"set": {"NEEDLE": NEEDLE}})).await;
    let before = keys_of(&cluster, 0);
    for round in 0..3 {
        for node in 0..3 {
            cluster.stop(node).await;
        }
        for node in 0..3 {
            cluster.launch(node);
        }
        for node in 0..3 {
            until("the value to be shown again", async || env(&cluster, node).await).await;
            // In use or not yet, by what the controller has seen of the state when it was stopped.
            assert_eq!(keys_of(&cluster, node).len(), before.len(), "round {round}");
        }
    }
    cluster.stop_all().await;
}

fn keys_of(cluster: &Cluster, node: usize) -> Vec<u8> {
    fs::read(cluster.tls(node).join("sealing.keys")).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_its_keys_and_others_a_controller_says_what_is_wrong_and_a_backup_brings_them_back() {
    let mut cluster = Cluster::start(1).await;
    cluster.post(0, "/v1/apps", json!({"name": APP})).await;
    cluster.patch(0, HAYSTACK, json!({"set": {"NEEDLE": NEEDLE}})).await;
    let backup = until("a backup", async || cluster.try_bytes(0, "/v1/backup").await).await;

    cluster.stop(0).await;
    fs::remove_file(cluster.tls(0).join("sealing.keys")).unwrap();
    cluster.launch(0);
    cluster.leader().await;
    let said = until("a refusal that says why", async || match cluster.try_get(0, HAYSTACK).await {
        Err(said) if said.contains("sealing.keys") => Ok(said),
        other => Err(format!("{other:?}")),
    })
    .await;
    assert!(said.starts_with("503") && said.contains("the variable NEEDLE of") && said.contains("put back"), "{said}");
    let refused = cluster.try_patch(0, HAYSTACK, json!({"set": {"OTHER": "x"}})).await.unwrap_err();
    assert!(refused.contains("sealing.keys"), "nothing is written that nobody could open: {refused}");
    let refused = cluster.try_bytes(0, "/v1/backup").await.unwrap_err();
    assert!(refused.contains("sealing.keys"), "nor a backup made that is worth nothing: {refused}");
    cluster.stop(0).await;

    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("restored");
    let own = Member { id: ControllerId(99), name: "c0".parse().unwrap(), grpc: cluster.grpc(0) };
    let id = own.id;
    restore(&backup[..], &Place { folder: &folder, own }, |_| Ok(())).unwrap();
    assert_eq!(holding(&folder.join("data"), NEEDLE.as_bytes()), Vec::<PathBuf>::new());
    cluster.launch_as(0, |config| {
        (config.id, config.founding) = (id, None);
        config.members[0].id = id;
        (config.data_dir, config.tls_dir) = (folder.join("data"), folder.join("tls"));
    });
    until("the value in the restored cluster", async || env(&cluster, 0).await).await;
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_another_authority_everything_is_sealed_with_another_key_and_the_former_one_goes() {
    let mut cluster = Cluster::start(3).await;
    fill(&cluster).await;
    let before = keys_of(&cluster, 0);
    until("the authority to be changed", async || cluster.try_post(0, "/v1/ca/rotate", Value::Null).await).await;
    for node in 0..3 {
        until("one key, and another than before", async || {
            let now = keys_of(&cluster, node);
            let is_other = now != before && now.len() == before.len();
            if is_other { Ok(()) } else { Err(format!("{} bytes, {} before", now.len(), before.len())) }
        })
        .await;
        env(&cluster, node).await.unwrap();
    }
    cluster.patch(1, HAYSTACK, json!({"set": {"MORE": "x"}})).await;
    for node in 0..3 {
        cluster.stop(node).await;
    }
}
