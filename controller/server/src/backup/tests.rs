use futures_util::TryStreamExt;
use pontoon_core::command::{CreateApp, FoundTrust};
use pontoon_core::{Command, Entry, Stamped, State};
use pontoon_kit::{Authority, CancellationToken};
use pontoon_model::{ControllerId, IdempotencyKey, Secret};

use super::*;
use crate::raft::Member;

/// As a cluster of `apps` apps has it, with an authority of its own.
fn state(apps: u64) -> State {
    let authority = Authority::create().unwrap();
    let found = FoundTrust {
        cluster: "test".into(),
        certificate_life: 3600,
        fingerprint: Digest(authority.fingerprint().unwrap().0),
        certificate: authority.certificate().into(),
        key: Secret(authority.key().into()),
    };
    let mut state = State::default();
    let create = |n: u64| Command::from(CreateApp { name: format!("app-{n}").parse().unwrap() });
    let commands = std::iter::once(Command::from(found)).chain((1..=apps).map(create));
    let commands = commands.zip(1..).map(|(command, n)| Stamped { key: IdempotencyKey(n), command }).collect();
    let raise = |to: u32| {
        let command = Command::from(pontoon_core::command::RaiseFeatureLevel { to });
        vec![Stamped { key: IdempotencyKey(u128::MAX - u128::from(to)), command }]
    };
    for (index, commands) in [(1, raise(2)), (2, raise(3)), (3, commands)] {
        let outcomes = state.apply(index, &Entry { time: Timestamp(index), commands });
        assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
    }
    state
}

async fn bytes_of(state: State) -> Vec<u8> {
    let source = Source { state: state.into(), cluster: "test".into(), keys: Vec::new(), bundles: None };
    let parts: Vec<_> = stream(source, (), CancellationToken::new()).try_collect().await.unwrap();
    parts.concat()
}

fn records(state: &State) -> Vec<Vec<u8>> {
    state.to_records().collect::<Result<_, _>>().unwrap()
}

fn place(folder: &std::path::Path) -> Place<'_> {
    let own = Member { id: ControllerId(77), name: "new".parse().unwrap(), grpc: "127.0.0.1:1".parse().unwrap() };
    Place { folder, own }
}

fn entries(folder: &std::path::Path) -> usize {
    std::fs::read_dir(folder).unwrap().count()
}

#[tokio::test]
async fn what_was_written_reads_back_record_by_record() {
    // More than one part.
    let state = state(10_000);
    let bytes = bytes_of(state.clone()).await;
    let contents = verify(&bytes[..]).unwrap();
    assert_eq!((contents.manifest.cluster.as_str(), contents.manifest.index), ("test", 3));
    assert_eq!(records(&contents.state), records(&state));
    assert_eq!(contents.end.records, records(&state).len() as u64);
    assert!(bytes.len() > 1024 * 1024, "{}", bytes.len());
    // Any tar reads it.
    let names: Vec<_> = tar::Archive::new(&bytes[..])
        .entries()
        .unwrap()
        .map(|entry| entry.unwrap().path().unwrap().to_string_lossy().into_owned())
        .collect();
    assert_eq!((names[0].as_str(), names.last().unwrap().as_str()), ("manifest.json", "end.json"));
}

#[tokio::test]
async fn cut_anywhere_or_with_another_byte_it_is_refused_and_nothing_is_made() {
    let bytes = bytes_of(state(3)).await;
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("controller");
    let refused = |bytes: &[u8]| {
        let error = restore(bytes, &place(&folder), |_| Ok(())).unwrap_err();
        assert_eq!(entries(parent.path()), 0, "{error}");
        error
    };
    for len in (0..bytes.len()).step_by(509) {
        let error = refused(&bytes[..len]);
        assert!(matches!(error, BackupError::Damaged { .. }), "{len}: {error}");
    }
    // Behind that is the end's own entry and tar's two empty blocks.
    let summed = bytes.len() - 4 * 512;
    for at in (0..summed).step_by(101) {
        let mut other = bytes.clone();
        other[at] ^= 1;
        refused(&other);
    }
    assert!(matches!(refused(&[&bytes[..], &[0; 512]].concat()), BackupError::Damaged { .. }));
}

#[tokio::test]
async fn of_a_later_format_or_something_else_it_is_refused_with_a_word() {
    let bytes = bytes_of(state(1)).await;
    let text = String::from_utf8_lossy(&bytes[..1024]).into_owned();
    let at = text.find("\"format\":1").unwrap();
    let mut later = bytes.clone();
    later[at + 9] = b'3';
    let error = verify(&later[..]).unwrap_err().to_string();
    assert!(error.contains("format 3") && error.contains("or a newer one"), "{error}");
    let error = verify(&[b'x'; 4096][..]).unwrap_err();
    assert!(matches!(error, BackupError::Foreign { .. }), "{error}");
}

#[tokio::test]
async fn a_folder_that_holds_anything_is_left_alone() {
    let bytes = bytes_of(state(1)).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("mine");
    std::fs::write(&file, b"x").unwrap();
    for place_at in [folder.path(), &file] {
        let error = restore(&bytes[..], &place(place_at), |_| Ok(())).unwrap_err();
        assert!(matches!(error, BackupError::NotEmpty { .. }), "{error}");
    }
    assert_eq!((entries(folder.path()), std::fs::read(&file).unwrap()), (1, b"x".to_vec()));
    // And what cannot be finished leaves nothing.
    let empty = tempfile::tempdir().unwrap();
    let inner = empty.path().join("c");
    let error = restore(&bytes[..], &place(&inner), |_| Err("no".into())).unwrap_err();
    assert!(matches!(error, BackupError::Finish(_)), "{error}");
    assert_eq!(entries(empty.path()), 0);
}
