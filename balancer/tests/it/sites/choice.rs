//! Which site is asked, and which after it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use pontoon_kit::Authority;
use pontoon_model::{EdgeEntry, Route, RouteTable, RouteVersion, Traffic};

use super::super::support::http::{Client, ask, get, with_body};
use super::super::support::servo::Servo;
use super::super::support::sites::{Site, Way, at, impatient, routed};
use super::super::support::{app, until};
use super::World;

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
async fn a_canary_gets_its_share_also_of_the_requests_of_a_site_that_has_no_servo_of_it_or_of_the_other_release() {
    const CANARY: &str = "a--v2.example";
    let (live, canary) = (Servo::answering("live").await, Servo::answering("canary").await);
    let world = World::new(Traffic::default(), &[("there", &[])]).await;
    let nowhere = Servo::refusing().await;
    let beside = |servos: &[(&str, u64, SocketAddr)]| Route { host: CANARY.into(), ..routed(servos) };
    let split = EdgeEntry::Split { app: app(), route: "a.example".into(), beside: CANARY.into(), share: 30 };
    let edge: Vec<_> = world.peers().into_iter().chain([split]).collect();
    // The canary is there only and the live release in both sites; the other way round.
    for (version, is_canary_there) in [(2, true), (3, false)] {
        let [only_there, both] = if is_canary_there { [&canary, &live] } else { [&live, &canary] };
        let here = [vec![("there", 1, nowhere)], vec![("here", 2, both.address), ("there", 3, nowhere)]];
        let there = [vec![("there", 1, only_there.address)], vec![("here", 2, nowhere), ("there", 3, both.address)]];
        for (site, servos) in [(&world.here, here), (&world.others[0], there)] {
            let [only_there, both] = servos;
            let (canary, live) = if is_canary_there { (only_there, both) } else { (both, only_there) };
            let routes = vec![Arc::new(beside(&canary)), Arc::new(routed(&live))];
            let table = RouteTable { version: RouteVersion(version), routes };
            site.balancer.table().apply_table(&table).unwrap();
            site.know(version, Traffic::default(), edge.clone());
        }
        let mut client = Client::connect(world.address()).await;
        let mut canaries = 0;
        for _ in 0..400 {
            let answer = client.ask(&get("a.example")).await;
            assert_eq!(answer.status(), 200, "{}", answer.head);
            canaries += usize::from(answer.text() == "canary");
        }
        // 120, standard deviation 9: five of them either way.
        assert!((75..165).contains(&canaries), "{canaries} of 400 with the canary there: {is_canary_there}");
    }
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
