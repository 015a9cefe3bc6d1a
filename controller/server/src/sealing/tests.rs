use std::os::unix::fs::PermissionsExt;

use bytes::Bytes;
use pontoon_core::command::{AdoptSealingKey, RaiseFeatureLevel, RetireSealingKey};
use pontoon_core::{Command, Entry, Stamped, State};
use pontoon_kit::SealKey;
use pontoon_model::{IdempotencyKey, SealingKeyId, Secret, SecretPlace, Timestamp};

use super::keys::id_of;
use super::{SealError, SealingKeys};

/// A folder with one key in use.
pub(crate) fn one_key() -> (tempfile::TempDir, SealingKeys, SealingKeyId) {
    let folder = tempfile::tempdir().unwrap();
    let keys = SealingKeys::open(folder.path()).unwrap();
    let id = id_of(&keys.next().unwrap());
    (folder, keys, id)
}

fn apply(state: &mut State, command: impl Into<Command>) {
    let index = state.index() + 1;
    let commands = vec![Stamped { key: IdempotencyKey(u128::from(index)), command: command.into() }];
    state.apply(index, &Entry { time: Timestamp(1), commands }).remove(0).unwrap();
}

/// A state that names these keys, in this order.
fn naming(ids: &[SealingKeyId]) -> State {
    let mut state = State::default();
    (2..=pontoon_core::level::SEALING).for_each(|to| apply(&mut state, RaiseFeatureLevel { to }));
    let mut follows = None;
    for id in ids {
        apply(&mut state, AdoptSealingKey { follows, id: *id });
        follows = Some(*id);
    }
    state
}

fn place(name: &str) -> SecretPlace {
    SecretPlace::Env { app: "shop".parse().unwrap(), name: name.to_owned() }
}

#[test]
fn a_value_is_sealed_with_the_newest_key_and_opens_in_its_place_only() {
    let (_folder, keys, id) = one_key();
    assert_eq!(keys.seal(State::default().trust(), &place("A"), "hush").unwrap(), "hush".into(), "there is no key yet");
    let state = naming(&[id]);
    let sealed = keys.seal(state.trust(), &place("A"), "hush").unwrap();
    assert!(!sealed.0.contains("hush"));
    assert_eq!(keys.open_one(&place("A"), &sealed).unwrap(), "hush");
    assert_eq!(keys.open_one(&place("A"), &"as before".into()).unwrap(), "as before");
    let swapped = keys.open_one(&place("B"), &sealed).unwrap_err();
    assert!(matches!(swapped, SealError::Damaged { .. }), "{swapped}");
    // What is the same is kept the same.
    let other = keys.seal(state.trust(), &place("A"), "other").unwrap();
    let like = |value: &str| keys.seal_like(state.trust(), &place("A"), value, [&other, &sealed]).unwrap();
    assert_eq!((like("hush"), like("other")), (sealed.clone(), other.clone()));
    assert!(![&sealed, &other].contains(&&like("new")));
    assert!(keys.seal_like(state.trust(), &place("A"), "plain", [&Secret::from("plain")]).unwrap().is_sealed());
}

#[test]
fn a_controller_without_the_key_says_what_is_wrong_and_what_to_do() {
    let (_folder, keys, id) = one_key();
    let state = naming(&[id]);
    let sealed = keys.seal(state.trust(), &place("A"), "hush").unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    let without = SealingKeys::open(elsewhere.path()).unwrap();
    assert_eq!((without.missing(state.trust()), keys.missing(state.trust())), (vec![id], vec![]));
    for error in [
        without.open_one(&place("A"), &sealed).unwrap_err(),
        without.seal(state.trust(), &place("A"), "x").unwrap_err(),
        without.needed_by(&state).unwrap_err(),
    ] {
        let said = error.to_string();
        assert!(said.contains(&id.to_string()) && said.contains("sealing.keys") && said.contains("put back"), "{said}");
    }
    assert!(without.open_one(&place("A"), &sealed).unwrap_err().to_string().contains("the variable A of shop"));
}

#[test]
fn keys_are_in_a_file_for_nobody_else_and_come_back_from_it() {
    let (folder, keys, id) = one_key();
    let file = folder.path().join("sealing.keys");
    let mode = |path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&file), 0o600);
    let again = SealingKeys::open(folder.path()).unwrap();
    assert_eq!(again.of([id]), keys.of([id]));
    assert_eq!(id_of(&again.next().unwrap()), id, "one that is not in use yet is the next");

    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o640)).unwrap();
    let error = SealingKeys::open(folder.path()).unwrap_err().to_string();
    assert!(error.contains("chmod 600"), "{error}");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::write(&file, b"nonsense").unwrap();
    let error = SealingKeys::open(folder.path()).unwrap_err().to_string();
    assert!(error.contains("move it away"), "{error}");
}

#[test]
fn a_key_goes_when_the_state_no_longer_names_it_and_one_that_was_only_offered_stays() {
    let (folder, keys, first) = one_key();
    let mut state = naming(&[first]);
    keys.follow(state.trust()).unwrap();
    keys.follow(State::default().trust()).unwrap();
    assert!(keys.holds(first), "a state of before says nothing");
    let second = id_of(&keys.next().unwrap());
    assert_ne!(second, first, "the first is in use");
    keys.follow(state.trust()).unwrap();
    assert!(keys.holds(first) && keys.holds(second));
    apply(&mut state, AdoptSealingKey { follows: Some(first), id: second });
    keys.follow(state.trust()).unwrap();
    apply(&mut state, RetireSealingKey { id: first });
    keys.follow(state.trust()).unwrap();
    assert!(!keys.holds(first) && keys.holds(second));
    assert!(!SealingKeys::open(folder.path()).unwrap().holds(first), "nor is it on the disk");
    // Offers of leaders that have ended do not pile up.
    for _ in 0..20 {
        keys.take(&SealKey::generate(), false).unwrap();
    }
    let record = std::fs::metadata(folder.path().join("sealing.keys")).unwrap().len();
    assert!(keys.holds(second) && record < 6 * 40, "{record}");
}

#[tokio::test]
async fn another_controller_is_given_the_keys_of_the_cluster_and_its_offer_is_kept() {
    let (_folder, keys, id) = one_key();
    let state = naming(&[id]);
    let offered = SealKey::generate();
    let (kept, given) = keys.answer(state.trust(), Some(Bytes::copy_from_slice(offered.bytes()))).await;
    assert!(kept && keys.holds(id_of(&offered)));
    assert_eq!(given.iter().filter_map(super::id_of_sent).collect::<Vec<_>>(), [id], "not what is only offered");
    let (kept, _) = keys.answer(state.trust(), Some(Bytes::from_static(b"short"))).await;
    assert!(!kept);
}
