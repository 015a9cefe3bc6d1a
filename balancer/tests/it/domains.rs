use pontoon_model::{EdgeEntry, Traffic};

use super::support::http::{Message, ask, get};
use super::support::servo::Servo;
use super::support::{Fixture, route};

fn domain(domain: &str, route: &str) -> EdgeEntry {
    EdgeEntry::Domain { domain: domain.parse().unwrap(), route: route.to_owned() }
}

async fn asked(fixture: &Fixture, host: &str, path: &str) -> Message {
    ask(fixture.address(), &format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n")).await
}

#[tokio::test]
async fn a_domain_leads_to_its_app_by_name_path_and_wildcard_while_default_names_go_on() {
    let fixture = Fixture::start().await;
    let (shop, blog) = (Servo::answering("shop").await, Servo::answering("blog").await);
    fixture.route(1, vec![route("blog.localhost", &[blog.address]), route("shop.localhost", &[shop.address])]);
    let domains = vec![
        domain("example.org", "shop.localhost"),
        domain("example.org/blog", "blog.localhost"),
        domain("*.example.org", "blog.localhost"),
        domain("shop.localhost/news", "blog.localhost"),
        domain("gone.example.org", "nothing.localhost"),
    ];
    fixture.treat(1, Traffic::default(), domains);
    for (host, path, text) in [
        ("example.org", "/", "shop"),
        ("EXAMPLE.org:8000", "/blogs", "shop"),
        ("example.org", "/blog?x=1", "blog"),
        ("example.org", "/blog/2026", "blog"),
        ("any.example.org", "/", "blog"),
        ("shop.localhost", "/", "shop"),
        ("shop.localhost", "/news", "blog"),
        ("blog.localhost", "/", "blog"),
    ] {
        let answer = asked(&fixture, host, path).await;
        assert_eq!((answer.status(), answer.text()), (200, text), "{host}{path}");
    }
    // The app does not see the difference: path and host are the client's.
    assert_eq!(blog.seen.requests()[1].first_line(), "GET /blog/2026 HTTP/1.1");
    assert_eq!(blog.seen.requests()[1].header("host"), Some("example.org"));
    for nobody in ["a.b.example.org", "example.com"] {
        assert_eq!(ask(fixture.address(), &get(nobody)).await.status(), 404, "{nobody}");
    }
}

#[tokio::test]
async fn a_domain_that_is_taken_away_is_unknown_at_once_and_the_table_on_disk_has_it() {
    let fixture = Fixture::start().await;
    let shop = Servo::answering("shop").await;
    fixture.route(1, vec![route("shop.localhost", &[shop.address])]);
    fixture.treat(1, Traffic::default(), vec![domain("example.org", "shop.localhost")]);
    assert_eq!(asked(&fixture, "example.org", "/").await.status(), 200);
    fixture.treat(2, Traffic::default(), Vec::new());
    assert_eq!(asked(&fixture, "example.org", "/").await.status(), 404);
    fixture.treat(3, Traffic::default(), vec![domain("example.org", "shop.localhost")]);

    // All controllers are down, and the balancer is restarted.
    let Fixture { folder, balancer, .. } = fixture;
    balancer.stop().await.unwrap();
    let config = super::support::config(folder.path(), vec!["127.0.0.1:1".parse().unwrap()]);
    let again = pontoon_balancer::Balancer::start(config).await.unwrap();
    assert_eq!(ask(again.address(), &get("example.org")).await.text(), "shop");
    again.stop().await.unwrap();
}
