//! What balancers tell of requests, asked for at another controller than the one they are connected to.

use pontoon_kit::{Credentials, Role, rpc};
use pontoon_model::{ServoId, Timestamp};
use pontoon_proto::services::balancers_client::BalancersClient;
use pontoon_proto::{
    AppReport, BalancerDirective, BalancerMessage, RequestCounts, RequestLine, RequestReport, ServoLoad, TailChunk,
    TailRequest, known,
};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Streaming};

use super::fake_balancer::hello;
use super::nodes::{Cluster, until};

/// A session of a balancer that tells of requests.
struct Session {
    outbox: mpsc::Sender<BalancerMessage>,
    inbound: Streaming<BalancerDirective>,
}

impl Session {
    async fn open(cluster: &Cluster, node: usize, name: &str) -> Self {
        let credentials = Credentials::new(cluster.authority.issue(Role::Balancer, name).unwrap()).unwrap();
        let channel = rpc::channel(cluster.grpc(node), Role::Controller, &credentials).unwrap();
        let (outbox, outbound) = mpsc::channel(16);
        outbox.send(BalancerMessage::Hello(hello(name, 0))).await.unwrap();
        let mut request = Request::new(ReceiverStream::new(outbound));
        request.metadata_mut().insert(known::READS, known::REQUESTS.parse().unwrap());
        let opened = BalancersClient::new(channel).session(request).await.unwrap();
        assert_eq!(opened.metadata().get(known::READS).unwrap(), known::REQUESTS, "the controller says what it reads");
        Self { outbox, inbound: opened.into_inner() }
    }

    /// The next directive that is no table.
    async fn next(&mut self) -> BalancerDirective {
        loop {
            let bound = std::time::Duration::from_secs(20);
            let directive = tokio::time::timeout(bound, self.inbound.message()).await.expect("a directive");
            match directive.unwrap().expect("the session goes on") {
                BalancerDirective::Table(_) | BalancerDirective::Delta(_) => {}
                directive => return directive,
            }
        }
    }

    async fn report(&self, requests: u64) {
        let mut counts = RequestCounts { requests, statuses: [0, requests, 0, 0, 0], ..RequestCounts::default() };
        counts.latency[0] = requests;
        let servos = vec![ServoLoad { servo: ServoId(1), in_flight: 2, ejected: true }];
        let app = AppReport { app: "site".parse().unwrap(), counts, in_flight: 3, servos };
        self.outbox.send(BalancerMessage::Requests(RequestReport { apps: vec![app] })).await.unwrap();
    }
}

fn line(status: u16) -> RequestLine {
    RequestLine {
        at: Timestamp(9),
        client: "10.0.0.1".into(),
        method: "GET".into(),
        host: "site.localhost".into(),
        path: "/".into(),
        protocol: "http/1.1".into(),
        status,
        bytes: 5,
        micros: 1_500,
        servo: Some(ServoId(1)),
        request_id: None,
    }
}

/// Waits until controller 0 says so many requests.
async fn counted(cluster: &Cluster, wanted: u64, complete: bool) -> Value {
    until("the requests to be counted", async || {
        let requests: Value = cluster.get(0, "/v1/apps/site/requests").await;
        // Long enough for a busy machine.
        let found = requests["windows"][1]["requests"] == wanted && requests["complete"] == complete;
        if found { Ok(requests) } else { Err(requests.to_string()) }
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_controller_answers_for_all_balancers() {
    let mut cluster = Cluster::start(3).await;
    cluster.post(0, "/v1/apps", json!({"name": "site"})).await;
    let (one, other) = (Session::open(&cluster, 1, "lb1").await, Session::open(&cluster, 2, "lb2").await);
    one.report(20).await;
    other.report(30).await;
    let requests = counted(&cluster, 50, true).await;
    let window = &requests["windows"][1];
    assert_eq!((&window["statuses"]["2xx"], &window["seconds"]), (&json!(50), &json!(60)));
    assert!(window["rate"].as_f64().is_some_and(|rate| (rate - 50.0 / 60.0).abs() < 1e-9), "{window}");
    assert!(window["p99_ms"].as_f64().is_some_and(|ms| ms > 0.0 && ms <= 1.0), "{window}");
    assert_eq!((&requests["in_flight"], requests["balancers"].as_array().unwrap().len()), (&json!(6), 2));
    let routes = cluster.get(0, "/v1/routes?load=true").await;
    assert!(routes[0]["rate"].is_number() && routes[0]["in_flight"].is_number(), "{routes}");
    assert!(cluster.get(0, "/v1/routes").await[0].get("rate").is_none());

    // A balancer goes to another controller: what it told before is not forgotten, and not counted twice.
    drop(other);
    let other = Session::open(&cluster, 1, "lb2").await;
    other.report(5).await;
    counted(&cluster, 55, true).await;
    cluster.stop(2).await;
    let left = counted(&cluster, 25, false).await;
    assert_eq!(left["balancers"].as_array().unwrap().len(), 2, "{left}");
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_are_shown_to_who_looks_at_any_controller_and_nobody_is_asked_otherwise() {
    let cluster = Cluster::start(3).await;
    cluster.post(0, "/v1/apps", json!({"name": "site"})).await;
    let mut early = Session::open(&cluster, 1, "lb1").await;
    let mut tail = cluster.open(0, "/v1/apps/site/requests/tail?status=5xx").await;
    let wanted = TailRequest { app: "site".parse().unwrap(), status_from: 500, status_to: 599 };
    let stream_of = |directive| match directive {
        BalancerDirective::TailWanted { stream, request } if request == wanted => stream,
        other => panic!("{other:?}"),
    };
    let stream = stream_of(early.next().await);
    // One that comes later is asked too.
    let mut late = Session::open(&cluster, 2, "lb2").await;
    let later = stream_of(late.next().await);

    let chunk = |stream, status, left_out| {
        BalancerMessage::Tail(TailChunk { stream, balancer: None, lines: vec![line(status)], left_out })
    };
    early.outbox.send(chunk(stream, 500, 0)).await.unwrap();
    let first: Value = serde_json::from_str(&tail.next_line().await).unwrap();
    assert_eq!(
        (&first["status"], &first["balancer"], &first["ms"]),
        (&json!(500), &json!("lb1"), &json!(1.5)),
        "{first}"
    );
    late.outbox.send(chunk(later, 503, 7)).await.unwrap();
    let second: Value = serde_json::from_str(&tail.next_line().await).unwrap();
    assert_eq!((&second["status"], &second["balancer"]), (&json!(503), &json!("lb2")), "{second}");
    let third: Value = serde_json::from_str(&tail.next_line().await).unwrap();
    assert_eq!(third, json!({"balancer": "lb2", "left_out": 7}));

    drop(tail);
    for (session, stream) in [(&mut early, stream), (&mut late, later)] {
        assert_eq!(session.next().await, BalancerDirective::TailUnwanted { stream });
    }
    let wrong = cluster.try_get(0, "/v1/apps/site/requests/tail?status=700").await.unwrap_err();
    assert!(wrong.contains("is no status"), "{wrong}");
    cluster.stop_all().await;
}
