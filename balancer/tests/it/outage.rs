//! Servos that die: those that a request ends, and those that die of something else (docs/decisions/0024).

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use pontoon_kit::Authority;
use pontoon_model::{EdgeEntry, Route, RouteServo, ServoId, Traffic};
use tokio::io::AsyncWriteExt;
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;

use super::support::http::{Client, Message, ask, get, ok, read_message};
use super::support::servo::{Seen, Servo, Stream};
use super::support::sites::{Site, impatient, routed};
use super::support::{Fixture, route, until, until_answer, within};

/// A servo that ends when it reads `/poison`, says nothing more to anybody when it reads `/hang`, takes no connection either from
/// `/vanish` on, does not answer `/slow`, and answers everything else.
struct Mortal {
    servo: Servo,
    /// It says nothing any more.
    silent: Arc<AtomicBool>,
}

impl Mortal {
    async fn start() -> Self {
        let (own, silent) = (Arc::<OnceLock<Own>>::default(), Arc::<AtomicBool>::default());
        let servo = Servo::start({
            let (own, silent) = (own.clone(), silent.clone());
            move |stream, seen| live(stream, seen, own.clone(), silent.clone())
        })
        .await;
        own.set(Own { end: servo.abort_handle(), shut: servo.shutter() }).ok().unwrap();
        Self { servo, silent }
    }

    async fn some(count: usize) -> Vec<Self> {
        futures_util::future::join_all((0..count).map(|_| Self::start())).await
    }

    /// How many times it was asked for `path`.
    fn asked(&self, path: &str) -> usize {
        let begin = format!("GET {path} ");
        self.servo.seen.requests().iter().filter(|request| request.head.starts_with(&begin)).count()
    }

    /// Its machine is gone: nothing comes from it any more, not even a refusal to go on.
    async fn vanish(&self) {
        self.silent.store(true, Ordering::SeqCst);
        self.servo.shutter().cancel();
        until_refused(self.servo.address).await;
    }

    /// Its process ends: whatever is in flight, and whatever comes.
    async fn die(self) {
        let address = self.servo.address;
        self.servo.stop().await;
        until_refused(address).await;
    }
}

async fn until_refused(address: SocketAddr) {
    // Connections of the test's own may not be what keeps it alive.
    until(|| match std::net::TcpStream::connect(address) {
        Ok(_) => Err("it still listens".to_owned()),
        Err(_) => Ok(()),
    })
    .await;
}

/// What a servo needs to end itself.
struct Own {
    end: AbortHandle,
    shut: CancellationToken,
}

async fn live(mut stream: Stream, seen: Seen, own: Arc<OnceLock<Own>>, silent: Arc<AtomicBool>) {
    while let Some(request) = read_message(&mut stream).await {
        let path = request.head.split(' ').nth(1).unwrap().to_owned();
        seen.requests.lock().unwrap().push(request);
        if path.starts_with("/poison") {
            own.get().unwrap().end.abort();
        }
        if path.starts_with("/vanish") {
            own.get().unwrap().shut.cancel();
        }
        if path.starts_with("/vanish") || path.starts_with("/hang") {
            silent.store(true, Ordering::SeqCst);
        }
        if path.starts_with("/poison") || path == "/slow" || silent.load(Ordering::SeqCst) {
            // Aborted with its servo.
            std::future::pending::<()>().await;
        }
        if stream.write_all(ok("alive").as_bytes()).await.is_err() {
            return;
        }
    }
}

/// All of this site, and alike.
fn alike(servos: &[Mortal]) -> Arc<Route> {
    let servo = |servo: &Mortal| RouteServo {
        id: ServoId(servo.servo.address.port().into()),
        site: "here".parse().unwrap(),
        address: servo.servo.address,
        suspect: false,
    };
    Arc::new(Route { servos: servos.iter().map(servo).collect(), ..(*route("a.example", &[])).clone() })
}

fn get_path(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: a.example\r\n\r\n")
}

fn is_broken(answer: &Message) -> bool {
    (answer.status(), answer.header("x-pontoon-error")) == (502, Some("broken"))
}

/// Asks until the worker of this client has connections to all of them.
async fn warm(client: &mut Client, servos: &[Mortal]) {
    for _ in 0..50 * servos.len() {
        assert_eq!(client.ask(&get("a.example")).await.status(), 200);
    }
    assert!(servos.iter().all(|servo| servo.servo.seen.connections() > 0));
}

#[tokio::test]
async fn a_poison_ends_three_servos_and_no_fourth_on_kept_connections_too() {
    for kept in [false, true] {
        let (fixture, servos) = (Fixture::start().await, Mortal::some(6).await);
        fixture.route(1, vec![alike(&servos)]);
        let mut client = Client::connect(fixture.address()).await;
        if kept {
            warm(&mut client, &servos).await;
        }
        let answer = client.ask(&get_path("/poison")).await;
        assert!(is_broken(&answer), "{answer:?}");
        assert!(answer.text().starts_with("3 servos"), "{answer:?}");
        assert_eq!(servos.iter().map(|servo| servo.asked("/poison")).sum::<usize>(), 3, "kept: {kept}");
        assert_eq!(client.ask(&get("a.example")).await.text(), "alive");
    }
}

/// Requests one after the other on a connection, until told to stop; all are answered.
async fn load(address: SocketAddr, stop: Arc<AtomicBool>) -> usize {
    let mut client = Client::connect(address).await;
    let mut count = 0;
    while !stop.load(Ordering::SeqCst) {
        let answer = client.ask(&get("a.example")).await;
        assert_eq!(answer.status(), 200, "request {count}: {answer:?}");
        count += 1;
    }
    count
}

#[tokio::test]
async fn poisons_at_the_same_time_do_not_talk_each_other_free_and_harm_nobody_else() {
    const POISONS: usize = 4;
    let (fixture, servos) = (Fixture::start().await, Mortal::some(3 * POISONS + 3).await);
    fixture.route(1, vec![alike(&servos)]);
    let stop = Arc::<AtomicBool>::default();
    let harmless: Vec<_> = (0..8).map(|_| tokio::spawn(load(fixture.address(), stop.clone()))).collect();
    until(|| match servos.iter().all(|servo| servo.servo.seen.connections() > 0) {
        true => Ok(()),
        false => Err("not all have been asked".to_owned()),
    })
    .await;
    let path = |number: usize| format!("/poison/{number}");
    let address = fixture.address();
    let asks = (0..POISONS).map(|number| async move { ask(address, &get_path(&path(number))).await });
    let answers = within("the answers", futures_util::future::join_all(asks)).await;
    stop.store(true, Ordering::SeqCst);
    for harmless in harmless {
        assert!(harmless.await.unwrap() > 0);
    }
    assert!(answers.iter().all(is_broken), "{answers:?}");
    let asked = (0..POISONS).map(|number| servos.iter().map(|servo| servo.asked(&path(number))).sum::<usize>());
    let asked: BTreeMap<_, _> = asked.enumerate().collect();
    assert!(asked.values().all(|asked| *asked <= 3), "{asked:?}");
}

/// The one of them that has the request.
async fn whose(servos: &[Option<Mortal>], path: &str) -> usize {
    let at = || servos.iter().position(|servo| servo.as_ref().is_some_and(|servo| servo.asked(path) > 0));
    until(|| at().map(drop).ok_or_else(|| "no servo has the request".to_owned())).await;
    at().unwrap()
}

#[tokio::test]
async fn who_was_at_three_deaths_is_tried_further_if_others_died_without_it() {
    for others_die in [true, false] {
        let fixture = Fixture::start().await;
        let all = Mortal::some(5).await;
        // The last one is taken when all others have failed.
        let last = Servo::answering("the last").await;
        let mut routed = (*alike(&all)).clone();
        routed.servos.push(RouteServo {
            id: ServoId(9),
            address: last.address,
            suspect: true,
            ..routed.servos[0].clone()
        });
        fixture.route(1, vec![Arc::new(routed)]);
        let mut all: Vec<_> = all.into_iter().map(Some).collect();
        let mut slow = Client::connect(fixture.address()).await;
        slow.send(get_path("/slow").as_bytes()).await;
        for _ in 0..2 {
            let at = whose(&all, "/slow").await;
            all[at].take().unwrap().die().await;
        }
        let at = whose(&all, "/slow").await;
        let third = all[at].take().unwrap();
        if others_die {
            let mut others = Vec::new();
            for other in all.iter_mut().filter_map(Option::take) {
                others.push(other.servo.address);
                other.die().await;
            }
            // Others find them dead.
            let target = fixture.balancer.table().route("a.example").unwrap().target().clone().unwrap();
            let is_found = |address| target.servos().iter().any(|servo| servo.address == address && servo.is_avoided());
            until_answer(
                "both are found",
                async || ask(fixture.address(), &get("a.example")).await.status(),
                |status| *status == 200 && others.iter().all(|&address| is_found(address)),
            )
            .await;
        }
        third.die().await;
        let answer = slow.answer().await;
        match others_die {
            true => assert_eq!((answer.status(), answer.text()), (200, "the last"), "{answer:?}"),
            false => assert!(is_broken(&answer), "{answer:?}"),
        }
    }
}

#[tokio::test]
async fn nine_of_ten_servos_die_under_load_and_no_request_fails() {
    for _ in 0..5 {
        let (fixture, mut servos) = (Fixture::start().await, Mortal::some(10).await);
        fixture.route(1, vec![alike(&servos)]);
        let stop = Arc::<AtomicBool>::default();
        let clients: Vec<_> = (0..16).map(|_| tokio::spawn(load(fixture.address(), stop.clone()))).collect();
        until(|| match servos.iter().all(|servo| servo.servo.seen.connections() > 0) {
            true => Ok(()),
            false => Err("not all have been asked".to_owned()),
        })
        .await;
        let left = servos.pop().unwrap();
        for servo in servos {
            servo.die().await;
        }
        let before = left.servo.seen.requests().len();
        until(|| match left.servo.seen.requests().len() {
            now if now > before + 100 => Ok(()),
            now => Err(format!("the one that is left was asked {} times", now - before)),
        })
        .await;
        stop.store(true, Ordering::SeqCst);
        for client in clients {
            assert!(within("a client", client).await.unwrap() > 0);
        }
    }
}

#[tokio::test]
async fn what_a_request_has_ended_counts_when_another_site_is_asked() {
    let authority = Authority::create().unwrap();
    let (here, there) =
        (Site::start(&authority, "b-here", "here").await, Site::start(&authority, "b-there", "there").await);
    let servos = Mortal::some(4).await;
    let of_site = |at: usize| if at < 2 { "here" } else { "there" };
    let all: Vec<_> = (0..4).map(|at| (of_site(at), at as u64, servos[at].servo.address)).collect();
    for site in [&here, &there] {
        site.route(1, routed(&all));
        site.know(1, impatient(), vec![EdgeEntry::Peer(here.row()), EdgeEntry::Peer(there.row())]);
    }
    here.until_peer_is("b-there", true).await;
    let answer = ask(here.address(), &get_path("/poison")).await;
    assert!(is_broken(&answer), "{answer:?}");
    assert_eq!(servos.iter().map(|servo| servo.asked("/poison")).sum::<usize>(), 3);
    // The one that is left.
    assert_eq!(ask(here.address(), &get("a.example")).await.text(), "alive");
}

/// A balancer whose servos have `first_byte` for the beginning of an answer, and `count` of them; the last one is taken when all
/// others have failed.
async fn impatient_for(first_byte: Duration, count: usize) -> (Fixture, Vec<Mortal>, Servo) {
    let (fixture, servos, last) =
        (Fixture::start().await, Mortal::some(count).await, Servo::answering("the last").await);
    let traffic = Traffic { first_byte_ms: first_byte.as_millis() as u32, ..Traffic::default() };
    fixture.treat(1, traffic, Vec::new());
    let mut routed = (*alike(&servos)).clone();
    let last_one = RouteServo { id: ServoId(9), address: last.address, suspect: true, ..routed.servos[0].clone() };
    routed.servos.push(last_one);
    fixture.route(1, vec![Arc::new(routed)]);
    (fixture, servos, last)
}

fn is_late(answer: &Message) -> bool {
    (answer.status(), answer.header("x-pontoon-error")) == (504, Some("timeout"))
}

#[tokio::test]
async fn who_was_left_unanswered_three_times_is_tried_further_if_the_machine_of_another_is_gone() {
    const FIRST_BYTE: Duration = Duration::from_millis(600);
    for another_is_gone in [true, false] {
        let (fixture, servos, _last) = impatient_for(FIRST_BYTE, 4).await;
        // It has kept connections, on which nothing tells that a machine is gone.
        let mut harmless = Client::connect(fixture.address()).await;
        warm(&mut harmless, &servos).await;
        let mut slow = Client::connect(fixture.address()).await;
        slow.send(get_path("/slow").as_bytes()).await;
        let at = || servos.iter().filter(|servo| servo.asked("/slow") > 0).count();
        until(|| if at() == 3 { Ok(()) } else { Err(format!("it was at {}", at())) }).await;
        if another_is_gone {
            let other = servos.iter().find(|servo| servo.asked("/slow") == 0).unwrap();
            other.vanish().await;
            let before = other.asked("/");
            while other.asked("/") == before {
                assert_eq!(harmless.ask(&get("a.example")).await.status(), 200);
            }
        }
        let answer = slow.answer().await;
        match another_is_gone {
            true => assert_eq!((answer.status(), answer.text()), (200, "the last"), "{answer:?}"),
            false => assert!(is_late(&answer), "{answer:?}"),
        }
    }
}

#[tokio::test]
async fn what_hangs_or_takes_machines_with_it_is_at_three_servos_each_however_often_it_is_sent() {
    const POISONS: usize = 3;
    for kind in ["/hang", "/vanish"] {
        let (fixture, servos, _last) = impatient_for(Duration::from_millis(300), 3 * POISONS + 3).await;
        let (address, stop) = (fixture.address(), Arc::<AtomicBool>::default());
        let mut clients = Vec::new();
        for _ in 0..8 {
            let mut client = Client::connect(address).await;
            warm(&mut client, &servos).await;
            clients.push(client);
        }
        let ask_on = |mut client: Client, stop: Arc<AtomicBool>| async move {
            let mut served = 0;
            while !stop.load(Ordering::SeqCst) {
                // It may be as unlucky as they are.
                served += usize::from(client.ask(&get("a.example")).await.status() == 200);
            }
            served
        };
        let harmless: Vec<_> = clients.into_iter().map(|client| tokio::spawn(ask_on(client, stop.clone()))).collect();
        let path = |number: usize| format!("{kind}/{number}");
        let asks = (0..POISONS).map(|number| async move { ask(address, &get_path(&path(number))).await });
        let answers = within("the answers", futures_util::future::join_all(asks)).await;
        stop.store(true, Ordering::SeqCst);
        for harmless in harmless {
            assert!(within("a client", harmless).await.unwrap() > 0);
        }
        assert!(answers.iter().all(is_late), "{answers:?}");
        for number in 0..POISONS {
            let asked: usize = servos.iter().map(|servo| servo.asked(&path(number))).sum();
            assert!(asked <= 3, "{kind}: {asked}");
        }
    }
}
