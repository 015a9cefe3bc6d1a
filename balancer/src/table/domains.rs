//! Users' own host names: which route answers for which of their paths.

use std::sync::Arc;

use pontoon_model::Domain;

/// Domains by host name; read by every request, changed by the updater only.
#[derive(Default)]
pub(super) struct Domains {
    /// Host name, or for wildcards what stands behind the `*`, with its dot → paths, the longest first.
    places: papaya::HashMap<Box<str>, Arc<[Place]>>,
}

struct Place {
    /// As [`Domain::path`] has it.
    path: Box<str>,
    /// The host name of the route.
    route: Box<str>,
}

impl Domains {
    /// The route of `path` on exactly this `host`.
    pub(super) fn exact<T>(&self, host: &str, path: &str, found: impl FnOnce(&str) -> T) -> Option<T> {
        self.look(host, path, found)
    }

    /// The route of `path` on a wildcard that `host` falls under: one label more, as in certificates.
    pub(super) fn wild<T>(&self, host: &str, path: &str, found: impl FnOnce(&str) -> T) -> Option<T> {
        let dot = host.find('.')?;
        self.look(&host[dot..], path, found)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    pub(super) fn put(&self, domain: &Domain, route: &str) {
        let mut places = self.others(domain);
        places.push(Place { path: domain.path().into(), route: route.into() });
        // The longest first; of equally long ones only one can match.
        places.sort_by_key(|place| std::cmp::Reverse(place.path.len()));
        self.places.pin().insert(key(domain).into(), places.into());
    }

    pub(super) fn take(&self, domain: &Domain) {
        let left = self.others(domain);
        let places = self.places.pin();
        if left.is_empty() {
            places.remove(key(domain));
        } else {
            places.insert(key(domain).into(), left.into());
        }
    }

    fn look<T>(&self, key: &str, path: &str, found: impl FnOnce(&str) -> T) -> Option<T> {
        let places = self.places.pin();
        let place = places.get(key)?.iter().find(|place| is_below(path, &place.path))?;
        Some(found(&place.route))
    }

    /// The other paths of the domain's host.
    fn others(&self, domain: &Domain) -> Vec<Place> {
        let places = self.places.pin();
        let all = places.get(key(domain)).map(|places| places.iter()).into_iter().flatten();
        let others = all.filter(|place| *place.path != *domain.path());
        others.map(|place| Place { path: place.path.clone(), route: place.route.clone() }).collect()
    }
}

fn key(domain: &Domain) -> &str {
    domain.wildcard().unwrap_or(domain.host())
}

/// Whether `path` is `prefix` or below it, by whole segments.
fn is_below(path: &str, prefix: &str) -> bool {
    prefix == "/" || path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn domains(all: &[(&str, &str)]) -> Domains {
        let domains = Domains::default();
        for (domain, route) in all {
            domains.put(&domain.parse().unwrap(), route);
        }
        domains
    }

    fn find(domains: &Domains, host: &str, path: &str) -> Option<String> {
        domains.exact(host, path, str::to_owned).or_else(|| domains.wild(host, path, str::to_owned))
    }

    #[test]
    fn the_longest_path_wins_and_whole_segments_count() {
        let domains = domains(&[("a.b/shop", "shop"), ("a.b", "all"), ("a.b/shop/admin", "admin")]);
        for (path, route) in [
            ("/", "all"),
            ("/shop", "shop"),
            ("/shop/", "shop"),
            ("/shop/x", "shop"),
            ("/shopping", "all"),
            ("/shop/admin", "admin"),
            ("/shop/admin/x", "admin"),
            ("*", "all"),
        ] {
            assert_eq!(find(&domains, "a.b", path).as_deref(), Some(route), "{path}");
        }
        domains.take(&"a.b".parse().unwrap());
        assert_eq!(find(&domains, "a.b", "/"), None);
        assert_eq!(find(&domains, "a.b", "/shop").as_deref(), Some("shop"));
    }

    #[test]
    fn a_wildcard_stands_for_one_label_and_comes_last() {
        let domains = domains(&[("*.a.b", "wild"), ("x.a.b", "named")]);
        assert_eq!(find(&domains, "y.a.b", "/").as_deref(), Some("wild"));
        assert_eq!(find(&domains, "x.a.b", "/").as_deref(), Some("named"));
        assert_eq!(find(&domains, "a.b", "/"), None);
        assert_eq!(find(&domains, "z.y.a.b", "/"), None);
        assert_eq!(find(&domains, "localhost", "/"), None);
        domains.take(&"*.a.b".parse().unwrap());
        assert_eq!(find(&domains, "y.a.b", "/"), None);
    }

    #[test]
    fn a_domain_moves_to_another_route_in_one_step() {
        let domains = domains(&[("a.b", "one")]);
        domains.put(&"a.b".parse().unwrap(), "other");
        assert_eq!(find(&domains, "a.b", "/").as_deref(), Some("other"));
    }
}
