//! Domains, settings of apps, certificates and keys, in pieces that fit into messages.

use std::sync::Arc;

use pontoon_core::view;
use pontoon_model::{EdgeEntry, EdgeKey, EdgeTable, RouteVersion, Secret, SecretPlace};
use pontoon_proto::{BalancerDirective, EdgeDelta};

use super::pieces::cut;
use crate::sealing::{SealError, SealingKeys};

/// Roughly this much goes into one message; no entry is larger than a fiftieth of it, and a message may have twice as much.
const PIECE: usize = 8 * 1024 * 1024;

/// Bytes of an entry or key besides its long texts, generously.
const SMALL: usize = 1024;

/// The whole table, and what of it does not fit into one message.
pub(super) fn whole(table: &EdgeTable) -> Vec<BalancerDirective> {
    let EdgeTable { version, entries } = table;
    let mut pieces = pieces(*version, *version, entries.clone(), Vec::new()).into_iter();
    let entries = pieces.next().map(|piece| piece.changed).unwrap_or_default();
    let first = BalancerDirective::Edge(EdgeTable { version: *version, entries });
    std::iter::once(first).chain(pieces.map(BalancerDirective::EdgeDelta)).collect()
}

/// What has changed from one table to the next.
pub(super) fn changes(from: &EdgeTable, to: &EdgeTable) -> Vec<BalancerDirective> {
    if from.version == to.version {
        return Vec::new();
    }
    let (changed, removed) = view::edge_delta(from, to);
    pieces(from.version, to.version, changed, removed).into_iter().map(BalancerDirective::EdgeDelta).collect()
}

/// One delta at least; those after the first lead from the new version to itself.
fn pieces(from: RouteVersion, to: RouteVersion, changed: Vec<Arc<EdgeEntry>>, removed: Vec<EdgeKey>) -> Vec<EdgeDelta> {
    let parts = removed.into_iter().map(Part::Removed).chain(changed.into_iter().map(Part::Changed));
    let pieces = cut(parts, PIECE, |part| match part {
        Part::Removed(_) => SMALL,
        Part::Changed(entry) => size(entry),
    });
    let delta = |(from, parts): (RouteVersion, Vec<Part>)| {
        let mut delta = EdgeDelta { from, to, changed: Vec::new(), removed: Vec::new() };
        for part in parts {
            match part {
                Part::Removed(key) => delta.removed.push(key),
                Part::Changed(entry) => delta.changed.push(entry),
            }
        }
        delta
    };
    std::iter::once(from).chain(std::iter::repeat(to)).zip(pieces).map(delta).collect()
}

/// Of a difference.
enum Part {
    Removed(EdgeKey),
    Changed(Arc<EdgeEntry>),
}

/// The same with the keys as balancers can use them.
pub(super) fn opened(directive: BalancerDirective, keys: &SealingKeys) -> Result<BalancerDirective, SealError> {
    let open = |entries: Vec<Arc<EdgeEntry>>| -> Result<Vec<_>, SealError> {
        entries.into_iter().map(|entry| opened_entry(entry, keys)).collect()
    };
    Ok(match directive {
        BalancerDirective::Edge(table) => BalancerDirective::Edge(EdgeTable { entries: open(table.entries)?, ..table }),
        BalancerDirective::EdgeDelta(delta) => {
            BalancerDirective::EdgeDelta(EdgeDelta { changed: open(delta.changed)?, ..delta })
        }
        other => other,
    })
}

fn opened_entry(entry: Arc<EdgeEntry>, keys: &SealingKeys) -> Result<Arc<EdgeEntry>, SealError> {
    Ok(match &*entry {
        EdgeEntry::Certificate(row) => Arc::new(EdgeEntry::Certificate(keys.open_certificate(row)?)),
        EdgeEntry::Keys(all) => {
            let open = |key: &Secret| keys.open_one(&SecretPlace::EdgeKeys, key).map(Secret);
            Arc::new(EdgeEntry::Keys(all.iter().map(open).collect::<Result<_, _>>()?))
        }
        EdgeEntry::Domain { .. }
        | EdgeEntry::App { .. }
        | EdgeEntry::Challenge(_)
        | EdgeEntry::Peer(_)
        | EdgeEntry::Port { .. }
        | EdgeEntry::Split { .. } => entry,
    })
}

fn size(entry: &EdgeEntry) -> usize {
    SMALL
        + match entry {
            EdgeEntry::Domain { .. } | EdgeEntry::Peer(_) => 0,
            EdgeEntry::App { traffic, .. } => traffic.maintenance_page.len() + traffic.error_page.len(),
            EdgeEntry::Certificate(certificate) => {
                let names: usize = certificate.names.iter().map(|name| name.len() + 8).sum();
                names + certificate.chain.len() + certificate.key.0.len()
            }
            // Its texts are short.
            EdgeEntry::Challenge(_) => 0,
            EdgeEntry::Port { .. } | EdgeEntry::Split { .. } => 0,
            EdgeEntry::Keys(keys) => keys.iter().map(|key| key.0.len() + 8).sum(),
        }
}

#[cfg(test)]
mod tests {
    use pontoon_model::{AppName, Traffic};
    use pontoon_proto::MAX_MESSAGE_BYTES;

    use super::*;

    fn table(version: u64, apps: usize) -> EdgeTable {
        let page = "x".repeat(Traffic::MOST_PAGE_BYTES);
        let traffic = Traffic { maintenance_page: page.clone(), error_page: page, ..Traffic::default() };
        let entry = |n: usize| {
            let app = AppName::new(&format!("app-{n:04}")).unwrap();
            Arc::new(EdgeEntry::App { app, traffic: traffic.clone() })
        };
        EdgeTable { version: RouteVersion(version), entries: (0..apps).map(entry).collect() }
    }

    #[test]
    fn a_large_table_comes_in_pieces_that_fit_into_messages_and_follow_on_each_other() {
        let large = table(7, 200);
        let pieces = whole(&large);
        assert!(pieces.len() > 1, "25 MB in one message");
        let (mut entries, mut at) = (Vec::new(), None);
        for piece in &pieces {
            assert!(pontoon_model::wire::encode(piece).unwrap().len() < MAX_MESSAGE_BYTES);
            match (piece, at) {
                (BalancerDirective::Edge(table), None) => entries.extend(table.entries.clone()),
                (BalancerDirective::EdgeDelta(delta), Some(version)) => {
                    assert_eq!((delta.from, delta.to), (version, version));
                    entries.extend(delta.changed.clone());
                }
                other => panic!("{other:?}"),
            }
            at = Some(large.version);
        }
        assert_eq!(entries, large.entries);
        assert_eq!(whole(&EdgeTable::default()), [BalancerDirective::Edge(EdgeTable::default())]);
    }

    #[test]
    fn what_changed_is_said_from_the_version_before() {
        let (one, two) = (table(3, 1), table(5, 2));
        let added = EdgeDelta {
            from: one.version,
            to: two.version,
            changed: vec![two.entries[1].clone()],
            removed: Vec::new(),
        };
        assert_eq!(changes(&one, &two), [BalancerDirective::EdgeDelta(added)]);
        let gone = EdgeDelta {
            from: two.version,
            to: RouteVersion(6),
            changed: Vec::new(),
            removed: vec![two.entries[1].key()],
        };
        let after = EdgeTable { version: RouteVersion(6), ..one };
        assert_eq!(changes(&two, &after), [BalancerDirective::EdgeDelta(gone)]);
        assert_eq!(changes(&after, &after), []);
    }
}
