use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::{Duration, Instant};

use pontoon_model::{AppName, ReleaseNumber, RouteServo, ServoId};

use super::*;

fn site(name: &str) -> SiteName {
    SiteName::new(name).unwrap()
}

fn servo(id: u64) -> RouteServo {
    RouteServo {
        id: ServoId(id),
        site: site("here"),
        address: format!("127.0.0.1:{}", 1000 + id).parse().unwrap(),
        suspect: false,
    }
}

fn route(host: &str, servos: &[u64]) -> Arc<pontoon_model::Route> {
    Arc::new(pontoon_model::Route {
        host: host.into(),
        app: AppName::new("guestbook").unwrap(),
        release: Some(ReleaseNumber(1)),
        servos: servos.iter().copied().map(servo).collect(),
        reason: if servos.is_empty() { "it is starting".into() } else { String::new() },
    })
}

fn full(version: u64, routes: &[(&str, &[u64])]) -> RouteTable {
    RouteTable {
        version: RouteVersion(version),
        routes: routes.iter().map(|(host, servos)| route(host, servos)).collect(),
    }
}

fn delta(from: u64, to: u64, changed: &[(&str, &[u64])], removed: &[&str]) -> RouteDelta {
    RouteDelta {
        from: RouteVersion(from),
        to: RouteVersion(to),
        changed: changed.iter().map(|(host, servos)| route(host, servos)).collect(),
        removed: removed.iter().map(|host| (*host).to_owned()).collect(),
    }
}

fn table(routes: &[(&str, &[u64])]) -> Table {
    let table = Table::new(site("here"));
    table.apply_table(&full(1, routes)).unwrap();
    table
}

fn any() -> Wish<'static> {
    Wish::of(&pontoon_model::Traffic::default(), &[], None)
}

fn pick(table: &Table, host: &str) -> InFlight {
    match table.pick(&mut table.route(host).unwrap(), &any()) {
        Picked::Servo(in_flight) => in_flight,
        other => panic!("{other:?}"),
    }
}

fn ack(applied: u64, drained: u64) -> BalancerAck {
    BalancerAck { applied: RouteVersion(applied), drained: RouteVersion(drained) }
}

#[test]
fn a_table_comes_back_as_it_was_given() {
    let given = {
        let mut given = full(7, &[("a.example", &[1, 2]), ("b.example", &[])]);
        let mut first = (*given.routes[0]).clone();
        first.servos[1].suspect = true;
        first.servos[1].site = site("there");
        given.routes[0] = Arc::new(first);
        given
    };
    let table = Table::new(site("here"));
    table.apply_table(&given).unwrap();
    assert_eq!(table.snapshot(), given);
    assert_eq!(table.progress(), ack(7, 7));
}

#[test]
fn deltas_add_change_and_remove() {
    let table = table(&[("a", &[1]), ("b", &[2])]);
    table.apply_delta(&delta(1, 5, &[("a", &[3]), ("c", &[4])], &["b"])).unwrap();
    assert_eq!(table.snapshot(), full(5, &[("a", &[3]), ("c", &[4])]));
    table.apply_table(&full(9, &[("c", &[4])])).unwrap();
    assert_eq!(table.snapshot(), full(9, &[("c", &[4])]));
    assert!(table.route("a").is_none());
}

#[test]
fn what_does_not_fit_is_refused_and_changes_nothing() {
    let table = table(&[("a", &[1])]);
    table.apply_delta(&delta(1, 4, &[("a", &[2])], &[])).unwrap();
    let before = table.snapshot();
    let gap = ApplyError::Gap { from: RouteVersion(3), have: RouteVersion(4) };
    assert_eq!(table.apply_delta(&delta(3, 6, &[("a", &[9])], &[])), Err(gap));
    let older = ApplyError::Older { given: RouteVersion(2), have: RouteVersion(4) };
    assert_eq!(table.apply_table(&full(2, &[])), Err(older));
    assert_eq!(table.snapshot(), before);
}

#[test]
fn drained_waits_below_the_version_that_removed_a_busy_servo() {
    let table = table(&[("a", &[1])]);
    let first = pick(&table, "a");
    table.apply_delta(&delta(1, 4, &[("a", &[2])], &[])).unwrap();
    assert_eq!(table.progress(), ack(4, 3));
    let second = pick(&table, "a");
    assert_eq!(second.servo().id, ServoId(2));
    table.apply_delta(&delta(4, 8, &[], &["a"])).unwrap();
    assert_eq!(table.progress(), ack(8, 3));
    drop(first);
    assert_eq!(table.progress(), ack(8, 7));
    drop(second);
    assert_eq!(table.progress(), ack(8, 8));
}

#[test]
fn a_servo_that_another_route_still_names_is_not_removed() {
    let table = table(&[("a", &[1]), ("b", &[1])]);
    let request = pick(&table, "a");
    table.apply_delta(&delta(1, 2, &[], &["a"])).unwrap();
    assert_eq!(table.progress(), ack(2, 2));
    assert_eq!(pick(&table, "b").servo().in_flight(), 2, "both routes count on the same servo");
    table.apply_delta(&delta(2, 3, &[("c", &[1])], &["b"])).unwrap();
    assert_eq!(table.progress(), ack(3, 3), "it moved to another route within one change");
    table.apply_delta(&delta(3, 4, &[], &["c"])).unwrap();
    assert_eq!(table.progress(), ack(4, 3));
    drop(request);
    assert_eq!(table.progress(), ack(4, 4));
}

#[test]
fn a_servo_that_comes_back_starts_anew_while_the_old_one_drains() {
    let table = table(&[("a", &[1])]);
    let request = pick(&table, "a");
    table.apply_delta(&delta(1, 2, &[("a", &[])], &[])).unwrap();
    assert!(
        matches!(table.pick(&mut table.route("a").unwrap(), &any()), Picked::Empty(reason) if reason.contains("starting"))
    );
    table.apply_delta(&delta(2, 3, &[("a", &[1])], &[])).unwrap();
    assert_eq!(pick(&table, "a").servo().in_flight(), 1);
    assert_eq!(table.progress(), ack(3, 1));
    drop(request);
    assert_eq!(table.progress(), ack(3, 3));
}

#[test]
fn a_route_read_before_a_change_leads_to_the_new_servos() {
    let table = table(&[("a", &[1]), ("b", &[2])]);
    let (mut a, mut b) = (table.route("a").unwrap(), table.route("b").unwrap());
    let other_app =
        Arc::new(pontoon_model::Route { app: AppName::new("other").unwrap(), ..(*route("a", &[3])).clone() });
    let change = RouteDelta { changed: vec![other_app], ..delta(1, 2, &[], &["b"]) };
    table.apply_delta(&change).unwrap();
    assert!(matches!(table.pick(&mut a, &any()), Picked::Servo(picked) if picked.servo().id == ServoId(3)));
    assert_eq!(a.app.name.as_str(), "other");
    assert!(matches!(table.pick(&mut b, &any()), Picked::Gone));
}

/// Threads pick without pause while the table changes. At version V the servos are 2V and 2V+1, so each id tells
/// which version removed it.
#[test]
fn no_request_picks_a_servo_that_an_acknowledged_version_removed() {
    const VERSIONS: u64 = 20_000;
    let removed_by = |id: ServoId| id.0 / 2 + 1;
    let table = table(&[("a", &[2, 3])]);
    let over = AtomicBool::new(false);
    let picks = AtomicU64::new(0);
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    let mut stale = table.route("a").unwrap();
                    let applied = table.version().0;
                    let Picked::Servo(request) = table.pick(&mut stale, &any()) else {
                        panic!("there are always servos")
                    };
                    let removed_by = removed_by(request.servo().id);
                    assert!(removed_by > applied, "applied {applied}, picked one that {removed_by} removed");
                    let drained = table.progress().drained.0;
                    assert!(drained < removed_by, "drained {drained} with a request to one that {removed_by} removed");
                    drop(request);
                    picks.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        for version in 2..=VERSIONS {
            let servos = [2 * version, 2 * version + 1];
            table.apply_delta(&delta(version - 1, version, &[("a", &servos)], &[])).unwrap();
        }
        over.store(true, Ordering::Relaxed);
    });
    assert!(picks.load(Ordering::Relaxed) > 1000);
    assert_eq!(table.progress(), ack(VERSIONS, VERSIONS));
}

/// The session must not miss the end of the last request, however it falls together with the removal.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_of_the_last_request_is_always_told() {
    let table = Arc::new(table(&[("a", &[1])]));
    for version in 2..2000 {
        let request = pick(&table, "a");
        let ender = tokio::spawn(async move { drop(request) });
        table.apply_delta(&delta(version - 1, version, &[("a", &[version])], &[])).unwrap();
        let begun = Instant::now();
        while table.progress().drained.0 < version {
            // Bound: the ring comes within microseconds; a lost one would never come.
            tokio::time::timeout(Duration::from_secs(10), table.drained()).await.unwrap();
        }
        assert!(begun.elapsed() < Duration::from_secs(10));
        ender.await.unwrap();
    }
}
