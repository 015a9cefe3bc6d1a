//! How balancers know of each other.

use std::net::SocketAddr;

use pontoon_kit::Authority;

use super::super::support::controller::Controller;
use super::super::support::http::{ask, get};
use super::super::support::servo::Servo;
use super::super::support::sites::{Site, impatient};
use super::World;

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
