use super::*;

fn of_pem(pem: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()
}

#[test]
fn a_certificate_says_who_its_owner_is() {
    let authority = Authority::create().unwrap();
    let identity = authority.issue(Role::Agent, "home.attic-1").unwrap();
    assert_eq!(identity.peer().unwrap(), Peer { role: Role::Agent, id: "home.attic-1".into() });
}

#[test]
fn the_authoritys_own_certificate_names_nobody() {
    let authority = Authority::create().unwrap();
    assert!(matches!(peer_of(&of_pem(authority.certificate())), Err(PkiError::Anonymous)));
}

#[test]
fn an_authority_is_found_again() {
    let folder = tempfile::tempdir().unwrap();
    let first = Authority::load_or_create(folder.path()).unwrap();
    let second = Authority::load_or_create(folder.path()).unwrap();
    assert_eq!(first, second);
    second.issue(Role::Controller, "a").unwrap().save(&folder.path().join("a")).unwrap();
    Identity::load(&folder.path().join("a")).unwrap();
}

#[test]
fn a_key_stays_where_it_was_made_and_is_found_again() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let tls = folder.path().join("tls");
    let key = Identity::load_or_make_key(&tls).unwrap();
    assert_eq!(Identity::load_or_make_key(&tls).unwrap(), key);
    let mode = std::fs::metadata(tls.join("key.pem")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

/// Whoever can read a key is that machine.
#[test]
fn a_key_that_others_can_read_is_refused_with_what_to_do() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::load_or_create(folder.path()).unwrap();
    authority.issue(Role::Agent, "a").unwrap().save(folder.path()).unwrap();
    let key = folder.path().join("key.pem");
    let set = |path: &std::path::Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    for mode in [0o640, 0o604, 0o620, 0o644] {
        set(&key, mode);
        let loaded = Identity::load(folder.path()).unwrap_err();
        let made = Identity::load_or_make_key(folder.path()).unwrap_err();
        for error in [loaded.to_string(), made.to_string()] {
            assert!(error.contains(&format!("`chmod 600 {}`", key.display())), "{mode:o}: {error}");
        }
    }
    for mode in [0o600, 0o400] {
        set(&key, mode);
        Identity::load_usable(folder.path()).unwrap();
    }
    set(&folder.path().join("ca-key.pem"), 0o640);
    for loaded in [Authority::load_or_create(folder.path()), Authority::load(folder.path())] {
        assert!(matches!(loaded, Err(PkiError::Exposed { .. })), "{loaded:?}");
    }
}

#[test]
fn each_file_that_is_lost_is_named_and_half_of_what_is_needed_is_not_usable() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::create().unwrap();
    for file in ["ca.pem", "cert.pem", "key.pem"] {
        authority.issue(Role::Agent, "a").unwrap().save(folder.path()).unwrap();
        std::fs::remove_file(folder.path().join(file)).unwrap();
        let error = Identity::load(folder.path()).unwrap_err();
        assert!(matches!(&error, PkiError::Lost { path, .. } if path.ends_with(file)), "{error}");
        authority.issue(Role::Agent, "a").unwrap().save(folder.path()).unwrap();
        std::fs::write(folder.path().join(file), "damaged").unwrap();
        assert!(Identity::load_usable(folder.path()).is_err(), "{file}");
    }
    let error = Identity::load_or_make_key(folder.path()).unwrap_err();
    assert!(matches!(error, PkiError::Key { .. }), "{error}");
}

#[test]
fn a_request_gets_the_names_the_authority_says_and_no_others() {
    let authority = Authority::create().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let key = Identity::load_or_make_key(folder.path()).unwrap();
    let request = Identity::request(&key).unwrap();
    let life = Duration::from_secs(3600);
    let certificate = authority.certify(Role::Balancer, "b", &request, life).unwrap();
    let identity = Identity { ca: authority.certificate().into(), certificate, key };
    assert_eq!(identity.peer().unwrap(), Peer { role: Role::Balancer, id: "b".into() });
    assert_eq!(identity.key_id().unwrap(), KeyId::of_request(&request).unwrap());
    let validity = identity.validity().unwrap();
    assert_eq!(validity.ends.duration_since(validity.made).unwrap(), life);
    assert_eq!(validity.renew_at().duration_since(validity.made).unwrap(), life * 2 / 3);
}

#[test]
fn a_request_that_was_tampered_with_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let key = Identity::load_or_make_key(folder.path()).unwrap();
    let request = Identity::request(&key).unwrap();
    for at in [0, request.len() / 2, request.len() - 1] {
        let mut bad = request.clone();
        bad[at] ^= 1;
        assert!(KeyId::of_request(&bad).is_err(), "byte {at}");
    }
    assert!(KeyId::of_request(b"").is_err());
}

#[test]
fn hashes_read_back_and_others_do_not() {
    let id = KeyId([0xab; 32]);
    assert_eq!(id.to_string().parse(), Ok(id));
    for bad in ["", "ab", &"g".repeat(64), &"é".repeat(32)] {
        assert!(bad.parse::<Fingerprint>().is_err(), "{bad}");
    }
}
