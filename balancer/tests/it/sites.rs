//! Requests for apps that have no servo here.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::future::join_all;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{Full, StreamBody};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use pontoon_kit::{Authority, Credentials, Role, tls};
use pontoon_model::{EdgeEntry, Traffic};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::Notify;

use super::http2;
use super::streaming::upgrading;
use super::support::controller::Controller;
use super::support::http::{Client, Message, ask, get, ok, read_head, read_message, with_body};
use super::support::servo::Servo;
use super::support::sites::{Site, Way, at, impatient, routed};
use super::support::{keys, until, within};

/// How a connection between balancers begins, and what is answered.
const ASK: [u8; 16] = *b"PONTOON1\x01\0\0\0\0\0\0\0";
const WELCOME: [u8; 16] = *b"PONTOON1\x03\0\x01\0\0\0\0\0";

/// Users come in at `here`; servos are in the other sites only. What `here` believes to be their addresses leads nowhere: whoever
/// answers was asked by the balancer of its site.
struct World {
    authority: Authority,
    here: Site,
    /// By their sites.
    others: Vec<Site>,
}

impl World {
    /// A site for each name, with these servos; the nearer is named first.
    async fn new(traffic: Traffic, sites: &[(&'static str, &[SocketAddr])]) -> Self {
        let authority = Authority::create().unwrap();
        let here = Site::start(&authority, "b-here", "here").await;
        let nowhere = Servo::refusing().await;
        let mut others = Vec::new();
        let mut peers = vec![EdgeEntry::Peer(here.row()), keys(&["secret"])];
        let mut believed = Vec::new();
        for (site, servos) in sites {
            let name = format!("b-{site}").leak();
            let other = Site::start(&authority, name, site).await;
            peers.push(EdgeEntry::Peer(other.row()));
            let at_home: Vec<_> = servos.iter().map(|servo| (*site, u64::from(servo.port()), *servo)).collect();
            other.route(1, routed(&at_home));
            believed.extend(at_home.iter().map(|&(site, id, _)| (site, id, nowhere)));
            others.push(other);
        }
        here.route(1, routed(&believed));
        for site in others.iter().chain([&here]) {
            site.know(1, traffic.clone(), peers.clone());
        }
        for other in &others {
            here.until_peer_is(other.name, true).await;
        }
        Self { authority, here, others }
    }

    /// Waits until the one is measured nearer than the other by far: what a busy machine adds to a measurement is gone with the
    /// next ones.
    async fn until_nearer(&self, near: &str, far: &str) {
        let distance = |name: &str| self.here.peer(name).and_then(|peer| peer.round_trip());
        until(|| match (distance(near), distance(far)) {
            (Some(near), Some(far)) if near + Duration::from_millis(10) < far => Ok(()),
            now => Err(format!("{near} and {far}: {now:?}")),
        })
        .await;
    }

    fn address(&self) -> SocketAddr {
        self.here.address()
    }

    fn peers(&self) -> Vec<EdgeEntry> {
        let all = self.others.iter().chain([&self.here]);
        all.map(|site| EdgeEntry::Peer(site.row())).chain([keys(&["secret"])]).collect()
    }

    /// Puts what answers at `address` in the place of the first of the other sites' balancers, for who comes in here.
    fn replace_first(&self, version: u64, name: &str, address: SocketAddr) {
        let mut peers = self.peers();
        peers[0] = at(name, self.others[0].site, address);
        self.here.know(version, impatient(), peers);
    }
}

#[tokio::test]
async fn it_goes_through_the_balancer_of_the_site_that_has_one_and_the_app_hears_of_the_user() {
    let servo = Servo::answering("from there").await;
    let world = World::new(impatient(), &[("there", &[servo.address])]).await;
    let mut client = Client::connect(world.address()).await;
    let answer = client
        .ask(
            "GET /x?y=z HTTP/1.1\r\nHost: A.example:80\r\nX-Forwarded-For: 9.9.9.9\r\nX-Request-Id: mine\r\n\
             X-Pontoon-Hop: 6.6.6.6 https a.example 1 0\r\nX-Forwarded-Proto: https\r\nCookie: a=b\r\n\r\n",
        )
        .await;
    assert_eq!((answer.status(), answer.text()), (200, "from there"));
    assert_eq!(answer.header("x-pontoon-hop"), None);
    let seen = servo.seen.requests()[0].clone();
    assert_eq!(seen.first_line(), "GET /x?y=z HTTP/1.1");
    assert_eq!(seen.all("host"), ["A.example:80"]);
    assert_eq!(seen.all("x-forwarded-for"), ["9.9.9.9, 127.0.0.1"]);
    assert_eq!(seen.all("x-forwarded-proto"), ["http"]);
    assert_eq!(seen.all("x-forwarded-host"), ["A.example:80"]);
    assert_eq!(seen.all("forwarded"), ["for=127.0.0.1;host=\"A.example:80\";proto=http"]);
    assert_eq!((seen.all("x-request-id"), seen.all("cookie")), (vec!["mine"], vec!["a=b"]));
    assert_eq!(seen.all("x-pontoon-hop"), Vec::<&str>::new(), "nobody sees what balancers say to each other");
    // One without an id has got one on the way, and the connection carries the next.
    for _ in 0..20 {
        assert_eq!(client.ask(&get("a.example")).await.text(), "from there");
    }
    assert_eq!(servo.seen.requests()[1].header("x-request-id").unwrap().len(), 32);
    // By HTTP/2 too; and every count is where users come in.
    let mut sender = http2::plain(world.address()).await;
    let answered =
        within("an answer", sender.send_request(http2::request("http", "a.example", "posted"))).await.unwrap();
    assert_eq!(http2::text(answered).await, "from there");
    assert_eq!(servo.seen.requests()[21].text(), "posted");
    let counts = |site: &Site| site.balancer.table().route("a.example").unwrap().statistics().requests();
    assert_eq!((counts(&world.here), counts(&world.others[0])), (22, 0));
    let in_flight = || world.others[0].balancer.table().route("a.example").unwrap().statistics().in_flight();
    until(|| if in_flight() == 0 { Ok(()) } else { Err("still in flight".to_owned()) }).await;
}

#[tokio::test]
async fn what_the_user_does_wrong_is_held_against_nobody_and_head_has_no_body() {
    let servo = Servo::answering("there").await;
    let world = World::new(Traffic { body_bytes: 1_000, ..impatient() }, &[("there", &[servo.address])]).await;
    let mut client = Client::connect(world.address()).await;
    client.send(b"HEAD / HTTP/1.1\r\nHost: a.example\r\n\r\n").await;
    let head = within("the head", read_head(&mut client.stream)).await.unwrap();
    assert!(head.starts_with("HTTP/1.1 200") && head.contains("content-length: 5"), "{head}");
    // A body that is cut, one that is nonsense, and one that is too large.
    let mut cut = Client::connect(world.address()).await;
    cut.send(b"PUT / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 100\r\n\r\nonly this").await;
    drop(cut);
    let start = "POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n";
    assert_eq!(ask(world.address(), &format!("{start}nonsense\r\n")).await.status(), 400);
    let large = format!("{start}7d0\r\n{}\r\n0\r\n\r\n", "x".repeat(2_000));
    assert_eq!(ask(world.address(), &large).await.status(), 413);
    assert_eq!(ask(world.address(), &get("a.example")).await.text(), "there");
    assert!(world.here.peer("b-there").unwrap().is_up());
    let there = world.others[0].balancer.table().route("a.example").unwrap();
    assert!(!there.target().as_ref().unwrap().servos()[0].is_avoided());
    until(|| {
        if there.target().as_ref().unwrap().servos()[0].in_flight() == 0 {
            Ok(())
        } else {
            Err("still in flight".to_owned())
        }
    })
    .await;
}

#[tokio::test]
async fn a_servo_here_comes_first_and_the_other_site_when_it_is_gone() {
    let (local, remote) = (Servo::answering("local").await, Servo::answering("remote").await);
    let world = World::new(impatient(), &[("there", &[remote.address])]).await;
    let nowhere = Servo::refusing().await;
    let id = u64::from(remote.address.port());
    world.here.route(2, routed(&[("here", 1, local.address), ("there", id, nowhere)]));
    let forged = "GET / HTTP/1.1\r\nHost: a.example\r\nX-Pontoon-Hop: 6.6.6.6 https a.example - 0\r\n\r\n";
    assert_eq!(ask(world.address(), forged).await.text(), "local");
    assert_eq!(local.seen.requests()[0].header("x-pontoon-hop"), None);
    drop(local);
    assert_eq!(ask(world.address(), &get("a.example")).await.text(), "remote");
    assert_eq!(ask(world.address(), &with_body("POST", "a.example", "x")).await.text(), "remote");
}

#[tokio::test]
async fn what_came_from_another_site_goes_to_no_third_and_not_back() {
    let servo = Servo::answering("never").await;
    let world = World::new(impatient(), &[("there", &[]), ("third", &[servo.address])]).await;
    let nowhere = Servo::refusing().await;
    // Here it is said to be there, and there to be here and in the third.
    world.here.route(2, routed(&[("there", 1, nowhere)]));
    world.others[0].route(2, routed(&[("here", 1, nowhere), ("third", 2, servo.address)]));
    for request in [get("a.example"), with_body("POST", "a.example", "x")] {
        let answer = ask(world.address(), &request).await;
        assert_eq!((answer.status(), answer.header("x-pontoon-error")), (503, Some("unreachable")));
    }
    assert_eq!(servo.seen.connections(), 0);
    let counts = |site: &Site| site.balancer.table().route("a.example").unwrap().statistics().requests();
    assert_eq!((counts(&world.here), counts(&world.others[0])), (2, 0), "nothing has come back");
}

#[tokio::test]
async fn bodies_stream_both_ways_through_the_other_site() {
    let echo = Servo::start(|mut stream, _| async move {
        while let Some(head) = read_head(&mut stream).await {
            let message = Message { head, body: Vec::new() };
            let mut left: usize = message.header("content-length").unwrap().parse().unwrap();
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {left}\r\n\r\n");
            stream.write_all(head.as_bytes()).await.unwrap();
            let mut piece = vec![0; 64 * 1024];
            while left > 0 {
                let Ok(len @ 1..) = stream.read(&mut piece).await else { return };
                stream.write_all(&piece[..len]).await.unwrap();
                left -= len;
            }
        }
    })
    .await;
    let world = World::new(impatient(), &[("there", &[echo.address])]).await;
    let body: Vec<u8> = (0..8 * 1024 * 1024_u32).map(|at| (at % 251) as u8).collect();
    let one = async || {
        let client = Client::connect(world.address()).await;
        let (reader, mut writer) = tokio::io::split(client.stream);
        let head = format!("POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: {}\r\n\r\n", body.len());
        let sending = async {
            writer.write_all(head.as_bytes()).await.unwrap();
            writer.write_all(&body).await.unwrap();
        };
        let mut reader = tokio::io::BufReader::new(reader);
        let (answer, ()) = tokio::join!(within("the answer", read_message(&mut reader)), sending);
        assert!(answer.unwrap().body == body);
    };
    tokio::join!(one(), one(), one());
}

#[tokio::test]
async fn who_reads_slowly_holds_back_the_servo_and_nobody_else() {
    const MOST: usize = 64 * 1024 * 1024;
    let written = Arc::new(AtomicUsize::new(0));
    let servo = Servo::start({
        let written = written.clone();
        move |mut stream, _| {
            let written = written.clone();
            async move {
                let request = read_message(&mut stream).await.unwrap();
                if request.first_line().starts_with("GET /small") {
                    return stream.write_all(ok("small").as_bytes()).await.unwrap();
                }
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n").await.unwrap();
                while stream.write_all(&[0; 64 * 1024]).await.is_ok() {
                    written.fetch_add(64 * 1024, Ordering::Relaxed);
                }
            }
        }
    })
    .await;
    let world = World::new(impatient(), &[("there", &[servo.address])]).await;
    let mut slow = Vec::new();
    for _ in 0..4 {
        let mut client = Client::connect(world.address()).await;
        client.send(get("a.example").as_bytes()).await;
        read_head(&mut client.stream).await.unwrap();
        slow.push(client);
    }
    within("standing still", async {
        let mut before = usize::MAX;
        loop {
            let now = written.load(Ordering::Relaxed);
            assert!(now < MOST, "{now} bytes were taken for clients that read none");
            if now == before && now > 0 {
                break;
            }
            before = now;
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    })
    .await;
    let small = "GET /small HTTP/1.1\r\nHost: a.example\r\n\r\n";
    for _ in 0..10 {
        assert_eq!(ask(world.address(), small).await.text(), "small");
    }
}

#[tokio::test]
async fn a_websocket_goes_through_and_holds_its_servo_and_a_refusal_is_the_apps_own() {
    let servo = upgrading().await;
    let world = World::new(impatient(), &[("there", &[servo.address])]).await;
    let wish = "GET /chat HTTP/1.1\r\nHost: a.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                Sec-WebSocket-Key: x\r\nSec-WebSocket-Version: 13\r\n\r\n";
    let mut client = Client::connect(world.address()).await;
    client.send(wish.as_bytes()).await;
    let head = within("101", read_head(&mut client.stream)).await.unwrap();
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    let agreed = Message { head, body: Vec::new() };
    assert_eq!((agreed.header("upgrade"), agreed.header("x-pontoon-hop")), (Some("websocket"), None));
    for text in ["hello", "again"] {
        client.send(text.as_bytes()).await;
        let mut back = vec![0; text.len()];
        within("the echo", client.stream.read_exact(&mut back)).await.unwrap();
        assert_eq!(back, text.as_bytes());
    }
    let seen = servo.seen.requests()[0].clone();
    assert_eq!(seen.first_line(), "GET /chat HTTP/1.1");
    assert_eq!((seen.header("sec-websocket-key"), seen.header("upgrade")), (Some("x"), Some("websocket")));
    assert_eq!(seen.header("x-forwarded-for"), Some("127.0.0.1"));
    let there = world.others[0].balancer.table().clone();
    let in_flight = || there.route("a.example").unwrap().target().as_ref().unwrap().servos()[0].in_flight();
    assert_eq!(in_flight(), 1, "a servo in use is not drained");
    drop(client);
    until(|| if in_flight() == 0 { Ok(()) } else { Err("the tunnel is open".to_owned()) }).await;
    // What is no agreement passes as it is, whatever its status.
    for answer in
        ["HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbusy", "HTTP/1.1 403 No\r\nContent-Length: 4\r\n\r\nbusy"]
    {
        let servo = Servo::start(move |mut stream, _| async move {
            read_message(&mut stream).await;
            stream.write_all(answer.as_bytes()).await.unwrap();
        })
        .await;
        let world = World::new(impatient(), &[("there", &[servo.address])]).await;
        let refused = ask(world.address(), wish).await;
        assert_eq!((refused.first_line()[9..12].to_owned(), refused.text()), (answer[9..12].to_owned(), "busy"));
    }
}

#[tokio::test]
async fn grpc_goes_through_with_its_trailers() {
    let traffic = Traffic { http2: true, ..impatient() };
    let world = World::new(traffic, &[("there", &[http2::grpc().await])]).await;
    let mut sender = http2::plain(world.address()).await;
    http2::call_grpc(&mut sender).await;
}

#[tokio::test]
async fn what_no_servo_of_a_site_has_seen_goes_to_the_next_site_whole() {
    let good = Servo::answering("third").await;
    let refusing = Servo::refusing().await;
    let world = World::new(impatient(), &[("there", &[refusing]), ("third", &[good.address])]).await;
    // Whichever is asked first.
    for _ in 0..6 {
        let answer = ask(world.address(), &with_body("POST", "a.example", "pay")).await;
        assert_eq!((answer.status(), answer.text()), (200, "third"));
    }
    assert!(good.seen.requests().iter().all(|request| request.text() == "pay"));
    assert_eq!(good.seen.requests().len(), 6);
}

#[tokio::test]
async fn what_a_servo_of_another_site_has_seen_is_repeated_only_if_that_does_no_harm() {
    for bad in [Servo::reading_and_closing().await, Servo::resetting().await] {
        let world = World::new(impatient(), &[("there", &[bad.address])]).await;
        let answer = ask(world.address(), &with_body("POST", "a.example", "pay")).await;
        assert_eq!((answer.status(), answer.header("x-pontoon-error")), (502, Some("broken")));
        let posted = || bad.seen.requests().iter().filter(|seen| seen.head.starts_with("POST")).count();
        assert_eq!(posted(), 1, "it may have been processed");
    }
    let (bad, good) = (Servo::resetting().await, Servo::answering("third").await);
    let world = World::new(impatient(), &[("there", &[bad.address]), ("third", &[good.address])]).await;
    for _ in 0..6 {
        assert_eq!(ask(world.address(), &get("a.example")).await.text(), "third");
    }
    // What ends servos ends three and no more, wherever they are.
    let killed = [Servo::resetting().await, Servo::resetting().await, Servo::resetting().await];
    let fourth = Servo::answering("never").await;
    let sites: [(&str, &[SocketAddr]); 2] =
        [("there", &[killed[0].address, killed[1].address, killed[2].address]), ("third", &[fourth.address])];
    let world = World::new(impatient(), &sites).await;
    let third = world.others[1].row();
    let peers = world.peers().into_iter().filter(|peer| *peer != EdgeEntry::Peer(third.clone())).collect();
    world.here.know(2, impatient(), peers);
    let answer = ask(world.address(), &get("a.example")).await;
    assert_eq!((answer.status(), answer.header("x-pontoon-error")), (502, Some("broken")), "{answer:?}");
    assert!(answer.text().starts_with("3 servos"), "{answer:?}");
    assert_eq!(fourth.seen.connections(), 0);
}

#[tokio::test]
async fn a_site_without_a_known_balancer_is_reached_as_before() {
    let authority = Authority::create().unwrap();
    let here = Site::start(&authority, "b-here", "here").await;
    let servo = Servo::answering("direct").await;
    here.route(1, routed(&[("there", 1, servo.address)]));
    here.know(1, impatient(), vec![EdgeEntry::Peer(here.row())]);
    assert_eq!(ask(here.address(), &get("a.example")).await.text(), "direct");
    // And when its balancers do not answer, its servos may.
    here.know(2, impatient(), vec![at("b-there", "there", Servo::refusing().await)]);
    for _ in 0..3 {
        assert_eq!(ask(here.address(), &with_body("POST", "a.example", "x")).await.text(), "direct");
    }
}

#[tokio::test]
async fn a_session_is_asked_for_in_the_site_where_it_is() {
    let (one, two, near) =
        (Servo::answering("one").await, Servo::answering("two").await, Servo::answering("near").await);
    let traffic = Traffic { affinity: true, ..impatient() };
    let sites: [(&str, &[SocketAddr]); 2] = [("there", &[one.address, two.address]), ("third", &[near.address])];
    let world = World::new(traffic, &sites).await;
    let asked = async |cookie: &str| {
        ask(world.address(), &format!("GET / HTTP/1.1\r\nHost: a.example\r\nCookie: {cookie}\r\n\r\n")).await
    };
    let home = [("there", &one), ("there", &two), ("third", &near)];
    let home = home.map(|(site, servo)| (site, u64::from(servo.address.port()), servo.address));
    let mut whose = BTreeMap::new();
    let mut until_all_of = async |wanted: usize| {
        while whose.len() < wanted {
            let answer = asked("none=1").await;
            let cookie = answer.header("set-cookie").expect("a cookie").split(';').next().unwrap().to_owned();
            whose.insert(answer.text().to_owned(), cookie);
        }
    };
    world.others[1].route(2, routed(&[]));
    until_all_of(2).await;
    world.others[1].route(3, routed(&home[2..]));
    world.others[0].route(2, routed(&[]));
    until_all_of(3).await;
    world.others[0].route(3, routed(&home[..2]));
    for (text, cookie) in &whose {
        for _ in 0..8 {
            let answer = asked(cookie).await;
            assert_eq!((answer.text(), answer.header("set-cookie")), (text.as_str(), None));
        }
    }
    // The servo is gone: another one takes it over and says so.
    drop(one);
    let moved = asked(&whose["one"]).await;
    assert_eq!(moved.status(), 200);
    assert_ne!(moved.text(), "one");
    assert!(moved.header("set-cookie").is_some());
}

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

/// Asks all the time; counts answers, and says what was none.
struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    tasks: Vec<tokio::task::JoinHandle<Vec<String>>>,
}

impl Load {
    fn start(address: SocketAddr) -> Self {
        let (stop, answered) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let tasks = (0..8).map(|_| {
            let (stop, answered) = (stop.clone(), answered.clone());
            tokio::spawn(async move {
                let mut wrong = Vec::new();
                let mut client = Client::connect(address).await;
                while !stop.load(Ordering::Relaxed) {
                    let answer = client.ask(&get("a.example")).await;
                    answered.fetch_add(1, Ordering::Relaxed);
                    if answer.status() != 200 {
                        wrong.push(format!("{answer:?}"));
                    }
                }
                wrong
            })
        });
        let tasks = tasks.collect();
        Self { stop, answered, tasks }
    }

    /// Waits for so many more.
    async fn more(&self, count: usize) {
        let wanted = self.answered.load(Ordering::Relaxed) + count;
        until(|| match self.answered.load(Ordering::Relaxed) {
            now if now >= wanted => Ok(()),
            now => Err(format!("{now} of {wanted} answers")),
        })
        .await;
    }

    async fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            assert_eq!(within("the last answer", task).await.unwrap(), Vec::<String>::new());
        }
    }
}

/// The nearest site is cut off, falls silent, or is stopped, while requests are under way: none is lost.
#[tokio::test]
async fn the_loss_of_a_site_under_load_loses_no_idempotent_request() {
    let (there, third) = (Servo::answering("there").await, Servo::answering("third").await);
    for how in ["cut", "frozen", "stopped"] {
        let sites: [(&str, &[SocketAddr]); 2] = [("there", &[there.address]), ("third", &[third.address])];
        let mut world = World::new(impatient(), &sites).await;
        let way = Way::to(world.others[0].balancer.peer_address().unwrap()).await;
        // The third is farther away.
        let far = Way::to(world.others[1].balancer.peer_address().unwrap()).await;
        far.slow_down();
        let near = at("b-there", "there", way.address);
        world.here.know(2, impatient(), vec![near, at("b-third", "third", far.address)]);
        for name in ["b-there", "b-third"] {
            world.here.until_peer_is(name, true).await;
        }
        world.until_nearer("b-there", "b-third").await;
        let (before, after) = (there.seen.requests().len(), third.seen.requests().len());
        let load = Load::start(world.address());
        load.more(200).await;
        let (near, far) = (there.seen.requests().len() - before, third.seen.requests().len() - after);
        // Not all, if a measurement was late under the load.
        assert!(near > 3 * far, "the nearest is asked: {near} and {far}");
        let begun = Instant::now();
        match how {
            "cut" => way.cut(),
            "frozen" => way.freeze(),
            _ => world.others.remove(0).balancer.stop().await.unwrap(),
        }
        load.more(200).await;
        assert!(third.seen.requests().len() > after + far, "{how}: the next site answers");
        let longest = if how == "frozen" { Duration::from_secs(12) } else { Duration::from_secs(8) };
        assert!(begun.elapsed() < longest, "{how}: {:?}", begun.elapsed());
        load.end().await;
    }
}

/// What may not be repeated must not be sent where nobody answers: each worker has a connection of its own, and one has found out.
#[tokio::test]
async fn nothing_is_sent_to_a_silent_site_whichever_worker_has_found_out() {
    let near = near().await;
    let Near { world, slow, go, way, .. } = &near;
    let seen = async |expected| {
        until(|| match slow.seen.requests().len() {
            seen if seen == expected => Ok(()),
            seen => Err(format!("{seen} requests of {expected} are there")),
        })
        .await;
    };
    // So many that every worker has a connection there.
    let first = get("a.example");
    let (answers, ()) = tokio::join!(join_all((0..8).map(|_| ask(world.address(), &first))), async {
        seen(8).await;
        go.notify_waiters();
    });
    assert!(answers.iter().all(|answer| answer.text() == "there"));
    let mut reading = Client::connect(world.address()).await;
    reading.send(get("a.example").as_bytes()).await;
    seen(9).await;
    way.freeze();
    assert_eq!(reading.answer().await.text(), "third");
    let post = with_body("POST", "a.example", "more");
    for answer in join_all((0..8).map(|_| ask(world.address(), &post))).await {
        assert_eq!((answer.status(), answer.text()), (200, "third"));
    }
}

/// A balancer that has a pause is not told apart from one that is gone: what may be repeated goes elsewhere, the rest waits for it.
#[tokio::test]
async fn what_waits_for_a_silent_site_goes_elsewhere_if_that_does_no_harm_and_the_rest_is_answered_after_the_pause() {
    let near = near().await;
    let Near { world, slow, go, way, .. } = &near;
    let (mut paying, mut reading) = (Client::connect(world.address()).await, Client::connect(world.address()).await);
    paying.send(with_body("POST", "a.example", "pay").as_bytes()).await;
    reading.send(get("a.example").as_bytes()).await;
    until(|| match slow.seen.requests().len() {
        2 => Ok(()),
        seen => Err(format!("{seen} of 2 requests are there")),
    })
    .await;
    way.freeze();
    assert_eq!(reading.answer().await.text(), "third");
    way.thaw();
    go.notify_waiters();
    let paid = paying.answer().await;
    assert_eq!((paid.status(), paid.text()), (200, "there"));
    assert_eq!(slow.seen.requests().iter().filter(|request| request.head.starts_with("POST")).count(), 1);
}

/// A near site, whose servo answers when it is told to and the way to which can be frozen, and a far one, whose servo answers "third".
struct Near {
    world: World,
    slow: Servo,
    go: Arc<Notify>,
    way: Way,
    _third: Servo,
    _far: Way,
}

async fn near() -> Near {
    let go = Arc::<Notify>::default();
    let (slow, third) = (held(&go).await, Servo::answering("third").await);
    let sites: [(&str, &[SocketAddr]); 2] = [("there", &[slow.address]), ("third", &[third.address])];
    let world = World::new(impatient(), &sites).await;
    let way = Way::to(world.others[0].balancer.peer_address().unwrap()).await;
    let far = Way::to(world.others[1].balancer.peer_address().unwrap()).await;
    far.slow_down();
    world.here.know(2, impatient(), vec![at("b-there", "there", way.address), at("b-third", "third", far.address)]);
    for name in ["b-there", "b-third"] {
        world.here.until_peer_is(name, true).await;
    }
    world.until_nearer("b-there", "b-third").await;
    Near { world, slow, go, way, _third: third, _far: far }
}

/// Answers when it is told to.
async fn held(go: &Arc<Notify>) -> Servo {
    let go = go.clone();
    Servo::start(move |mut stream, seen| {
        let go = go.clone();
        async move {
            let told = go.notified();
            let mut told = std::pin::pin!(told);
            told.as_mut().enable();
            let request = read_message(&mut stream).await;
            seen.requests.lock().unwrap().extend(request);
            told.await;
            let _ = stream.write_all(ok("there").as_bytes()).await;
        }
    })
    .await
}

#[tokio::test]
async fn the_nearer_site_is_asked_and_the_distance_is_measured_again() {
    let (there, third) = (Servo::answering("there").await, Servo::answering("third").await);
    let sites: [(&str, &[SocketAddr]); 2] = [("there", &[there.address]), ("third", &[third.address])];
    let world = World::new(impatient(), &sites).await;
    let mut ways = Vec::new();
    for site in &world.others {
        ways.push(Way::to(site.balancer.peer_address().unwrap()).await);
    }
    ways[0].slow_down();
    let peers = vec![at("b-there", "there", ways[0].address), at("b-third", "third", ways[1].address)];
    world.here.know(2, impatient(), peers);
    for name in ["b-there", "b-third"] {
        world.here.until_peer_is(name, true).await;
    }
    world.until_nearer("b-third", "b-there").await;
    let distance = |name: &str| world.here.peer(name).unwrap().round_trip().unwrap();
    for _ in 0..10 {
        assert_eq!(ask(world.address(), &get("a.example")).await.text(), "third");
    }
    // Now that one is farther.
    for _ in 0..3 {
        ways[1].slow_down();
    }
    until(|| match distance("b-third") {
        far if far > Duration::from_millis(5) => Ok(()),
        near => Err(format!("{near:?}")),
    })
    .await;
}

#[tokio::test]
async fn who_the_others_are_is_known_after_a_restart_and_who_is_gone_is_forgotten() {
    let servo = Servo::answering("there").await;
    let world = World::new(impatient(), &[("there", &[servo.address])]).await;
    let World { here, others, .. } = world;
    let here = here.restart().await;
    here.until_peer_is("b-there", true).await;
    assert_eq!(ask(here.address(), &get("a.example")).await.text(), "there");
    here.know(2, impatient(), Vec::new());
    assert!(here.peer("b-there").is_none());
    assert_eq!(ask(here.address(), &get("a.example")).await.status(), 503, "its servos cannot be reached from here");
    drop(others);
}

#[tokio::test]
async fn it_says_how_others_reach_it() {
    let authority = Authority::create().unwrap();
    let mut controller = Controller::start(&authority).await;
    let listen: Option<SocketAddr> = Some("127.0.0.1:0".parse().unwrap());
    let advertised = "203.0.113.7:7720";
    for (name, listen, elsewhere, dial_out, said) in [
        ("b1", listen, None, None, None),
        ("b2", listen, Some(advertised), None, Some(advertised)),
        ("b3", None, None, None, Some("dials-out")),
        ("b4", None, None, Some(false), Some("")),
    ] {
        let site = Site::start_as(&authority, name, "here", |config| {
            config.controllers = vec![controller.address];
            config.peer_listen = listen;
            config.peer_advertised = elsewhere.map(|address| address.parse().unwrap());
            config.dial_out = dial_out;
        })
        .await;
        let told = controller.session().await.reach;
        let own = site.balancer.peer_address().map(|address| address.to_string());
        let wanted = said.map_or(own, |said| Some(said.to_owned()).filter(|said| !said.is_empty()));
        assert_eq!(told, wanted, "{name}");
    }
}
