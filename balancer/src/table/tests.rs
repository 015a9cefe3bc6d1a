use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::{Duration, Instant};

use pontoon_model::{AppName, ReleaseNumber, RouteServo, RouteTable, ServoId};
use pontoon_proto::{RouteDelta, RoutePiece};

use super::servo::Refused;
use super::*;
use crate::millis;

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

/// A route of another app.
fn route_of(app: &str, host: &str, servos: &[u64]) -> Arc<pontoon_model::Route> {
    Arc::new(pontoon_model::Route { app: AppName::new(app).unwrap(), ..(*route(host, servos)).clone() })
}

fn is_awake(table: &Table, host: &str) -> bool {
    !table.route(host).unwrap().is_asleep()
}

fn piece(version: u64, first: bool, last: bool, routes: &[(&str, &[u64])]) -> RoutePiece {
    let routes = routes.iter().map(|(host, servos)| route(host, servos)).collect();
    RoutePiece { version: RouteVersion(version), first, last, routes }
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

/// Picks a servo that no version has removed which is acknowledged before or while it has the request.
fn pick_none_that_is_removed(table: &Table, stale: &mut Arc<Route>, removed_by: impl Fn(ServoId) -> u64) {
    let applied = table.version().0;
    let Picked::Servo(request) = table.pick(stale, &any()) else { panic!("there are always servos") };
    let removed_by = removed_by(request.servo().id);
    assert!(removed_by > applied, "applied {applied}, picked one that {removed_by} removed");
    let drained = table.progress().drained.0;
    assert!(drained < removed_by, "drained {drained} with a request to one that {removed_by} removed");
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
                    pick_none_that_is_removed(&table, &mut stale, removed_by);
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

#[test]
fn an_app_sleeps_until_it_is_asked_for_and_wakes_with_all_of_its_routes() {
    let table = table(&[("a", &[1]), ("b", &[1, 2])]);
    let other = RouteDelta { changed: vec![route_of("other", "o", &[3])], ..delta(1, 2, &[], &[]) };
    table.apply_delta(&other).unwrap();
    assert!(table.awake().is_empty() && table.updater.lock().has_no_servo());
    drop(pick(&table, "b"));
    assert!(is_awake(&table, "a") && is_awake(&table, "b") && !is_awake(&table, "o"));
    // One that comes into an app that is awake is awake, one that moves to an app that sleeps is not.
    let moved = RouteDelta { changed: vec![route("c", &[2]), route_of("other", "a", &[3])], ..delta(2, 3, &[], &[]) };
    table.apply_delta(&moved).unwrap();
    assert!(is_awake(&table, "c") && !is_awake(&table, "a"));
    assert!(Arc::ptr_eq(pick(&table, "c").servo(), &table.route("b").unwrap().target().as_ref().unwrap().servos()[1]));
    let mut hosts: Vec<_> = table.awake().iter().map(|route| route.host.to_string()).collect();
    hosts.sort();
    assert_eq!(hosts, ["b", "c"]);
    // When its last route goes, nothing of it is left.
    table.apply_delta(&delta(3, 4, &[], &["b", "c"])).unwrap();
    assert!(table.awake().is_empty() && table.updater.lock().has_no_servo());
    table.apply_delta(&delta(4, 5, &[("b", &[1])], &[])).unwrap();
    assert!(!is_awake(&table, "b"));
}

#[test]
fn a_route_that_is_put_again_unchanged_stays_as_it_is() {
    let table = table(&[("a", &[1, 2])]);
    let request = pick(&table, "a");
    let target = || table.route("a").unwrap().target().clone().unwrap();
    let before = target();
    table.apply_table(&full(2, &[("a", &[1, 2])])).unwrap();
    assert!(Arc::ptr_eq(&before, &target()));
    assert_eq!(table.progress(), ack(2, 2));
    drop(request);
}

/// Slow start counts from when a servo came into the table, not from when somebody asked for it.
#[test]
fn a_servo_is_as_old_when_it_is_asked_for_first_as_it_has_been_there() {
    let later = |than: u64| while millis::now() <= than {};
    let table = table(&[("live", &[1]), ("beside", &[2])]);
    let first = millis::now();
    later(first);
    table.apply_delta(&delta(1, 2, &[("live", &[1, 3])], &[])).unwrap();
    let second = millis::now();
    later(second);
    // What was beside the live release becomes it, and its route goes: its servo has been there all the time.
    table.apply_delta(&delta(2, 3, &[("live", &[1, 2, 3, 4])], &["beside"])).unwrap();
    table.apply_table(&full(4, &[("live", &[1, 2, 3, 4])])).unwrap();
    let third = millis::now();
    later(third);
    let _request = pick(&table, "live");
    let route = table.route("live").unwrap();
    let since: Vec<_> = route.target().as_ref().unwrap().servos().iter().map(|servo| servo.since()).collect();
    assert!(since[0] <= first && since[1] <= first, "{since:?}");
    assert!(first < since[2] && since[2] <= second, "{since:?}");
    assert!(second < since[3] && since[3] <= third, "{since:?}");
}

#[test]
fn an_app_that_nobody_asks_for_sleeps_again_and_keeps_its_counts() {
    let table = table(&[("a", &[1, 2]), ("b", &[2])]);
    drop((table.begin(&table.route("a").unwrap()), pick(&table, "a")));
    let stale = table.route("a").unwrap().target().clone().unwrap();
    table.let_quiet_sleep();
    assert!(is_awake(&table, "a"), "it was asked for since");
    table.let_quiet_sleep();
    assert!(!is_awake(&table, "a") && !is_awake(&table, "b"));
    assert!(table.updater.lock().has_no_servo() && table.awake().is_empty());
    // Whoever has read what it led to before it slept is not let in there, and wakes it.
    assert_eq!(Servo::enter(&stale.servos()[0], 0).unwrap_err(), Refused::Removed);
    let request = pick(&table, "a");
    assert!(!stale.servos().iter().any(|servo| Arc::ptr_eq(servo, request.servo())));
    assert_eq!(table.route("a").unwrap().statistics().requests(), 1);
    assert_eq!(table.progress(), ack(1, 1));
}

#[test]
fn an_app_with_something_to_lose_does_not_sleep() {
    let table = table(&[("a", &[1, 2])]);
    let sleeps = || {
        table.let_quiet_sleep();
        table.let_quiet_sleep();
        !is_awake(&table, "a")
    };
    let request = pick(&table, "a");
    assert!(!sleeps(), "a request is in flight");
    request.servo().failed(Failure::Broken);
    let servo = request.servo().clone();
    drop(request);
    assert!(!sleeps(), "what is known of its servos would be forgotten");
    servo.trust();
    servo.unwatch();
    let waiting = table.route("a").unwrap().wait().unwrap();
    assert!(!sleeps(), "a request waits");
    drop(waiting);
    for _ in 0..3 {
        drop(table.join(&table.route("a").unwrap()));
        table.let_quiet_sleep();
        assert!(is_awake(&table, "a"), "another site asks for it");
    }
    assert!(sleeps());
}

#[test]
fn a_table_in_pieces_is_the_table_with_the_last_one() {
    let table = table(&[("a", &[1]), ("b", &[2]), ("c", &[3])]);
    let request = pick(&table, "c");
    table.apply_piece(&piece(5, true, false, &[("a", &[9])])).unwrap();
    assert_eq!((table.version(), table.held()), (RouteVersion(1), RouteVersion(0)));
    assert_eq!(pick(&table, "a").servo().id, ServoId(9));
    assert_eq!(pick(&table, "b").servo().id, ServoId(2), "it may come yet");
    assert!(table.list().is_none(), "it is the table of no version");
    let gap = ApplyError::Gap { from: RouteVersion(1), have: RouteVersion(0) };
    assert_eq!(table.apply_delta(&delta(1, 6, &[("a", &[7])], &[])), Err(gap));
    table.let_quiet_sleep();
    // The session ended, and another controller begins anew.
    table.apply_piece(&piece(7, true, false, &[("b", &[8])])).unwrap();
    let other = ApplyError::Gap { from: RouteVersion(5), have: RouteVersion(7) };
    assert_eq!(table.apply_piece(&piece(5, false, true, &[("c", &[3])])), Err(other));
    table.apply_piece(&piece(7, false, true, &[("d", &[4])])).unwrap();
    assert_eq!(table.snapshot(), full(7, &[("b", &[8]), ("d", &[4])]));
    assert_eq!((table.held(), table.progress()), (RouteVersion(7), ack(7, 6)));
    drop(request);
    assert_eq!(table.progress(), ack(7, 7));
}

#[test]
fn pieces_of_an_older_table_change_nothing() {
    let table = table(&[("a", &[1])]);
    table.apply_delta(&delta(1, 4, &[("a", &[2])], &[])).unwrap();
    let older = ApplyError::Older { given: RouteVersion(3), have: RouteVersion(4) };
    assert_eq!(table.apply_piece(&piece(3, true, false, &[("a", &[9])])), Err(older));
    table.apply_piece(&piece(3, false, true, &[("b", &[9])])).unwrap();
    assert_eq!(table.snapshot(), full(4, &[("a", &[2])]));
}

/// Version V changes one host name, to the servo V, or takes it away.
#[test]
fn a_list_is_of_one_version_however_the_table_changes_meanwhile() {
    const HOSTS: u64 = 50;
    const VERSIONS: u64 = 3_000;
    let servo_at = |host: u64, version: u64| {
        let newest = version.checked_sub((version + HOSTS - host) % HOSTS)?;
        (newest > 0 && newest % 7 != 0).then_some(newest)
    };
    let table = Table::new(site("here"));
    let (over, lists) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                let snapshot = table.snapshot();
                let there: BTreeMap<_, _> =
                    snapshot.routes.iter().map(|route| (route.host.clone(), route.servos[0].id.0)).collect();
                let expected =
                    (0..HOSTS).filter_map(|host| Some((format!("h{host}"), servo_at(host, snapshot.version.0)?)));
                assert_eq!(there, expected.collect(), "at {}", snapshot.version);
                lists.fetch_add(1, Ordering::Relaxed);
            }
        });
        for version in 1..=VERSIONS {
            let host = format!("h{}", version % HOSTS);
            let change = match version % 7 {
                0 => delta(version - 1, version, &[], &[&host]),
                _ => delta(version - 1, version, &[(&host, &[version])], &[]),
            };
            table.apply_delta(&change).unwrap();
        }
        over.store(true, Ordering::Relaxed);
    });
    assert!(lists.load(Ordering::Relaxed) > 10);
}

/// Threads ask for apps without pause, which wakes them, while each change replaces the servos of one of them, and another
/// thread lets them sleep. The servos of version V are 2V and 2V+1; they are removed when it is the app's turn again.
#[test]
fn no_request_that_wakes_an_app_gets_to_a_servo_that_an_acknowledged_version_removed() {
    const HOSTS: u64 = 32;
    const VERSIONS: u64 = 20_000;
    let removed_by = |id: ServoId| id.0 / 2 + HOSTS;
    // Now and then a host name moves to another app.
    let changed = |version: u64| {
        let (host, turn) = (version % HOSTS, version / HOSTS);
        route_of(&format!("app-{host}-{}", turn / 3), &format!("h{host}"), &[2 * version, 2 * version + 1])
    };
    let table = Table::new(site("here"));
    let first = RouteTable { version: RouteVersion(HOSTS), routes: (1..=HOSTS).map(changed).collect() };
    table.apply_table(&first).unwrap();
    let (over, woken, picks) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    let host = format!("h{}", rand::random_range(0..HOSTS));
                    let mut stale = table.route(&host).unwrap();
                    woken.fetch_add(u64::from(stale.is_asleep()), Ordering::Relaxed);
                    pick_none_that_is_removed(&table, &mut stale, removed_by);
                    picks.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                table.let_quiet_sleep();
            }
        });
        for version in HOSTS + 1..=VERSIONS {
            let change = RouteDelta { changed: vec![changed(version)], ..delta(version - 1, version, &[], &[]) };
            table.apply_delta(&change).unwrap();
        }
        over.store(true, Ordering::Relaxed);
    });
    let (woken, picks) = (woken.into_inner(), picks.into_inner());
    assert!(woken > 100 && picks > 1000, "{woken} of {picks} found a sleeping app");
    assert_eq!(table.progress(), ack(VERSIONS, VERSIONS));
    table.let_quiet_sleep();
    table.let_quiet_sleep();
    assert!(table.updater.lock().has_no_servo(), "nothing is left of what was removed");
}
