//! A site that is lost, or silent, under load.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::io::AsyncWriteExt;
use tokio::sync::Notify;

use super::super::support::http::{Client, ask, get, ok, read_message, with_body};
use super::super::support::servo::Servo;
use super::super::support::sites::{Way, at, impatient};
use super::super::support::{until, within};
use super::World;

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
