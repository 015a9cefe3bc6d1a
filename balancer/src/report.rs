//! What the controllers hear of the requests that are carried here.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use pontoon_model::{AppName, ServoId};
use pontoon_proto::{AppReport, RequestCounts, RequestReport, ServoLoad};

use crate::table::{Route, Table};

/// Remembers what was told, so that only what has changed is told again.
#[derive(Debug, Default)]
pub(crate) struct Reporter {
    told: HashMap<AppName, RequestCounts>,
}

/// A report that is on its way.
pub(crate) struct Next {
    pub(crate) report: RequestReport,
    /// Counts since the routes came into the table.
    totals: Vec<(AppName, RequestCounts)>,
}

/// One app's routes together.
#[derive(Default)]
struct Sum {
    total: RequestCounts,
    in_flight: u64,
    servos: BTreeMap<ServoId, ServoLoad>,
}

impl Sum {
    fn add(&mut self, route: &Route) {
        self.total.add(&route.statistics().counts());
        self.in_flight += route.statistics().in_flight();
        let load = |servo: &Arc<crate::table::Servo>| {
            let load = ServoLoad { servo: servo.id, in_flight: servo.in_flight(), ejected: servo.is_avoided() };
            (load.in_flight > 0 || load.ejected).then_some((load.servo, load))
        };
        let target = route.target();
        self.servos.extend(target.iter().flat_map(|target| target.servos()).filter_map(load));
    }
}

impl Reporter {
    /// What is to be told: apps that had requests since they were told of, have some in flight, or an ejected servo. None if
    /// there are none. It counts as told with [`Self::told`].
    pub(crate) fn next(&mut self, table: &Table) -> Option<Next> {
        let mut sums: HashMap<AppName, Sum> = HashMap::new();
        // Most host names of a large cluster are quiet.
        for route in table.awake().iter().filter(|route| route.statistics().requests() > 0) {
            sums.entry(route.app.name.clone()).or_default().add(route);
        }
        self.told.retain(|app, _| sums.contains_key(app));
        let mut apps: Vec<(RequestCounts, AppReport)> = Vec::new();
        for (app, sum) in sums {
            // A route that left the table took its counts along: the difference may be too small then, never too large.
            let counts = sum.total.since(self.told.get(&app).unwrap_or(&RequestCounts::default()));
            if counts != RequestCounts::default() || sum.in_flight > 0 || !sum.servos.is_empty() {
                let servos = sum.servos.into_values().collect();
                apps.push((sum.total, AppReport { app, counts, in_flight: sum.in_flight, servos }));
            } else {
                self.told.insert(app, sum.total);
            }
        }
        if apps.is_empty() {
            return None;
        }
        apps.sort_by_key(|(_, report)| std::cmp::Reverse((report.counts.requests, report.in_flight)));
        apps.truncate(RequestReport::MOST_APPS);
        let (mut next, mut room) =
            (Next { report: RequestReport::default(), totals: Vec::new() }, RequestReport::MOST_SERVOS);
        for (total, mut report) in apps {
            report.servos.truncate(room);
            room -= report.servos.len();
            next.totals.push((report.app.clone(), total));
            next.report.apps.push(report);
        }
        Some(next)
    }

    /// It was sent.
    pub(crate) fn told(&mut self, totals: Vec<(AppName, RequestCounts)>) {
        self.told.extend(totals);
    }
}

impl Next {
    /// The message, and what counts as told once it is sent.
    pub(crate) fn split(self) -> (RequestReport, Vec<(AppName, RequestCounts)>) {
        (self.report, self.totals)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use pontoon_model::{Route as RouteModel, RouteServo, RouteTable, RouteVersion, SiteName, Traffic};

    use super::*;
    use crate::table::{Failure, Picked, Wish};

    fn table(version: u64, hosts: &[(&str, &str)]) -> RouteTable {
        let route = |(host, app): &(&str, &str)| {
            let servo = RouteServo {
                id: ServoId(7),
                site: SiteName::new("s").unwrap(),
                address: "127.0.0.1:1".parse().unwrap(),
                suspect: false,
            };
            Arc::new(RouteModel {
                host: (*host).to_owned(),
                app: app.parse().unwrap(),
                release: None,
                servos: vec![servo],
                reason: String::new(),
            })
        };
        RouteTable { version: RouteVersion(version), routes: hosts.iter().map(route).collect() }
    }

    fn tell(reporter: &mut Reporter, table: &Table) -> Vec<AppReport> {
        let Some(next) = reporter.next(table) else { return Vec::new() };
        let (report, totals) = next.split();
        reporter.told(totals);
        report.apps
    }

    fn serve(table: &Table, host: &str) {
        let route = table.route(host).unwrap();
        let counted = table.begin(&route);
        route.statistics().answered(200, Duration::from_millis(3));
        drop(counted);
    }

    #[test]
    fn an_app_is_told_of_when_something_changed_and_each_request_once() {
        let routes = Table::new(SiteName::new("s").unwrap());
        routes.apply_table(&table(1, &[("a.x", "a"), ("b.x", "a"), ("c.x", "c")])).unwrap();
        let mut reporter = Reporter::default();
        assert!(tell(&mut reporter, &routes).is_empty(), "nothing has come");
        ["a.x", "b.x", "b.x"].iter().for_each(|host| serve(&routes, host));
        // A report that was not sent is no report.
        assert!(reporter.next(&routes).is_some());
        let told = tell(&mut reporter, &routes);
        assert_eq!((told.len(), told[0].app.as_str()), (1, "a"));
        assert_eq!(
            (told[0].counts.requests, told[0].counts.statuses, told[0].counts.latency[2]),
            (3, [0, 3, 0, 0, 0], 3)
        );
        assert!(tell(&mut reporter, &routes).is_empty());
        // One host name goes with its counts, and the next request is told of all the same once the sum is above again.
        routes.apply_table(&table(2, &[("a.x", "a"), ("c.x", "c")])).unwrap();
        assert!(tell(&mut reporter, &routes).is_empty());
        serve(&routes, "a.x");
        assert_eq!(tell(&mut reporter, &routes)[0].counts.requests, 1);
    }

    #[test]
    fn what_is_in_flight_and_ejected_is_told_until_it_is_over() {
        let routes = Table::new(SiteName::new("s").unwrap());
        routes.apply_table(&table(1, &[("a.x", "a")])).unwrap();
        let mut reporter = Reporter::default();
        let mut route = routes.route("a.x").unwrap();
        let counted = routes.begin(&route);
        let traffic = Traffic::default();
        let Picked::Servo(in_flight) = routes.pick(&mut route, &Wish::of(&traffic, &[], None)) else { panic!() };
        in_flight.servo().failed(Failure::Broken);
        let load = ServoLoad { servo: ServoId(7), in_flight: 1, ejected: true };
        for requests in [1, 0] {
            let told = tell(&mut reporter, &routes);
            assert_eq!((told[0].counts.requests, told[0].in_flight, &told[0].servos[..]), (requests, 1, &[load][..]));
        }
        in_flight.servo().trust();
        drop((in_flight, counted));
        assert!(tell(&mut reporter, &routes).is_empty(), "what nobody hears of is over");
    }

    #[test]
    fn a_report_is_bounded_and_what_it_has_no_room_for_comes_later() {
        let names: Vec<String> = (0..RequestReport::MOST_APPS + 5).map(|n| format!("a{n}")).collect();
        let hosts: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), name.as_str())).collect();
        let routes = Table::new(SiteName::new("s").unwrap());
        routes.apply_table(&table(1, &hosts)).unwrap();
        hosts.iter().for_each(|(host, _)| serve(&routes, host));
        serve(&routes, "a1003");
        let mut reporter = Reporter::default();
        let told = tell(&mut reporter, &routes);
        assert_eq!((told.len(), told[0].app.as_str()), (RequestReport::MOST_APPS, "a1003"), "the busiest first");
        assert_eq!(tell(&mut reporter, &routes).len(), 5);
        assert!(tell(&mut reporter, &routes).is_empty());
    }
}
