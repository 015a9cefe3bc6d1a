//! `pontoon routes`: host names and the servos behind them.

use pontoon_api::{Route, RouteTarget};

use crate::output::{self, NONE, or_none, table};
use crate::session::Session;

/// Prints them.
pub async fn run(session: &Session) -> anyhow::Result<()> {
    Ok(output::print(session.format, &session.client.routes().await?, |routes| list(routes))?)
}

fn list(routes: &[Route]) -> String {
    let header = ["HOST", "APP", "RELEASE", "SERVO", "SITE", "ADDRESS", "STATE", "IN FLIGHT", "RATE"];
    table(header, routes.iter().flat_map(rows))
}

/// A row for each servo; one of dashes for a route without any, which answers 503. The rate is the app's, and so in the first
/// row only.
fn rows(route: &Route) -> Vec<[String; 9]> {
    let rate = route.rate.map_or_else(String::new, |rate| format!("{rate:.1}/s"));
    let row = |[servo, site, address, state, in_flight]: [String; 5], rate: String| {
        let (app, release) = (route.app.to_string(), or_none(route.release));
        [route.host.clone(), app, release, servo, site, address, state, in_flight, rate]
    };
    let target = |(at, one): (usize, &RouteTarget)| {
        let servo = [one.id.to_string(), one.site.to_string(), one.address.clone(), state(one), or_none(one.in_flight)];
        row(servo, if at == 0 { rate.clone() } else { String::new() })
    };
    if route.servos.is_empty() {
        return vec![row([NONE; 5].map(str::to_owned), rate)];
    }
    route.servos.iter().enumerate().map(target).collect()
}

fn state(servo: &RouteTarget) -> String {
    match (servo.suspect, servo.ejected_by.unwrap_or_default()) {
        (false, 0) => "ok".to_owned(),
        (true, 0) => "suspect".to_owned(),
        (false, count) => format!("ejected by {count}"),
        (true, count) => format!("suspect, ejected by {count}"),
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use pontoon_model::{ReleaseNumber, ServoId};

    use super::*;

    #[test]
    fn each_servo_has_a_row_and_a_route_without_one_too() {
        let target = |id| RouteTarget {
            id: ServoId(id),
            site: "dev.east".parse().unwrap(),
            address: format!("127.0.0.1:2000{id}"),
            suspect: id == 2,
            in_flight: (id < 3).then_some(4),
            ejected_by: Some(id as u32 / 2),
        };
        let route = |name: &str, servos, rate| Route {
            host: format!("{name}.localhost"),
            app: name.parse().unwrap(),
            release: Some(ReleaseNumber(3)),
            servos,
            rate,
            in_flight: None,
        };
        expect![[r#"
            HOST                  APP         RELEASE   SERVO   SITE       ADDRESS           STATE                   IN FLIGHT   RATE
            guestbook.localhost   guestbook   v3        s1      dev.east   127.0.0.1:20001   ok                      4           12.3/s
            guestbook.localhost   guestbook   v3        s2      dev.east   127.0.0.1:20002   suspect, ejected by 1   4           -
            guestbook.localhost   guestbook   v3        s3      dev.east   127.0.0.1:20003   ejected by 1            -           -
            idle.localhost        idle        v3        -       -          -                 -                       -           -"#]].assert_eq(&list(&[
            route("guestbook", vec![target(1), target(2), target(3)], Some(12.34)),
            route("idle", Vec::new(), None),
        ]));
    }
}
