//! A backup by REST while others write, and the controller that is made of it.

use pontoon_core::command::FoundTrust;
use pontoon_core::{Command, State};
use pontoon_model::{BlobRef, Digest, MemoryBytes, SecretPlace};

use super::*;
use crate::backup::{Contents, Place, read, restore, verify};

async fn found(api: &Fixture) {
    let authority = Authority::create().unwrap();
    let state = api.api.state_to_seal_by().await.unwrap();
    let fingerprint = Digest(authority.fingerprint().unwrap().0);
    let place = SecretPlace::Authority(fingerprint);
    let command = FoundTrust {
        cluster: "test".into(),
        certificate_life: 3600,
        fingerprint,
        certificate: authority.certificate().into(),
        key: api.api.sealing.seal(state.trust(), &place, authority.key()).unwrap(),
    };
    let (outcomes, _) = api.api.propose_all(extract::Key::none(), vec![Command::from(command)]).await.unwrap();
    outcomes[0].as_ref().unwrap();
}

async fn get(api: &Fixture, path: &str) -> Bytes {
    let request = Request::get(path).header(AUTHORIZATION, format!("Bearer {TOKEN}")).body(Body::empty()).unwrap();
    let (status, bytes) = api.send(request).await;
    assert_eq!(status, StatusCode::OK, "{bytes:?}");
    bytes
}

fn records(state: &State) -> Vec<Vec<u8>> {
    state.to_records().collect::<Result<_, _>>().unwrap()
}

#[tokio::test]
async fn a_backup_under_load_holds_what_was_acknowledged_and_nothing_in_part() {
    let api = Fixture::start().await;
    assert_eq!(code(&api.call(Method::GET, "/v1/backup", None).await), (409, "conflict"), "no authority");
    found(&api).await;
    let acknowledged = std::sync::atomic::AtomicUsize::new(0);
    let acknowledged = || &acknowledged;
    let order = std::sync::atomic::Ordering::SeqCst;
    let writing = async {
        for n in 0..200 {
            assert_eq!(api.call(Method::POST, "/v1/apps", json!({"name": format!("app-{n}")})).await.0, 200);
            acknowledged().store(n + 1, order);
        }
    };
    let reading = async {
        let mut read = 0;
        while acknowledged().load(order) < 200 {
            let before = acknowledged().load(order);
            let Contents { manifest, state, .. } = verify(&get(&api, "/v1/backup").await[..]).unwrap();
            let apps = state.apps().count();
            assert!((before..=acknowledged().load(order) + 1).contains(&apps), "{before} {apps}");
            // One at a time was made: the first so many are there, and no other.
            assert!((0..apps).all(|n| state.app(&format!("app-{n}").parse().unwrap()).is_some()));
            assert_eq!(manifest.index, state.index());
            assert_eq!(pontoon_core::check::violations(&state), Vec::<String>::new());
            read += 1;
        }
        assert!(read > 3, "{read}");
    };
    tokio::join!(writing, reading);
    let quiet = verify(&get(&api, "/v1/backup").await[..]).unwrap();
    assert_eq!(records(&quiet.state), records(&api.api.feed.snapshot()));
    api.api.audit.flush().await;
    let audit = std::fs::read_to_string(api.folder.path().join("audit/audit.jsonl")).unwrap();
    assert!(audit.contains("\"Backup\""), "handing out the keys is noted");
}

#[tokio::test]
async fn only_one_is_made_at_a_time() {
    let api = Fixture::start().await;
    found(&api).await;
    let _permit = api.api.limits.backups.try_acquire().unwrap();
    assert_eq!(code(&api.call(Method::GET, "/v1/backup", None).await), (503, "busy"));
}

#[tokio::test]
async fn a_controller_made_of_a_backup_has_the_state_and_leads_alone_in_the_next_epoch() {
    let api = Fixture::with_apps().await;
    found(&api).await;
    let (_, token) = api.token(&["admin"], None).await;
    let bytes = get(&api, "/v1/backup").await;
    let before = verify(&bytes[..]).unwrap();

    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("controller");
    let (id, name): (_, ControllerName) = (ControllerId(99), "b".parse().unwrap());
    let own = Member { id, name: name.clone(), grpc: SocketAddr::from(([127, 0, 0, 1], 1)) };
    let restored = restore(&bytes[..], &Place { folder: &folder, own: own.clone() }, |_| Ok(())).unwrap();
    assert_eq!((restored.epoch, restored.apps, restored.missing), (1, 2, 0));

    let identity = pontoon_kit::Identity::load(&folder.join("tls")).unwrap();
    assert_eq!(identity.peer().unwrap().to_string(), "controller b");
    let credentials = Credentials::new(identity).unwrap();
    let started = Consensus::start(ConsensusConfig {
        id,
        name,
        data_dir: folder.join("data"),
        members: vec![own],
        credentials,
        timing: Timing::lan(),
        auto_timing: false,
        joins: false,
        remembered: Vec::new(),
        was_member: false,
        compaction: Compaction::default(),
    });
    let (consensus, _service) = started.await.unwrap();
    let mut leadership = consensus.leadership();
    tokio::time::timeout(ELECTED, leadership.wait_for(|now| now.leading)).await.expect("elected").unwrap();
    let create = pontoon_core::command::CreateApp { name: "more".parse().unwrap() };
    consensus.proposer().propose(create.into()).await.unwrap();
    let state = consensus.feed().snapshot();
    assert_eq!(state.epoch(), 1);
    assert!(
        state.app(&"shop".parse().unwrap()).is_some() && state.api_token_of(&Digest::of(token.as_bytes())).is_some()
    );
    assert_eq!(state.trust().signing(), before.state.trust().signing(), "the same authority");
    assert!(state.controllers().next().is_none(), "the former members are none any more");
    assert_eq!(pontoon_core::check::violations(&state), Vec::<String>::new());
    consensus.shutdown().await;
}

/// A stored blob that a release refers to.
async fn with_bundle(api: &Fixture) -> BlobRef {
    assert_eq!(api.call(Method::POST, "/v1/apps", json!({"name": "shop"})).await.0, 200);
    let source = api.upload("shop", archive(&[("index.html", "hello")])).await;
    let digest: Digest = source.1["digest"].as_str().unwrap().parse().unwrap();
    let build = api.call(Method::POST, "/v1/apps/shop/builds", json!({"source": digest})).await;
    assert_eq!(build.0, 200, "{build:?}");
    BlobRef { digest, size: MemoryBytes(source.1["size"].as_u64().unwrap()) }
}

#[tokio::test]
async fn bundles_come_along_if_asked_for_and_their_digest_is_checked() {
    let api = Fixture::start().await;
    found(&api).await;
    let blob = with_bundle(&api).await;
    let without = verify(&get(&api, "/v1/backup").await[..]).unwrap();
    assert_eq!((without.listed.len(), without.end.bundles), (1, 0));
    let bytes = get(&api, "/v1/backup?bundles=true").await;
    let mut seen = Vec::new();
    let contents = read(&bytes[..], &mut |blob, bytes| {
        let mut found = Vec::new();
        std::io::Read::read_to_end(bytes, &mut found).unwrap();
        seen.push((blob, Digest::of(&found)));
        Ok(())
    });
    assert_eq!((contents.unwrap().end.bundles, seen), (1, vec![(blob, blob.digest)]));

    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("c");
    let own = Member { id: ControllerId(9), name: "b".parse().unwrap(), grpc: SocketAddr::from(([127, 0, 0, 1], 1)) };
    let place = Place { folder: &folder, own };
    let restored = restore(&bytes[..], &place, |_| Ok(())).unwrap();
    assert_eq!((restored.bundles, restored.missing), (1, 0));
    let store = BlobStore::open(&folder.join("data")).unwrap();
    let (kept, mut file) = store.read(&blob.digest).await.unwrap();
    let mut found = Vec::new();
    tokio::io::AsyncReadExt::read_to_end(&mut file, &mut found).await.unwrap();
    assert_eq!((kept, Digest::of(&found)), (blob, blob.digest));

    // One that rotted on the controller's disk is found while the backup is read back.
    std::fs::write(api.api.store.path(&blob.digest), vec![7; blob.size.0 as usize]).unwrap();
    let error = verify(&get(&api, "/v1/backup?bundles=true").await[..]).unwrap_err();
    assert!(error.to_string().contains("is not what its name says"), "{error}");
    // One that is nowhere is named.
    api.api.store.remove(&blob.digest).unwrap();
    let lacking = verify(&get(&api, "/v1/backup?bundles=true").await[..]).unwrap();
    assert_eq!(lacking.end.missing, vec![blob.digest]);
}

#[tokio::test]
async fn the_last_copy_of_a_store_becomes_a_cluster_of_its_own_under_a_new_id() {
    use crate::raft::{begin_anew, last_copy};

    let api = Fixture::with_apps().await;
    found(&api).await;
    let data = api.folder.path();
    let before = api.api.feed.snapshot();
    api.api.consensus.shutdown().await;
    let copy = last_copy(data, ControllerId(1)).await.unwrap();
    assert_eq!(records(&copy.state), records(&before));
    let (committed, last) = (copy.committed.unwrap(), copy.last.unwrap());
    assert!(committed.index <= last.index && last.index == before.index() && last.term > 0, "{committed:?} {last:?}");
    assert_eq!(copy.members.iter().map(|member| member.name.as_str()).collect::<Vec<_>>(), ["a"]);

    let (id, name): (_, ControllerName) = (ControllerId(1234), "a".parse().unwrap());
    let own = Member { id, name: name.clone(), grpc: SocketAddr::from(([127, 0, 0, 1], 1)) };
    let state = copy.state.begun_anew(None, before.time());
    let aside = begin_anew(data, own, state).await.unwrap();
    assert!(aside.join("identity").exists(), "the old store is kept");

    let config = |id: ControllerId| ConsensusConfig {
        id,
        name: name.clone(),
        data_dir: data.to_owned(),
        members: vec![Member { id, name: name.clone(), grpc: SocketAddr::from(([127, 0, 0, 1], 1)) }],
        credentials: Credentials::new(Authority::create().unwrap().issue(Role::Controller, "a").unwrap()).unwrap(),
        timing: Timing::lan(),
        auto_timing: false,
        joins: false,
        remembered: Vec::new(),
        was_member: false,
        compaction: Compaction::default(),
    };
    let old =
        Consensus::start(config(ControllerId(1))).await.err().expect("the old id is nobody's any more").to_string();
    assert!(old.contains("belongs to c1234"), "{old}");
    let (consensus, _service) = Consensus::start(config(id)).await.unwrap();
    let mut leadership = consensus.leadership();
    tokio::time::timeout(ELECTED, leadership.wait_for(|now| now.leading)).await.expect("elected").unwrap();
    let create = pontoon_core::command::CreateApp { name: "more".parse().unwrap() };
    consensus.proposer().propose(create.into()).await.unwrap();
    let after = consensus.feed().snapshot();
    assert_eq!((after.epoch(), after.apps().count()), (1, before.apps().count() + 1));
    consensus.shutdown().await;
    // And it starts again.
    let (consensus, _service) = Consensus::start(config(id)).await.unwrap();
    let index = after.index();
    let again = extract::state_at(&consensus.feed(), index).await.unwrap();
    assert_eq!(again.apps().count(), after.apps().count());
    consensus.shutdown().await;
}
