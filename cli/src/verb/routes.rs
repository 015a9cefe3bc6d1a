//! `pontoon routes`: host names and the servos behind them.

use pontoon_api::{Route, RouteTarget};

use crate::output::{self, NONE, or_none, table};
use crate::session::Session;

/// Prints them.
pub async fn run(session: &Session) -> anyhow::Result<()> {
    Ok(output::print(session.format, &session.client.routes().await?, |routes| list(routes))?)
}

fn list(routes: &[Route]) -> String {
    table(["HOST", "APP", "RELEASE", "SERVO", "SITE", "ADDRESS"], routes.iter().flat_map(rows))
}

/// A row for each servo; one of dashes for a route without any, which answers 503.
fn rows(route: &Route) -> Vec<[String; 6]> {
    let row = |[servo, site, address]: [String; 3]| {
        [route.host.clone(), route.app.to_string(), or_none(route.release), servo, site, address]
    };
    let target = |one: &RouteTarget| row([one.id.to_string(), one.site.to_string(), one.address.clone()]);
    if route.servos.is_empty() {
        return vec![row([NONE, NONE, NONE].map(str::to_owned))];
    }
    route.servos.iter().map(target).collect()
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
        };
        let route = |name: &str, servos| Route {
            host: format!("{name}.localhost"),
            app: name.parse().unwrap(),
            release: Some(ReleaseNumber(3)),
            servos,
        };
        expect![[r#"
            HOST                  APP         RELEASE   SERVO   SITE       ADDRESS
            guestbook.localhost   guestbook   v3        s1      dev.east   127.0.0.1:20001
            guestbook.localhost   guestbook   v3        s2      dev.east   127.0.0.1:20002
            idle.localhost        idle        v3        -       -          -"#]]
        .assert_eq(&list(&[route("guestbook", vec![target(1), target(2)]), route("idle", Vec::new())]));
    }
}
