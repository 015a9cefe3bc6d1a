use pontoon_balancer::{AccessLogConfig, Format};
use pontoon_model::{RouteTable, RouteVersion};

use super::support::http::{Client, ask, get, with_body};
use super::support::servo::Servo;
use super::support::{Fixture, empty_route, route};

#[tokio::test]
async fn requests_go_where_their_host_name_leads() {
    let fixture = Fixture::start().await;
    let (one, two) = (Servo::answering("one").await, Servo::answering("two").await);
    fixture.route(1, vec![route("one.example", &[one.address]), route("two.example", &[two.address])]);
    assert_eq!(ask(fixture.address(), &get("one.example")).await.text(), "one");
    assert_eq!(ask(fixture.address(), &get("TWO.example:8000")).await.text(), "two");
    let absolute = "GET http://one.example/x?y=1 HTTP/1.1\r\nHost: one.example\r\n\r\n";
    assert_eq!(ask(fixture.address(), absolute).await.text(), "one");
    assert_eq!(one.seen.requests()[1].first_line(), "GET /x?y=1 HTTP/1.1");
    // One connection of a client may ask for several apps.
    let mut client = Client::connect(fixture.address()).await;
    assert_eq!(client.ask(&get("one.example")).await.text(), "one");
    assert_eq!(client.ask(&get("two.example")).await.text(), "two");
}

#[tokio::test]
async fn an_unknown_host_name_and_an_app_without_servos_are_explained() {
    let fixture = Fixture::start().await;
    fixture.route(1, vec![empty_route("new.example", "no release was deployed yet")]);
    let unknown = ask(fixture.address(), &get("nobody.example")).await;
    assert_eq!(unknown.status(), 404);
    assert!(unknown.text().contains("nobody.example") && unknown.text().contains("pontoon routes"), "{unknown:?}");
    let empty = ask(fixture.address(), &with_body("POST", "new.example", "x")).await;
    assert_eq!((empty.status(), empty.header("retry-after")), (503, Some("2")));
    assert!(empty.text().contains("no release was deployed yet"), "{empty:?}");
    let route = fixture.balancer.table().route("new.example").unwrap();
    let statistics = route.statistics();
    assert_eq!((statistics.requests(), statistics.errors()), (1, 1));
}

#[tokio::test]
async fn headers_of_one_connection_stay_on_it_and_the_client_is_named() {
    let fixture = Fixture::start().await;
    let servo = Servo::start(|mut stream, seen| async move {
        use super::support::http::read_message;
        use tokio::io::AsyncWriteExt;
        while let Some(request) = read_message(&mut stream).await {
            seen.requests.lock().unwrap().push(request);
            let answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: keep-alive, x-inner\r\nX-Inner: 1\r\nKeep-Alive: timeout=5\r\nX-Outer: 2\r\n\r\nhi";
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    })
    .await;
    fixture.route(1, vec![route("a.example", &[servo.address])]);
    let request = "GET /p HTTP/1.1\r\nHost: a.example:8000\r\nConnection: x-mine\r\nX-Mine: 1\r\nTE: trailers\r\n\
                   X-Forwarded-For: 9.9.9.9\r\nX-Forwarded-Proto: https\r\nCookie: c=1\r\n\r\n";
    let answer = ask(fixture.address(), request).await;
    assert_eq!((answer.text(), answer.header("x-outer"), answer.header("x-inner")), ("hi", Some("2"), None));
    assert_eq!(answer.header("keep-alive"), None);
    let seen = servo.seen.requests().remove(0);
    assert_eq!(seen.all("host"), ["a.example:8000"]);
    assert_eq!(seen.header("x-forwarded-for"), Some("9.9.9.9, 127.0.0.1"));
    assert_eq!(seen.header("x-forwarded-proto"), Some("http"));
    assert_eq!(seen.header("x-forwarded-host"), Some("a.example:8000"));
    assert_eq!(seen.header("x-request-id").map(str::len), Some(32));
    assert_eq!(seen.header("cookie"), Some("c=1"));
    for gone in ["x-mine", "te", "connection"] {
        assert_eq!(seen.header(gone), None, "{gone}");
    }
}

#[tokio::test]
async fn connections_to_a_servo_are_used_again() {
    let fixture = Fixture::start().await;
    let servo = Servo::answering("hi").await;
    fixture.route(1, vec![route("a.example", &[servo.address])]);
    // One connection, thus one worker.
    let mut client = Client::connect(fixture.address()).await;
    for method in ["GET", "GET", "POST", "DELETE"] {
        assert_eq!(client.ask(&with_body(method, "a.example", "x")).await.text(), "hi");
    }
    assert_eq!(servo.seen.connections(), 1);
}

#[tokio::test]
async fn head_and_empty_answers_keep_the_connections_usable() {
    let fixture = Fixture::start().await;
    let servo = Servo::start(|mut stream, _| async move {
        use super::support::http::read_message;
        use tokio::io::AsyncWriteExt;
        while let Some(request) = read_message(&mut stream).await {
            let head = if request.head.starts_with("HEAD") { "200 OK\r\nContent-Length: 5" } else { "204 No Content" };
            stream.write_all(format!("HTTP/1.1 {head}\r\n\r\n").as_bytes()).await.unwrap();
        }
    })
    .await;
    fixture.route(1, vec![route("a.example", &[servo.address])]);
    let mut client = Client::connect(fixture.address()).await;
    client.send(b"HEAD / HTTP/1.1\r\nHost: a.example\r\n\r\n").await;
    let head = super::support::http::read_head(&mut client.stream).await.unwrap();
    assert!(head.to_ascii_lowercase().contains("content-length: 5"), "{head}");
    assert_eq!(client.ask(&get("a.example")).await.status(), 204);
    assert_eq!(servo.seen.connections(), 1);
}

#[tokio::test]
async fn health_and_figures_are_told_on_their_own_address_only() {
    let fixture = Fixture::start().await;
    let servo = Servo::answering("app").await;
    fixture.route(7, vec![route("a.example", &[servo.address])]);
    ask(fixture.address(), &get("a.example")).await;
    let admin = fixture.balancer.admin_address().unwrap();
    let health = ask(admin, "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await;
    let expected = r#"{"version":7,"drained":7,"controller":null,"routes":1,"ports":[],"stale":true}"#;
    assert_eq!(health.text().trim(), expected);
    let metrics = ask(admin, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").await;
    let line = r#"pontoon_balancer_requests_total{app="guestbook",host="a.example"} 1"#;
    assert!(metrics.text().contains(line), "{}", metrics.text());
    let public = ask(fixture.address(), "GET /healthz HTTP/1.1\r\nHost: a.example\r\n\r\n").await;
    assert_eq!(public.text(), "app");
}

#[tokio::test]
async fn each_request_leaves_a_line_in_the_access_log_and_is_counted() {
    let fixture = Fixture::start().await;
    let servo = Servo::answering("hello").await;
    let path = fixture.folder.path().join("access.log");
    let log = AccessLogConfig { path: path.clone(), format: Format::Json, sample: 1.0 };
    let config = super::support::config(&fixture.folder.path().join("other"), fixture_controllers());
    let tls_dir = fixture.folder.path().join("tls");
    let config = pontoon_balancer::Config { access_log: Some(log), tls_dir, ..config };
    let balancer = pontoon_balancer::Balancer::start(config).await.unwrap();
    let routes = vec![route("a.example", &[servo.address])];
    balancer.table().apply_table(&RouteTable { version: RouteVersion(1), routes }).unwrap();
    ask(balancer.address(), &get("a.example")).await;
    ask(balancer.address(), &get("nobody.example")).await;
    assert_eq!(ask(balancer.address(), "GET /?a=\"b HTTP/1.1\r\nHost: a.example\r\n\r\n").await.status(), 400);
    let metrics = ask(balancer.admin_address().unwrap(), &get("admin").replacen("GET /", "GET /metrics", 1)).await;
    let labels = "app=\"guestbook\",host=\"a.example\"";
    for line in [
        format!("pontoon_balancer_answers_total{{{labels},status=\"2xx\"}} 1"),
        format!("pontoon_balancer_first_byte_seconds_count{{{labels}}} 1"),
        format!("pontoon_balancer_first_byte_seconds_bucket{{{labels},le=\"+Inf\"}} 1"),
    ] {
        assert!(metrics.text().lines().any(|there| there == line), "{line}: {}", metrics.text());
    }
    balancer.stop().await.unwrap();
    let lines = std::fs::read_to_string(path).unwrap();
    let lines: Vec<serde_json::Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let one = |host: &str| lines.iter().find(|line| line["host"] == host).unwrap();
    let (known, unknown) = (one("a.example"), one("nobody.example"));
    assert_eq!((&known["status"], &known["bytes"], &known["app"]), (&200.into(), &5.into(), &"guestbook".into()));
    assert_eq!((&known["client"], &known["path"]), (&"127.0.0.1".into(), &"/".into()));
    assert_eq!(known["request_id"], servo.seen.requests()[0].header("x-request-id").unwrap());
    assert_eq!((&unknown["status"], unknown.get("app")), (&404.into(), None));
    // What is no request has no name, and is a client's error as others are.
    let unreadable = lines.iter().find(|line| line["method"] == "-").unwrap();
    assert_eq!((&unreadable["status"], &unreadable["client"]), (&400.into(), &"127.0.0.1".into()));
}

fn fixture_controllers() -> Vec<std::net::SocketAddr> {
    vec!["127.0.0.1:1".parse().unwrap()]
}

#[tokio::test]
async fn the_proxy_protocol_says_who_the_client_is_and_nobody_comes_without_it() {
    let fixture = Fixture::start().await;
    let servo = Servo::answering("hello").await;
    let config = super::support::config(&fixture.folder.path().join("other"), fixture_controllers());
    let tls_dir = fixture.folder.path().join("tls");
    let config = pontoon_balancer::Config { proxy_protocol: true, tls_dir, ..config };
    let balancer = pontoon_balancer::Balancer::start(config).await.unwrap();
    let routes = vec![route("a.example", &[servo.address])];
    balancer.table().apply_table(&RouteTable { version: RouteVersion(1), routes }).unwrap();

    let version_2 = ppp::v2::Builder::with_addresses(
        ppp::v2::Version::Two | ppp::v2::Command::Proxy,
        ppp::v2::Protocol::Stream,
        ("[2001:db8::7]:5".parse::<std::net::SocketAddr>().unwrap(), "[::1]:80".parse().unwrap()),
    );
    let own = ppp::v2::Builder::new(
        ppp::v2::Version::Two | ppp::v2::Command::Local,
        ppp::v2::AddressFamily::Unspecified | ppp::v2::Protocol::Unspecified,
    );
    for (header, client) in [
        (b"PROXY TCP4 203.0.113.9 10.0.0.1 56324 80\r\n".to_vec(), "203.0.113.9"),
        (version_2.build().unwrap(), "2001:db8::7"),
        (own.build().unwrap(), "127.0.0.1"),
        (b"PROXY UNKNOWN\r\n".to_vec(), "127.0.0.1"),
    ] {
        let mut stream = Client::connect(balancer.address()).await;
        stream.send(&header).await;
        assert_eq!(stream.ask(&get("a.example")).await.text(), "hello");
        assert_eq!(servo.seen.requests().last().unwrap().header("x-forwarded-for"), Some(client));
        // It is said once; a second one is no request.
        assert_eq!(stream.ask(&get("a.example")).await.status(), 200);
    }
    let seen = servo.seen.requests().len();
    for bad in [get("a.example").as_bytes(), b"PROXY TCP4 203.0.113.9\r\n", b"PROXY TCP4 a b 1 2\r\nGET / HTTP/1.1\r\n"]
    {
        let mut stream = Client::connect(balancer.address()).await;
        stream.send(bad).await;
        assert!(stream.rest().await.is_empty());
    }
    assert_eq!(servo.seen.requests().len(), seen);
    balancer.stop().await.unwrap();
}
