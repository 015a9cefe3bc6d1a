//! A balancer that nobody can dial: it dials the others, and requests go both ways.

use pontoon_kit::Authority;
use pontoon_model::{EdgeEntry, Traffic};
use tokio::io::AsyncReadExt;

use super::streaming::upgrading;
use super::support::http::{Client, ask, get, read_head, with_body};
use super::support::servo::Servo;
use super::support::sites::{Site, Way, at, impatient, routed};
use super::support::{keys, within};

/// A balancer that can be dialled in `here`, by way of [`Way`], and one in `attic` that cannot.
struct World {
    here: Site,
    pi: Site,
    way: Way,
}

impl World {
    async fn new(traffic: Traffic) -> Self {
        let authority = Authority::create().unwrap();
        let here = Site::start(&authority, "b-here", "here").await;
        let pi = Site::start_as(&authority, "b-pi", "attic", |config| config.workers = Some(1)).await;
        let way = Way::to(here.balancer.peer_address().unwrap()).await;
        let world = Self { here, pi, way };
        world.know(1, traffic);
        world
    }

    fn know(&self, version: u64, traffic: Traffic) {
        for site in [&self.here, &self.pi] {
            let peers = vec![at("b-here", "here", self.way.address), EdgeEntry::Peer(self.pi.row()), keys(&["secret"])];
            site.know(version, traffic.clone(), peers);
        }
    }

    async fn until_up(&self) {
        self.here.until_peer_is("b-pi", true).await;
        self.pi.until_peer_is("b-here", true).await;
    }

    /// The app is in `site` only, at the servo's address for who stands there.
    async fn serve_in(&self, version: u64, site: &str, servo: &Servo) {
        let nowhere = Servo::refusing().await;
        for one in [&self.here, &self.pi] {
            let address = if one.site == site { servo.address } else { nowhere };
            one.route(version, routed(&[(site, 1, address)]));
        }
    }
}

#[tokio::test]
async fn requests_go_both_ways_over_the_connections_that_it_makes() {
    let world = World::new(impatient()).await;
    world.until_up().await;
    let servo = Servo::answering("from the attic").await;
    world.serve_in(1, "attic", &servo).await;
    // Each worker of the other has a connection of its own.
    for _ in 0..20 {
        assert_eq!(ask(world.here.address(), &get("a.example")).await.text(), "from the attic");
    }
    let posted = ask(world.here.address(), &with_body("POST", "a.example", "a body")).await;
    assert_eq!((posted.status(), servo.seen.requests()[20].text()), (200, "a body"));
    assert_eq!(servo.seen.requests()[20].header("x-forwarded-for"), Some("127.0.0.1"));
    let servo = Servo::answering("from here").await;
    world.serve_in(2, "here", &servo).await;
    for _ in 0..4 {
        assert_eq!(ask(world.pi.address(), &get("a.example")).await.text(), "from here");
    }
    let servo = upgrading().await;
    world.serve_in(3, "attic", &servo).await;
    let mut client = Client::connect(world.here.address()).await;
    client.send(b"GET / HTTP/1.1\r\nHost: a.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n").await;
    let head = within("101", read_head(&mut client.stream)).await.unwrap();
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    client.send(b"hello").await;
    let mut back = [0; 5];
    within("the echo", client.stream.read_exact(&mut back)).await.unwrap();
    assert_eq!(&back, b"hello");
}

#[tokio::test]
async fn it_connects_again_when_the_way_was_cut_or_silent() {
    let mut world = World::new(impatient()).await;
    world.until_up().await;
    let servo = Servo::answering("from the attic").await;
    world.serve_in(1, "attic", &servo).await;
    assert_eq!(ask(world.here.address(), &get("a.example")).await.text(), "from the attic");
    for (version, how) in [(2, "cut"), (3, "frozen")] {
        match how {
            "cut" => world.way.cut(),
            _ => world.way.freeze(),
        }
        world.here.until_peer_is("b-pi", false).await;
        let answer = ask(world.here.address(), &get("a.example")).await;
        assert_eq!((answer.status(), answer.header("x-pontoon-error")), (503, Some("unreachable")), "{how}");
        world.way = Way::to(world.here.balancer.peer_address().unwrap()).await;
        world.know(version, impatient());
        world.until_up().await;
        for _ in 0..4 {
            assert_eq!(ask(world.here.address(), &get("a.example")).await.text(), "from the attic", "{how}");
        }
    }
    // The other is started anew, at another address.
    let World { here, pi, way } = world;
    let here = here.restart().await;
    let way_back = Way::to(here.balancer.peer_address().unwrap()).await;
    drop(way);
    let world = World { here, pi, way: way_back };
    world.know(4, impatient());
    world.until_up().await;
    assert_eq!(ask(world.here.address(), &get("a.example")).await.text(), "from the attic");
}

#[tokio::test]
async fn who_is_not_known_or_known_no_more_is_not_asked() {
    let world = World::new(impatient()).await;
    world.until_up().await;
    let servo = Servo::answering("from the attic").await;
    world.serve_in(1, "attic", &servo).await;
    // Removed from the cluster's list, its connections are worth nothing, though it offers more.
    world.here.know(2, impatient(), Vec::new());
    let before = world.way.connections.load(std::sync::atomic::Ordering::SeqCst);
    super::support::until(|| match world.way.connections.load(std::sync::atomic::Ordering::SeqCst) {
        now if now > before => Ok(()),
        _ => Err("it has not tried again".to_owned()),
    })
    .await;
    assert_eq!(ask(world.here.address(), &get("a.example")).await.status(), 503);
    world.know(3, impatient());
    world.until_up().await;
    assert_eq!(ask(world.here.address(), &get("a.example")).await.text(), "from the attic");
}

#[tokio::test]
async fn one_that_wants_nothing_to_do_with_the_others_is_left_alone() {
    let authority = Authority::create().unwrap();
    let here = Site::start(&authority, "b-here", "here").await;
    let way = Way::to(here.balancer.peer_address().unwrap()).await;
    let alone = Site::start_as(&authority, "b-alone", "attic", |config| config.dial_out = Some(false)).await;
    let dialling = Site::start_as(&authority, "b-pi", "loft", |config| config.workers = Some(1)).await;
    let peers = vec![at("b-here", "here", way.address), EdgeEntry::Peer(dialling.row()), EdgeEntry::Peer(alone.row())];
    for site in [&here, &alone, &dialling] {
        site.know(1, impatient(), peers.clone());
    }
    here.until_peer_is("b-pi", true).await;
    alone.until_peer_is("b-here", true).await;
    assert!(!here.peer("b-alone").unwrap().is_up(), "it offers no connection");
}
