//! What a route leads to, in few bytes: most routes of a large table are never asked for, and a servo takes about ten bytes
//! here where it takes a hundred and more as a [`super::Servo`].

use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::sync::Arc;

use integer_encoding::VarInt;
use pontoon_model::{ReleaseNumber, RouteServo, ServoId};

use super::servo::Key;
use super::sites::{OWN, Sites};
use super::target::Target;

/// The release, the reason for no servo, and the servos in the order of their tiers. Equal if and only if they say the same.
///
/// Numbers take as many bytes as they need. A servo's id and time are told as differences to the servo before: an app's
/// servos are made together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Packed(Arc<[u8]>);

/// One servo of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) id: ServoId,
    pub(super) address: SocketAddr,
    /// By its number in [`Sites`].
    pub(super) site: usize,
    pub(super) suspect: bool,
    /// By [`crate::millis::now`], when it came into the table.
    pub(super) since: u64,
}

/// Parts of a row's first number, below the site.
const SUSPECT: usize = 1;
const IPV6: usize = 2;
const SITE_SHIFT: u32 = 2;

impl Row {
    pub(super) fn key(&self) -> Key {
        (self.id, self.address)
    }

    pub(super) fn tier(&self) -> usize {
        Target::tier(self.site == OWN, self.suspect)
    }
}

impl Packed {
    /// Of what a controller sent; `since` says when a servo came.
    pub(super) fn new(route: &pontoon_model::Route, sites: &Sites, since: impl Fn(Key) -> u64) -> Self {
        let row = |servo: &RouteServo| Row {
            id: servo.id,
            address: servo.address,
            site: sites.number(&servo.site),
            suspect: servo.suspect,
            since: since((servo.id, servo.address)),
        };
        let mut rows: Vec<_> = route.servos.iter().map(row).collect();
        rows.sort_by_key(|row| (row.tier(), row.id));
        let mut bytes = Vec::new();
        put(&mut bytes, route.release.map_or(0, |release| u64::from(release.0) + 1));
        put(&mut bytes, route.reason.len());
        bytes.extend_from_slice(route.reason.as_bytes());
        let mut before = (0, 0);
        for row in &rows {
            write(&mut bytes, row, before);
            before = (row.id.0, row.since);
        }
        Self(bytes.into())
    }

    /// The live release.
    pub(super) fn release(&self) -> Option<ReleaseNumber> {
        let number = Reader(&self.0).number::<u64>();
        number.checked_sub(1).map(|number| ReleaseNumber(number as _))
    }

    /// Why there is no servo; empty if there are some.
    pub(super) fn reason(&self) -> String {
        String::from_utf8_lossy(self.parts().0).into_owned()
    }

    /// The servos, in the order of their tiers.
    pub(super) fn rows(&self) -> impl Iterator<Item = Row> {
        let (mut reader, mut before) = (self.parts().1, (0, 0));
        std::iter::from_fn(move || {
            let row = reader.row(before)?;
            before = (row.id.0, row.since);
            Some(row)
        })
    }

    /// The reason, and what comes after it.
    fn parts(&self) -> (&[u8], Reader<'_>) {
        let mut reader = Reader(&self.0);
        let _release = reader.number::<u64>();
        let len = reader.number();
        (reader.take(len), reader)
    }
}

fn put(bytes: &mut Vec<u8>, number: impl VarInt) {
    let mut room = [0; 10];
    let len = number.encode_var(&mut room);
    bytes.extend_from_slice(&room[..len]);
}

/// `before`: id and time of the row before.
fn write(bytes: &mut Vec<u8>, row: &Row, before: (u64, u64)) {
    let (suspect, v6) = (usize::from(row.suspect) * SUSPECT, usize::from(row.address.is_ipv6()) * IPV6);
    put(bytes, (row.site << SITE_SHIFT) | suspect | v6);
    put(bytes, row.id.0.wrapping_sub(before.0) as i64);
    put(bytes, row.since.wrapping_sub(before.1) as i64);
    match row.address {
        SocketAddr::V4(address) => bytes.extend_from_slice(&address.ip().octets()),
        SocketAddr::V6(address) => {
            bytes.extend_from_slice(&address.ip().octets());
            put(bytes, address.flowinfo());
            put(bytes, address.scope_id());
        }
    }
    bytes.extend_from_slice(&row.address.port().to_be_bytes());
}

/// Reads what this file wrote. Nothing else is ever in there; if it were, there would be fewer rows.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn number<N: VarInt + Default>(&mut self) -> N {
        let (number, len) = N::decode_var(self.0).unwrap_or_else(|| (N::default(), self.0.len()));
        self.take(len);
        number
    }

    fn take(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        taken
    }

    fn array<const LEN: usize>(&mut self) -> Option<[u8; LEN]> {
        self.take(LEN).try_into().ok()
    }

    fn row(&mut self, before: (u64, u64)) -> Option<Row> {
        if self.0.is_empty() {
            return None;
        }
        let first: usize = self.number();
        let id = ServoId(before.0.wrapping_add(self.number::<i64>() as u64));
        let since = before.1.wrapping_add(self.number::<i64>() as u64);
        let address = if first & IPV6 == 0 {
            let ip = IpAddr::from(self.array::<4>()?);
            SocketAddr::new(ip, u16::from_be_bytes(self.array()?))
        } else {
            let (ip, flow, scope) = (self.array::<16>()?.into(), self.number(), self.number());
            SocketAddrV6::new(ip, u16::from_be_bytes(self.array()?), flow, scope).into()
        };
        Some(Row { id, address, site: first >> SITE_SHIFT, suspect: first & SUSPECT != 0, since })
    }
}

#[cfg(test)]
mod tests {
    use pontoon_model::{AppName, SiteName};
    use proptest::prelude::*;

    use super::*;

    fn site(name: &str) -> SiteName {
        SiteName::new(name).unwrap()
    }

    fn servo(id: u64, address: &str) -> RouteServo {
        RouteServo { id: ServoId(id), site: site("here"), address: address.parse().unwrap(), suspect: false }
    }

    fn route(servos: Vec<RouteServo>, reason: &str) -> pontoon_model::Route {
        let app = AppName::new("a").unwrap();
        pontoon_model::Route { host: "a.b".into(), app, release: Some(ReleaseNumber(7)), servos, reason: reason.into() }
    }

    #[test]
    fn ten_servos_of_one_start_take_a_hundred_bytes() {
        let servos = (0..10).map(|n| servo(5_000_000 + n, &format!("10.1.2.{n}:20000"))).collect();
        let packed = Packed::new(&route(servos, ""), &Sites::new(site("here")), |_| 86_400_000);
        assert!(packed.0.len() <= 110, "{}", packed.0.len());
    }

    fn servos() -> impl Strategy<Value = Vec<(RouteServo, u64)>> {
        let address = prop_oneof![
            any::<([u8; 4], u16)>().prop_map(|(ip, port)| SocketAddr::new(ip.into(), port)),
            any::<([u8; 16], u16, u32, u32)>().prop_map(|(ip, port, flow, scope)| SocketAddrV6::new(
                ip.into(),
                port,
                flow,
                scope
            )
            .into()),
        ];
        let one = (any::<u64>(), address, 0..300_u16, any::<bool>(), any::<u64>()).prop_map(
            |(id, address, number, suspect, since)| {
                (RouteServo { id: ServoId(id), site: site(&format!("s{number}")), address, suspect }, since)
            },
        );
        proptest::collection::vec(one, 0..20)
    }

    proptest! {
        #[test]
        fn what_is_packed_comes_out_as_it_was(servos in servos(), reason in ".{0,40}") {
            let sites = Sites::new(site("s0"));
            let since = |key| servos.iter().find(|(servo, _)| (servo.id, servo.address) == key).unwrap().1;
            let given = route(servos.iter().map(|(servo, _)| servo.clone()).collect(), &reason);
            let packed = Packed::new(&given, &sites, since);
            prop_assert_eq!(packed.release(), given.release);
            prop_assert_eq!(packed.reason(), reason);
            let row = |(servo, _): &(RouteServo, u64)| Row {
                id: servo.id,
                address: servo.address,
                site: sites.number(&servo.site),
                suspect: servo.suspect,
                since: since((servo.id, servo.address)),
            };
            let mut expected: Vec<_> = servos.iter().map(row).collect();
            expected.sort_by_key(|row| (row.tier(), row.id));
            prop_assert_eq!(packed.rows().collect::<Vec<_>>(), expected);
            prop_assert_eq!(Packed::new(&given, &sites, since), packed);
        }
    }
}
