use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;

use super::incoming::HANDSHAKES;
use super::*;
use crate::pki::{Authority, Identity, Role};

const PATIENCE: Duration = Duration::from_secs(5);

type Accepted = ReceiverStream<std::io::Result<Server>>;

async fn serve(credentials: &Credentials) -> (SocketAddr, Accepted) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    (listener.local_addr().unwrap(), incoming(listener, credentials.clone()))
}

fn credentials(authority: &Authority, role: Role, id: &str) -> Credentials {
    Credentials::new(authority.issue(role, id).unwrap()).unwrap()
}

type Server = Secured<tokio_rustls::server::TlsStream<TcpStream>>;
type Client = tokio_rustls::client::TlsStream<TcpStream>;

/// Connects, and waits until the server took the connection or ended it: in TLS 1.3 a client learns only after its own part
/// of the handshake whether it was let in.
async fn dial(
    address: SocketAddr,
    credentials: &Credentials,
    accepted: &mut Accepted,
) -> std::io::Result<(Server, Client)> {
    let stream = TcpStream::connect(address).await?;
    let name = rustls_pki_types::ServerName::try_from(Role::Controller.domain()).unwrap();
    let mut client = tokio_rustls::TlsConnector::from(credentials.client()).connect(name, stream).await?;
    let mut byte = [0];
    let server = tokio::select! {
        taken = accepted.next() => taken.expect("it goes on")?,
        refused = client.read(&mut byte) => return Err(refused.expect_err("the server says nothing by itself")),
    };
    Ok((server, client))
}

#[tokio::test]
async fn only_who_has_a_certificate_of_the_cluster_or_none_at_all_is_heard() {
    let (ours, theirs) = (Authority::create().unwrap(), Authority::create().unwrap());
    let server = credentials(&ours, Role::Controller, "a");
    let (address, mut accepted) = serve(&server).await;
    dial(address, &credentials(&ours, Role::Agent, "h"), &mut accepted).await.unwrap();
    // Trusts the server, but was signed elsewhere.
    let foreign = theirs.issue(Role::Agent, "h").unwrap();
    let foreign = Credentials::new(Identity { ca: ours.certificate().into(), ..foreign }).unwrap();
    dial(address, &foreign, &mut accepted).await.err().expect("a foreign certificate is refused");
    // Signed here, but trusts others.
    let own = ours.issue(Role::Agent, "h").unwrap();
    let mistaken = Credentials::new(Identity { ca: theirs.certificate().into(), ..own }).unwrap();
    dial(address, &mistaken, &mut accepted).await.err().expect("a foreign server is refused");
    // A server must be of the role that is dialled.
    let (address, mut accepted) = serve(&credentials(&ours, Role::Balancer, "b")).await;
    dial(address, &credentials(&ours, Role::Agent, "h"), &mut accepted)
        .await
        .err()
        .expect("a balancer is no controller");
}

/// As many connections as there are handshakes at once, from one address that says nothing.
#[tokio::test]
async fn an_address_that_opens_connections_and_says_nothing_keeps_nobody_else_out() {
    let authority = Authority::create().unwrap();
    let (address, mut accepted) = serve(&credentials(&authority, Role::Controller, "a")).await;
    let mut silent = Vec::new();
    for _ in 0..HANDSHAKES {
        let socket = TcpSocket::new_v4().unwrap();
        // All of 127.0.0.0/8 is this machine.
        socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
        silent.push(socket.connect(address).await.unwrap());
    }
    let agent = credentials(&authority, Role::Agent, "h");
    let dialled = tokio::time::timeout(PATIENCE, dial(address, &agent, &mut accepted)).await;
    dialled.expect("there is room for others").unwrap();
}

#[tokio::test]
async fn a_revoked_key_is_refused_and_its_connections_end_on_both_sides() {
    let authority = Authority::create().unwrap();
    let (server, agent) = (credentials(&authority, Role::Controller, "a"), credentials(&authority, Role::Agent, "h"));
    let (address, mut accepted) = serve(&server).await;
    let (mut at_server, _client) = dial(address, &agent, &mut accepted).await.unwrap();
    let other = credentials(&authority, Role::Agent, "other");
    let (mut of_other, mut other_client) = dial(address, &other, &mut accepted).await.unwrap();

    let revoked = BTreeSet::from([agent.identity().key_id().unwrap()]);
    server.set_trust(&Trust { revoked, ..server.trust() }).unwrap();
    let mut byte = [0];
    let cut = tokio::time::timeout(PATIENCE, at_server.read(&mut byte)).await.expect("it ends");
    assert_eq!(cut.unwrap_err().kind(), std::io::ErrorKind::ConnectionAborted);
    dial(address, &agent, &mut accepted).await.err().expect("it is not let in again");
    let stream = TcpStream::connect(address).await.unwrap();
    let name = rustls_pki_types::ServerName::try_from(Role::Controller.domain()).unwrap();
    let tls = tokio_rustls::TlsConnector::from(agent.client()).connect(name, stream).await.unwrap();
    let caller = Caller::of(tls.get_ref().1.peer_certificates()).unwrap();
    Secured::new(tls, caller, Some(&agent)).read(&mut byte).await.expect_err("it is told why");
    tokio::time::timeout(PATIENCE, agent.until_revoked()).await.expect("and knows that it is out");
    // The other goes on.
    other_client.write_all(b"y").await.unwrap();
    tokio::time::timeout(PATIENCE, of_other.read_exact(&mut byte)).await.unwrap().unwrap();
    assert_eq!(&byte, b"y");

    // A revoked server is not spoken to.
    let revoked = BTreeSet::from([server.identity().key_id().unwrap()]);
    other.set_trust(&Trust { revoked, ..other.trust() }).unwrap();
    dial(address, &other, &mut accepted).await.err().expect("a revoked controller is refused");
}

/// HTTP/2 writes first: what ends its connection is an error of writing, and the word of why lies unread before it.
#[tokio::test]
async fn who_only_writes_hears_too_that_it_was_revoked() {
    let authority = Authority::create().unwrap();
    let (server, agent) = (credentials(&authority, Role::Controller, "a"), credentials(&authority, Role::Agent, "h"));
    let (address, _accepted) = serve(&server).await;
    let revoked = BTreeSet::from([agent.identity().key_id().unwrap()]);
    server.set_trust(&Trust { revoked, ..server.trust() }).unwrap();
    let mut stream = connect(address, Role::Controller, Some(&agent), agent.client()).await.unwrap();
    let ended = async { while stream.write_all(b"x").await.is_ok() && stream.flush().await.is_ok() {} };
    tokio::time::timeout(PATIENCE, ended).await.expect("it is refused");
    tokio::time::timeout(PATIENCE, agent.until_revoked()).await.expect("it knows why");
}

#[tokio::test]
async fn a_machine_that_is_met_is_there_with_or_without_welcome() {
    let authority = Authority::create().unwrap();
    let (server, agent) = (credentials(&authority, Role::Controller, "a"), credentials(&authority, Role::Agent, "h"));
    let (address, mut accepted) = serve(&server).await;
    let meeting = meet(address, Role::Controller, &agent);
    let welcome = async { accepted.next().await.unwrap().unwrap().write_all(b"x").await.unwrap() };
    let (met, ()) = tokio::join!(meeting, welcome);
    assert!(matches!(met.unwrap(), Met::Taken));
    let revoked = BTreeSet::from([agent.identity().key_id().unwrap()]);
    server.set_trust(&Trust { revoked, ..server.trust() }).unwrap();
    assert!(matches!(meet(address, Role::Controller, &agent).await.unwrap(), Met::Refused(_)));
    tokio::time::timeout(PATIENCE, agent.until_revoked()).await.expect("it was told");
    drop(accepted);
    meet("127.0.0.1:1".parse().unwrap(), Role::Controller, &agent).await.expect_err("nobody is there");
}

#[tokio::test]
async fn a_new_certificate_is_shown_to_the_next_and_drops_nobody() {
    let authority = Authority::create().unwrap();
    let (server, agent) = (credentials(&authority, Role::Controller, "a"), credentials(&authority, Role::Agent, "h"));
    let (address, mut accepted) = serve(&server).await;
    let (mut at_server, mut client) = dial(address, &agent, &mut accepted).await.unwrap();
    let request = Identity::request(&server.identity().key).unwrap();
    let renewed = authority.certify(Role::Controller, "a", &request, Duration::from_secs(60)).unwrap();
    server.renew(renewed.clone()).unwrap();
    assert_eq!(server.identity().certificate, renewed);
    client.write_all(b"z").await.unwrap();
    let mut byte = [0];
    at_server.read_exact(&mut byte).await.unwrap();
    dial(address, &agent, &mut accepted).await.unwrap();
    // A certificate for another key is refused and changes nothing.
    let other = authority.issue(Role::Controller, "a").unwrap();
    server.renew(other.certificate).expect_err("it does not fit the key");
    assert_eq!(server.identity().certificate, renewed);
}

/// While the authority changes, each machine knows the old one, the new one, or both.
#[tokio::test]
async fn what_the_next_authority_signs_is_trusted_by_who_knows_only_the_one_before() {
    let old = Authority::create().unwrap();
    let new = old.successor().unwrap();
    let both = format!("{}{}", old.certificate(), new.certificate());
    let with = |authority: &Authority, role, id: &str, ca: &str| {
        Credentials::new(Identity { ca: ca.to_owned(), ..authority.issue(role, id).unwrap() }).unwrap()
    };
    let sides = |role, id: &str| {
        [
            ("the old one", with(&old, role, id, old.certificate())),
            ("the old one's certificate, both", with(&old, role, id, &both)),
            ("the new one's certificate, both", with(&new, role, id, &both)),
            ("the new one's certificate, not yet told", with(&new, role, id, old.certificate())),
        ]
    };
    for (server_has, server) in sides(Role::Controller, "a") {
        let (address, mut accepted) = serve(&server).await;
        for (client_has, client) in sides(Role::Agent, "h") {
            let dialled = dial(address, &client, &mut accepted).await;
            assert!(dialled.is_ok(), "{client_has} dials {server_has}: {:?}", dialled.err());
        }
    }
    // Once the old one is retired, what it signed is worth nothing.
    let (address, mut accepted) = serve(&with(&new, Role::Controller, "a", new.certificate())).await;
    dial(address, &with(&new, Role::Agent, "h", old.certificate()), &mut accepted).await.unwrap();
    dial(address, &with(&old, Role::Agent, "h", &both), &mut accepted).await.err().expect("signed by a retired one");
}

#[tokio::test]
async fn who_joins_speaks_only_to_the_cluster_of_its_token() {
    let (ours, theirs) = (Authority::create().unwrap(), Authority::create().unwrap());
    let (address, mut accepted) = serve(&credentials(&ours, Role::Controller, "a")).await;
    let ask = |fingerprint| async move {
        let mut channel = pinned_channel(address, fingerprint).unwrap();
        std::future::poll_fn(|cx| tower::Service::poll_ready(&mut channel, cx)).await?;
        tower::Service::call(&mut channel, http::Request::new(tonic::body::Body::empty())).await.map(drop)
    };
    let refused = tokio::time::timeout(PATIENCE, ask(theirs.fingerprint().unwrap())).await.unwrap();
    let refused = TlsFailure::of(&refused.expect_err("another cluster's fingerprint"));
    assert_eq!(refused, Some(TlsFailure::NotTheAuthority { follows_another: false }));
    let asking = tokio::spawn(ask(ours.fingerprint().unwrap()));
    let taken = tokio::time::timeout(PATIENCE, accepted.next()).await.unwrap().unwrap().unwrap();
    let caller = tonic::transport::server::Connected::connect_info(&taken);
    assert_eq!(caller.peer(), None, "it has no certificate");
    asking.abort();

    // Whose authority was changed since is told apart from who is another.
    let (address, _accepted) = serve(&credentials(&ours.successor().unwrap(), Role::Controller, "a")).await;
    let mut channel = pinned_channel(address, ours.fingerprint().unwrap()).unwrap();
    let ready = std::future::poll_fn(|cx| tower::Service::poll_ready(&mut channel, cx));
    let refused = match tokio::time::timeout(PATIENCE, ready).await.unwrap() {
        Ok(()) => tower::Service::call(&mut channel, http::Request::new(tonic::body::Body::empty())).await.map(drop),
        Err(error) => Err(error),
    };
    let refused = TlsFailure::of(&refused.expect_err("the authority before"));
    assert_eq!(refused, Some(TlsFailure::NotTheAuthority { follows_another: true }));
}
