//! The routes by host name.

use std::borrow::Borrow;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use super::route::Route;

/// Read by every request, changed by the updater only. A route's name is in the route and nowhere else.
#[derive(Default)]
pub(super) struct Routes(papaya::HashMap<ByHost, ()>);

/// A route that is its own key.
struct ByHost(Arc<Route>);

impl Borrow<str> for ByHost {
    fn borrow(&self) -> &str {
        &self.0.host
    }
}

impl Hash for ByHost {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // As a `str` has it, which it is looked up by.
        self.0.host.hash(state);
    }
}

impl PartialEq for ByHost {
    fn eq(&self, other: &Self) -> bool {
        self.0.host == other.0.host
    }
}

impl Eq for ByHost {}

impl Routes {
    pub(super) fn get(&self, host: &str) -> Option<Arc<Route>> {
        self.0.pin().get_key_value(host).map(|(route, ())| route.0.clone())
    }

    /// In the place of the one of that host name, if there is one: at no time is there none.
    pub(super) fn put(&self, route: Arc<Route>) {
        self.0.pin().insert(ByHost(route), ());
    }

    pub(super) fn take(&self, host: &str) -> Option<Arc<Route>> {
        self.0.pin().remove_entry(host).map(|(route, ())| route.0.clone())
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether `wanted` says so of any; looks no further.
    pub(super) fn any(&self, mut wanted: impl FnMut(&Arc<Route>) -> bool) -> bool {
        self.0.pin().keys().any(|route| wanted(&route.0))
    }

    /// All, in no order.
    pub(super) fn all(&self) -> Vec<Arc<Route>> {
        self.0.pin().keys().map(|route| route.0.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use pontoon_model::Traffic;

    use super::*;
    use crate::table::app::{App, Settings};
    use crate::table::packed::Packed;
    use crate::table::sites::Sites;

    fn route(host: &str, app: &str) -> Arc<Route> {
        let app: pontoon_model::AppName = app.parse().unwrap();
        let (host, servos, reason) = (host.to_owned(), Vec::new(), String::new());
        let model = pontoon_model::Route { host, app: app.clone(), release: None, servos, reason };
        let packed = Packed::new(&model, &Sites::new("here".parse().unwrap()), |_| 0);
        Arc::new(Route::new(&model.host, Arc::new(App::new(app, Arc::new(Settings::new(Traffic::default())))), packed))
    }

    /// The map keeps the newer of two equal keys, which not every map does.
    #[test]
    fn the_newer_route_of_a_host_name_takes_the_place_of_the_other() {
        let routes = Routes::default();
        for app in ["one", "other"] {
            routes.put(route("a.b", app));
            assert_eq!(routes.get("a.b").unwrap().app.name.as_str(), app);
        }
        assert_eq!(routes.len(), 1);
        assert_eq!(routes.take("a.b").unwrap().app.name.as_str(), "other");
        assert!(routes.get("a.b").is_none() && routes.take("a.b").is_none());
    }
}
