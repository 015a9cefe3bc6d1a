//! Balancers of other sites that are not what they should be.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::StreamExt as _;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{Full, StreamBody};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use pontoon_kit::{Authority, Credentials, Role, tls};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::Notify;

use super::super::support::http::{Client, ask, get, read_head, with_body};
use super::super::support::servo::Servo;
use super::super::support::sites::{impatient, routed};
use super::super::support::within;
use super::World;

/// How a connection between balancers begins, and what is answered.
const ASK: [u8; 16] = *b"PONTOON1\x01\0\0\0\0\0\0\0";
const WELCOME: [u8; 16] = *b"PONTOON1\x03\0\x01\0\0\0\0\0";

/// A balancer that takes connections of others and answers as it likes.
async fn fake_peer<F, B>(
    authority: &Authority,
    name: &str,
    answer: impl Fn(Request<Incoming>) -> F + Clone + Send + 'static,
) -> SocketAddr
where
    F: Future<Output = Response<B>> + Send + 'static,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let credentials = Credentials::new(authority.issue(Role::Balancer, name).unwrap()).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (credentials, answer) = (credentials.clone(), answer.clone());
            tokio::spawn(async move {
                let mut stream = tls::accept(stream, Role::Balancer, &credentials).await.unwrap();
                let mut hello = [0; 16];
                stream.read_exact(&mut hello).await.unwrap();
                assert_eq!(hello, ASK);
                stream.write_all(&WELCOME).await.unwrap();
                let service = service_fn(move |request: Request<Incoming>| {
                    let answer = answer.clone();
                    async move { Ok::<_, std::io::Error>(answer(request).await) }
                });
                let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                let _ = builder.serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    address
}

fn is_probe(request: &Request<Incoming>) -> bool {
    request.headers().get("x-pontoon-hop").is_some_and(|said| said == "probe")
}

fn alive<B>(body: B) -> Response<B> {
    Response::builder().status(204).header("x-pontoon-hop", "probe").body(body).unwrap()
}

/// The other site's balancer is not what it should be: nothing of a request is lost with it, its servo is asked itself.
#[tokio::test]
async fn peers_that_misbehave_are_passed_over() {
    let (there, direct) = (Servo::answering("there").await, Servo::answering("direct").await);
    let world = World::new(impatient(), &[("there", &[there.address])]).await;
    world.here.route(2, routed(&[("there", 1, direct.address)]));
    let foreign = Authority::create().unwrap();
    let as_role = async |authority: &Authority, role: Role, name: &str| {
        let credentials = Credentials::new(authority.issue(role, name).unwrap()).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let credentials = credentials.clone();
                tokio::spawn(async move {
                    let Ok(mut stream) = tls::accept(stream, Role::Balancer, &credentials).await else { return };
                    let _ = stream.write_all(&WELCOME).await;
                    let _ = stream.read(&mut [0; 1024]).await;
                });
            }
        });
        address
    };
    let silent = Servo::start(|mut stream, _| async move {
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })
    .await;
    let closing = Servo::closing().await;
    let empty = || Full::new(Bytes::new());
    let mute = fake_peer(&world.authority, "b-there", move |request| async move {
        match is_probe(&request) {
            true => std::future::pending().await,
            false => alive(empty()),
        }
    })
    .await;
    let cases = [
        ("it refuses", Servo::refusing().await),
        ("it closes", closing.address),
        ("it says nothing", silent.address),
        ("it is an agent", as_role(&world.authority, Role::Agent, "b-there").await),
        ("it is a controller", as_role(&world.authority, Role::Controller, "b-there").await),
        ("it is of another cluster", as_role(&foreign, Role::Balancer, "b-there").await),
        ("it is another balancer", as_role(&world.authority, Role::Balancer, "b-other").await),
        ("it does not answer questions", mute),
    ];
    for (version, (what, address)) in (2..).zip(cases) {
        world.replace_first(version, "b-there", address);
        let begun = Instant::now();
        for request in [get("a.example"), with_body("POST", "a.example", "x")] {
            if address == mute && request.starts_with("POST") {
                // It took a request, and said what no balancer says: that may have been processed.
                world.here.until_peer_is("b-there", false).await;
            }
            let answer = ask(world.address(), &request).await;
            assert_eq!((answer.status(), answer.text()), (200, "direct"), "{what}: {answer:?}");
        }
        assert!(begun.elapsed() < Duration::from_secs(5), "{what}: {:?}", begun.elapsed());
        world.here.until_peer_is("b-there", false).await;
    }
    assert_eq!(there.seen.requests().len(), 0);
}

#[tokio::test]
async fn what_a_peer_says_is_not_taken_for_an_answer_of_the_app_unless_it_says_so() {
    let third = Servo::answering("third").await;
    let there = Servo::answering("there").await;
    let world = World::new(impatient(), &[("there", &[there.address]), ("third", &[third.address])]).await;
    // What no balancer has said is nobody's answer.
    let strange = fake_peer(&world.authority, "b-there", |request| async move {
        let body = Full::new(Bytes::from_static(b"not the app"));
        if is_probe(&request) { alive(Full::new(Bytes::new())) } else { Response::new(body) }
    })
    .await;
    world.replace_first(2, "b-there", strange);
    world.here.until_peer_is("b-there", true).await;
    only_through_there(&world).await;
    let posted = ask(world.address(), &with_body("POST", "a.example", "x")).await;
    assert_eq!((posted.status(), posted.header("x-pontoon-error")), (502, Some("broken")));
    // The same of one that dies in the middle of an answer: the client learns of it, and gets no second beginning.
    let die = Arc::new(Notify::new());
    let dying = fake_peer(&world.authority, "b-there", {
        let die = die.clone();
        move |request| {
            let die = die.clone();
            async move {
                let probed = is_probe(&request);
                let beginning = (!probed).then(|| Ok(Frame::data(Bytes::from_static(b"the beginning"))));
                let end = futures_util::stream::once(async move {
                    die.notified().await;
                    Err::<_, std::io::Error>(std::io::ErrorKind::ConnectionReset.into())
                });
                let body = StreamBody::new(futures_util::stream::iter(beginning).chain(end.take(usize::from(!probed))));
                match probed {
                    true => alive(body),
                    false => {
                        let answer = Response::builder().header("x-pontoon-hop", "answer 1");
                        answer.header("content-length", "100").body(body).unwrap()
                    }
                }
            }
        }
    })
    .await;
    world.replace_first(3, "b-there", dying);
    world.here.until_peer_is("b-there", true).await;
    only_through_there(&world).await;
    let mut client = Client::connect(world.address()).await;
    client.send(get("a.example").as_bytes()).await;
    let head = within("the head", read_head(&mut client.stream)).await.unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    die.notify_one();
    assert_eq!(client.rest().await, b"the beginning");
}

/// Leaves only the servos of the first of the other sites, for who comes in here.
async fn only_through_there(world: &World) {
    let version = world.here.balancer.table().version().0 + 1;
    world.here.route(version, routed(&[("there", 1, Servo::refusing().await)]));
}

/// On the port of peers nobody is heard who is none.
#[tokio::test]
async fn only_balancers_of_the_cluster_are_heard_on_the_port_between_them() {
    let servo = Servo::answering("no").await;
    let world = World::new(impatient(), &[("there", &[servo.address])]).await;
    let address = world.others[0].balancer.peer_address().unwrap();
    let foreign = Authority::create().unwrap();
    let hears = async |authority: &Authority, role: Role, name: &str| {
        let identity = authority.issue(role, name).unwrap();
        // It trusts the server, so that it is the server that refuses.
        let ca = world.authority.certificate().to_owned();
        let credentials = Credentials::new(pontoon_kit::Identity { ca, ..identity }).unwrap();
        let Ok(mut stream) = tls::dial(address, Role::Balancer, "b-there", &credentials).await else { return false };
        let mut said = [0; 16];
        stream.write_all(&ASK).await.is_ok()
            && within("an end", stream.read_exact(&mut said)).await.is_ok()
            && said[..9] == WELCOME[..9]
    };
    assert!(hears(&world.authority, Role::Balancer, "b-new").await, "it may have joined just now");
    for role in [Role::Agent, Role::Controller] {
        assert!(!hears(&world.authority, role, "b-here").await, "{role}");
    }
    assert!(!hears(&foreign, Role::Balancer, "b-here").await, "of another cluster");
    let forged = "GET / HTTP/1.1\r\nHost: a.example\r\nX-Pontoon-Hop: 6.6.6.6 https a.example - 0\r\n\r\n";
    let mut plain = Client::connect(address).await;
    plain.send(forged.as_bytes()).await;
    let said = plain.rest().await;
    assert!(!said.starts_with(b"HTTP"), "{said:?}");
    assert_eq!(servo.seen.requests().len(), 0);
}
