//! Feature levels: what a cluster may write, so that every member can read it.
//!
//! A new command kind or row version is written only once the replicated level allows it; the leader raises the level when
//! all members have said that they can read the next one (docs/decisions/0006). Whoever adds a kind or a version after the
//! first release adds a line to [`NEEDS`] and raises [`NEWEST`].

/// The level of a new cluster.
pub const FIRST: u32 = 1;

/// The newest level that this Pontoon can read and write.
pub const NEWEST: u32 = if cfg!(feature = "next-level") { 4 } else { 3 };

/// The level from which releases may run beside live ones.
pub(crate) const BESIDE: u32 = 3;

/// The level from which values are sealed.
pub const SEALING: u32 = 3;

/// Kind, version, and the level from which they may be written; what is not here may always be.
const NEEDS: &[(u16, u16, u32)] = &[
    // ChangeLabels, and the App that has labels.
    (116, 1, 2),
    (1, 2, 2),
    // Trust: who belongs to the cluster.
    (140, 1, 3),
    (141, 1, 3),
    (142, 1, 3),
    (143, 1, 3),
    (144, 1, 3),
    (145, 1, 3),
    (146, 1, 3),
    (147, 1, 3),
    // Keys that values are sealed with, and what is sealed anew.
    (148, 1, SEALING),
    (149, 1, SEALING),
    (118, 1, SEALING),
    (25, 1, SEALING),
    // RemoveController.
    (130, 1, 3),
    // API tokens: their commands and their row.
    (150, 1, 3),
    (151, 1, 3),
    (152, 1, 3),
    (153, 1, 3),
    (30, 1, 3),
    // SetTiming and its row.
    (160, 1, 3),
    (40, 1, 3),
    // Domains, settings of traffic, certificates and keys of balancers: their commands and their rows.
    (170, 1, 3),
    (171, 1, 3),
    (172, 1, 3),
    (173, 1, 3),
    (174, 1, 3),
    (175, 1, 3),
    (50, 1, 3),
    (51, 1, 3),
    (52, 1, 3),
    (53, 1, 3),
    (54, 1, 3),
    // Certificates that are ordered: commands, settings, challenges, orders.
    (176, 1, 3),
    (177, 1, 3),
    (178, 1, 3),
    (179, 1, 3),
    (55, 1, 3),
    (56, 1, 3),
    (57, 1, 3),
    // How balancers reach each other: RegisterPeer and its row.
    (185, 1, 3),
    (60, 1, 3),
    // Ports of balancers for processes that do not speak HTTP.
    (180, 1, 3),
    (181, 1, 3),
    (58, 1, 3),
    // Releases beside live ones.
    (182, 1, BESIDE),
    (183, 1, BESIDE),
    (184, 1, BESIDE),
    (59, 1, BESIDE),
    // NextLevelProbe, and the App that has a note: a test's build only.
    #[cfg(feature = "next-level")]
    (290, 1, 4),
    #[cfg(feature = "next-level")]
    (1, 3, 4),
];

/// The level from which `version` of `kind` may be written.
pub fn needed(kind: u16, version: u16) -> u32 {
    NEEDS.iter().find(|needs| (needs.0, needs.1) == (kind, version)).map_or(FIRST, |needs| needs.2)
}

/// The version of `kind` to write at `level`: the newest that it allows, of those up to `newest`.
pub fn version_at(kind: u16, newest: u16, level: u32) -> u16 {
    (1..=newest).rev().find(|version| needed(kind, *version) <= level).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use pontoon_model::wire::Wire;
    use pontoon_model::{
        AcmeRow, ApiToken, App, BesideRow, Certificate, Challenge, ChosenTiming, DomainRow, EdgeKeys, EdgeStamp,
        OrderRow, PeerRow, PortRow, SealingKey, TrafficRow,
    };

    use super::*;
    use crate::Command;

    #[test]
    fn each_level_has_something_that_needs_it_and_nothing_needs_more_than_the_newest() {
        for level in FIRST + 1..=NEWEST {
            assert!(NEEDS.iter().any(|needs| needs.2 == level), "level {level} brings nothing");
        }
        for (kind, version, level) in NEEDS {
            let command = Command::KINDS.iter().any(|known| (known.0, known.1) == (*kind, *version));
            let rows = [
                (App::KIND, App::VERSION),
                (ApiToken::KIND, ApiToken::VERSION),
                (ChosenTiming::KIND, ChosenTiming::VERSION),
                (DomainRow::KIND, DomainRow::VERSION),
                (TrafficRow::KIND, TrafficRow::VERSION),
                (Certificate::KIND, Certificate::VERSION),
                (EdgeKeys::KIND, EdgeKeys::VERSION),
                (EdgeStamp::KIND, EdgeStamp::VERSION),
                (AcmeRow::KIND, AcmeRow::VERSION),
                (Challenge::KIND, Challenge::VERSION),
                (OrderRow::KIND, OrderRow::VERSION),
                (PeerRow::KIND, PeerRow::VERSION),
                (PortRow::KIND, PortRow::VERSION),
                (BesideRow::KIND, BesideRow::VERSION),
                (SealingKey::KIND, SealingKey::VERSION),
            ];
            let row = rows.iter().any(|row| row.0 == *kind && *version <= row.1);
            assert!(command || row, "{kind} v{version} does not exist");
            assert!((FIRST + 1..=NEWEST).contains(level), "{kind} v{version} needs level {level}");
        }
    }

    #[test]
    fn a_row_is_written_in_the_newest_version_that_its_level_allows() {
        assert_eq!(version_at(App::KIND, App::VERSION, 1), 1);
        assert_eq!(version_at(App::KIND, App::VERSION, 2), 2);
        assert_eq!(version_at(App::KIND, App::VERSION, NEWEST), App::VERSION);
        assert_eq!(version_at(2, 1, 1), 1);
    }
}
