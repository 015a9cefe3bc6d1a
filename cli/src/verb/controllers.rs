//! `pontoon controllers`: who agrees on what runs, and how each is.

use std::collections::BTreeSet;

use pontoon_api::Controller;

use crate::output::{self, or_none, table};
use crate::session::Session;

/// Prints them.
pub async fn run(session: &Session) -> anyhow::Result<()> {
    Ok(output::print(session.format, &session.client.controllers().await?, |all| list(all))?)
}

fn list(controllers: &[Controller]) -> String {
    let row = |one: &Controller| {
        [
            one.name.clone(),
            one.site.to_string(),
            if one.reachable { one.role.clone() } else { format!("{}, unreachable", one.role) },
            or_none(one.version.as_ref()),
            or_none(one.term),
            or_none(one.applied),
            or_none(one.lag),
            or_none(one.free_disk),
            one.clock_offset_ms.map_or("-".to_owned(), |offset| format!("{offset} ms")),
            timing(one),
            measured(one.timing.as_ref().and_then(|timing| timing.round_trip_us)),
            measured(one.timing.as_ref().map(|timing| timing.flush_us)),
            one.rest.clone(),
            one.grpc.clone(),
            one.id.clone(),
        ]
    };
    let head = [
        "NAME", "SITE", "ROLE", "VERSION", "TERM", "APPLIED", "LAG", "FREE", "CLOCK", "TIMING", "TRIP", "FLUSH",
        "REST", "GRPC", "ID",
    ];
    let mut text = table(head, controllers.iter().map(row));
    // Controllers that are in the same place say the same.
    let warnings: BTreeSet<&String> = controllers.iter().flat_map(|one| &one.warnings).collect();
    for warning in warnings {
        text.push_str(&format!("\nwarning: {warning}"));
    }
    text
}

/// Heartbeat and election, and whether they are its own.
fn timing(one: &Controller) -> String {
    let Some(timing) = &one.timing else { return "-".to_owned() };
    let whose = if timing.auto { "" } else { ", given" };
    format!("{}/{}-{}{whose}", timing.heartbeat_ms, timing.election_min_ms, timing.election_max_ms)
}

fn measured(micros: Option<u64>) -> String {
    micros.map_or("-".to_owned(), |micros| format!("{:.1} ms", micros as f64 / 1e3))
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use pontoon_api::ControllerTiming;
    use pontoon_model::MemoryBytes;

    use super::*;

    fn controller(name: &str, role: &str) -> Controller {
        Controller {
            id: "c9223372036854775807".into(),
            name: name.into(),
            site: "dev.north".parse().unwrap(),
            role: role.into(),
            grpc: "127.0.0.1:7710".into(),
            rest: "127.0.0.1:7700".into(),
            matched: None,
            reachable: true,
            version: Some("0.1.0".into()),
            term: Some(3),
            applied: Some(1200),
            lag: Some(0),
            free_disk: Some(MemoryBytes::mib(4096)),
            feature_level: Some(3),
            clock_offset_ms: Some(-2),
            missing_blobs: Some(0),
            timing: Some(ControllerTiming {
                auto: role == "voter",
                heartbeat_ms: 100,
                election_min_ms: 300,
                election_max_ms: 500,
                flush_us: 1_240,
                round_trip_us: (role == "voter").then_some(312),
            }),
            warnings: vec!["north, east are all in site dev.north: that is bad".into()],
        }
    }

    #[test]
    fn ids_are_never_cut_and_each_warning_is_said_once() {
        let mut away = controller("east", "voter");
        (away.reachable, away.version, away.term, away.applied) = (false, None, None, None);
        (away.lag, away.free_disk, away.clock_offset_ms) = (None, None, None);
        expect![[r#"
            NAME    SITE        ROLE                 VERSION   TERM   APPLIED   LAG   FREE   CLOCK   TIMING               TRIP     FLUSH    REST             GRPC             ID
            north   dev.north   leader               0.1.0     3      1200      0     4G     -2 ms   100/300-500, given   -        1.2 ms   127.0.0.1:7700   127.0.0.1:7710   c9223372036854775807
            east    dev.north   voter, unreachable   -         -      -         -     -      -       100/300-500          0.3 ms   1.2 ms   127.0.0.1:7700   127.0.0.1:7710   c9223372036854775807
            warning: north, east are all in site dev.north: that is bad"#]].assert_eq(&list(&[controller("north", "leader"), away]));
    }

    #[test]
    fn a_list_of_an_older_controller_is_read() {
        let row = r#"{"id":"c1","name":"a","site":"x","role":"leader","grpc":"","rest":"","matched":null}"#;
        assert!(!serde_json::from_str::<Controller>(row).unwrap().reachable);
    }
}
