//! The routes, in pieces that fit into messages and that a balancer can take in one after the other.

use std::sync::Arc;

use pontoon_core::{MAX_SERVOS, view};
use pontoon_model::{AppName, Route, RouteTable, SiteName};
use pontoon_proto::{BalancerDirective, MAX_MESSAGE_BYTES, RouteDelta, RoutePiece};

use super::pieces::cut;

/// Roughly this much goes into one piece. A balancer holds one in memory, in several times as many bytes.
const PIECE: usize = 1024 * 1024;
/// More than this is sent as a whole table: a difference has no pieces, since all of it is acknowledged at once.
const LARGEST_DELTA: usize = 8 * 1024 * 1024;

/// Bytes of a route and of a servo besides their texts, generously.
const ROUTE: usize = 64;
const SERVO: usize = 48;

/// A route is never cut, and always fits: more servos of a process are refused where they are asked for. While a deployment takes
/// the place of another, servos of both may be reached.
const LARGEST_ROUTE: usize =
    ROUTE + LONGEST_HOST + AppName::MAX_LEN + 2 * MAX_SERVOS as usize * (SERVO + SiteName::MAX_LEN);
/// Of DNS; reasons, which only routes without servos have, are shorter than servos.
const LONGEST_HOST: usize = 255;
const _: () = assert!(LARGEST_DELTA + LARGEST_ROUTE <= MAX_MESSAGE_BYTES && PIECE < LARGEST_DELTA);

/// The whole table: in one message if it fits or its reader knows no pieces.
pub(super) fn whole(table: &RouteTable, reads_pieces: bool) -> Vec<BalancerDirective> {
    let mut pieces = if reads_pieces { pieces(table) } else { Vec::new() };
    if pieces.len() <= 1 {
        return vec![BalancerDirective::Table(table.clone())];
    }
    if let Some(last) = pieces.last_mut() {
        last.last = true;
    }
    pieces.into_iter().map(BalancerDirective::Piece).collect()
}

/// What has changed from one table to the next.
pub(super) fn changes(from: &Arc<RouteTable>, to: &Arc<RouteTable>, reads_pieces: bool) -> Vec<BalancerDirective> {
    if from.version == to.version {
        return Vec::new();
    }
    let (changed, removed) = view::route_delta(from, to);
    let bytes: usize =
        changed.iter().map(|route| size(route)).chain(removed.iter().map(|host| ROUTE + host.len())).sum();
    if bytes > LARGEST_DELTA && reads_pieces {
        return whole(to, true);
    }
    vec![BalancerDirective::Delta(RouteDelta { from: from.version, to: to.version, changed, removed })]
}

fn pieces(table: &RouteTable) -> Vec<RoutePiece> {
    let piece = |first, routes| RoutePiece { version: table.version, first, last: false, routes };
    let pieces = cut(table.routes.iter().cloned(), PIECE, |route| size(route));
    pieces.into_iter().enumerate().map(|(at, routes)| piece(at == 0, routes)).collect()
}

fn size(route: &Route) -> usize {
    let servos: usize = route.servos.iter().map(|servo| SERVO + servo.site.as_str().len()).sum();
    ROUTE + route.host.len() + route.app.as_str().len() + route.reason.len() + servos
}

#[cfg(test)]
mod tests {
    use pontoon_model::{RouteServo, RouteVersion, ServoId};

    use super::*;

    fn table(version: u64, routes: usize, servos: u64) -> Arc<RouteTable> {
        let servo = |id: u64| RouteServo {
            id: ServoId(id + version),
            site: SiteName::new("aws.us-east-1a").unwrap(),
            address: "[2001:db8::1]:20000".parse().unwrap(),
            suspect: false,
        };
        let route = |n: usize| {
            let app = AppName::new(&format!("app-{n:05}")).unwrap();
            let (host, servos) = (format!("{app}.example.org"), (0..servos).map(servo).collect());
            Arc::new(Route { host, app, release: None, servos, reason: String::new() })
        };
        Arc::new(RouteTable { version: RouteVersion(version), routes: (0..routes).map(route).collect() })
    }

    fn encoded_len(directive: &BalancerDirective) -> usize {
        pontoon_model::wire::encode(directive).unwrap().len()
    }

    #[test]
    fn a_large_table_comes_in_pieces_of_a_mebibyte_and_a_small_one_as_it_always_did() {
        let large = table(7, 5_000, 100);
        let pieces = whole(&large, true);
        let mut routes = Vec::new();
        for (at, piece) in pieces.iter().enumerate() {
            assert!(encoded_len(piece) <= PIECE + 8 * 1024, "{}", encoded_len(piece));
            let BalancerDirective::Piece(piece) = piece else { panic!("{piece:?}") };
            assert_eq!((piece.first, piece.last, piece.version), (at == 0, at == pieces.len() - 1, large.version));
            routes.extend(piece.routes.iter().cloned());
        }
        assert_eq!(routes, large.routes);
        for small in [table(7, 10, 3), Arc::default()] {
            assert_eq!(whole(&small, true), [BalancerDirective::Table(RouteTable::clone(&small))]);
        }
        assert_eq!(whole(&large, false), [BalancerDirective::Table(RouteTable::clone(&large))]);
    }

    #[test]
    fn a_change_is_a_difference_unless_it_would_not_fit_into_a_message() {
        let (one, two) = (table(3, 10, 3), table(4, 10, 3));
        let [BalancerDirective::Delta(delta)] = &changes(&one, &two, true)[..] else { panic!("no difference") };
        assert_eq!((delta.from, delta.to, delta.changed.len()), (one.version, two.version, 10));
        assert!(changes(&two, &two, true).is_empty());
        let (one, two) = (table(3, 5_000, 60), table(4, 5_000, 60));
        assert!(matches!(changes(&one, &two, true)[..], [BalancerDirective::Piece(_), ..]));
        let alone = changes(&one, &two, false);
        assert!(matches!(alone[..], [BalancerDirective::Delta(_)]));
    }

    #[test]
    fn the_largest_route_that_may_be_is_smaller_than_it_is_taken_for_and_fits_into_any_message() {
        let servo = |id: u64| RouteServo {
            id: ServoId(u64::MAX - id),
            site: SiteName::new(&"s".repeat(SiteName::MAX_LEN)).unwrap(),
            address: "[2001:db8::1]:20000".parse().unwrap(),
            suspect: true,
        };
        let app = AppName::new(&"a".repeat(AppName::MAX_LEN)).unwrap();
        let servos = (0..2 * u64::from(MAX_SERVOS)).map(servo).collect();
        let route = Route { host: "h".repeat(LONGEST_HOST), app, release: None, servos, reason: String::new() };
        let encoded = pontoon_model::wire::encode(&BalancerDirective::Delta(RouteDelta {
            from: RouteVersion(1),
            to: RouteVersion(2),
            changed: vec![route.clone().into()],
            removed: Vec::new(),
        }));
        assert!(encoded.unwrap().len() <= size(&route) && size(&route) <= LARGEST_ROUTE);
        // Behind as much as a piece takes.
        let mut table = RouteTable::clone(&table(7, 5_000, 2));
        table.routes.insert(4_000, route.into());
        let pieces = whole(&table, true);
        assert!(pieces.len() > 1);
        assert!(pieces.iter().all(|piece| encoded_len(piece) <= MAX_MESSAGE_BYTES));
    }
}
