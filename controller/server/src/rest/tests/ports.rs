//! Ports of balancers at which processes are reached that do not speak HTTP.

use pontoon_core::command;
use pontoon_proto::PortReport;

use super::*;

#[tokio::test]
async fn ports_are_added_listed_with_what_balancers_say_of_them_and_removed() {
    let api = Fixture::with_apps().await;
    let (name, site) = ("lb".parse().unwrap(), "east".parse().unwrap());
    let listen = "127.0.0.1:8000".parse().unwrap();
    let balancer = command::RegisterBalancer { name, site, listen };
    api.api.propose(extract::Key::none(), balancer).await.unwrap();
    let add = async |app: &str, body: Value| api.call(Method::POST, &format!("/v1/apps/{app}/ports"), body).await;
    let made = add("shop", json!({})).await;
    assert_eq!((made.0, &made.1["port"], &made.1["process"]), (200, &json!(10_000), &json!("tcp")), "{made:?}");
    assert_eq!((&made.1["proxy_protocol"], &made.1["connections"]), (&json!("off"), &json!(1_000)));
    let second = add("shop", json!({"process": "tcp-mqtt", "port": 10_500, "proxy_protocol": "v2"})).await;
    assert_eq!((second.0, &second.1["port"], &second.1["proxy_protocol"]), (200, &json!(10_500), &json!("v2")));
    for (app, body, status, part) in [
        ("blog", json!({"port": 10_500}), 409, "leads to tcp-mqtt of shop"),
        ("blog", json!({"port": 8_000}), 409, "lb answers HTTP"),
        ("blog", json!({"process": "web"}), 400, "name the process"),
        ("blog", json!({"idle_ms": 5}), 400, "idle_ms is 5"),
        ("blog", json!({"prot": 5}), 400, "prot"),
        ("nope", json!({}), 404, "nope"),
    ] {
        let refused = add(app, body).await;
        assert!(refused.0 == status && refused.1.to_string().contains(part), "{part}: {refused:?}");
    }
    // Ports of the range are for everybody, others are the cluster's.
    let blog = api.token(&["deploy:blog"], None).await.1;
    let mine = async |port: u16| {
        api.ask("POST", "/v1/apps/blog/ports", Some(&blog), Some(json!({"port": port})), HERE).await.status
    };
    assert_eq!((mine(5_432).await, mine(10_999).await), (403, 200));

    let reports =
        vec![PortReport { port: 10_000, problem: None }, PortReport { port: 10_500, problem: Some("taken".into()) }];
    api.api.heard.balancer_ports(&"lb".parse().unwrap(), reports);
    let all = api.call(Method::GET, "/v1/ports", None).await.1;
    let ports: Vec<_> = all.as_array().unwrap().iter().map(|row| row["port"].as_u64().unwrap()).collect();
    assert_eq!(ports, [10_000, 10_500, 10_999]);
    assert_eq!(all[0]["balancers"], json!([{"balancer": "lb", "listening": true}]));
    assert_eq!(all[1]["balancers"], json!([{"balancer": "lb", "listening": false, "problem": "taken"}]));
    assert_eq!(all[2]["balancers"], json!([]));
    let own = api.ask("GET", "/v1/ports", Some(&blog), None, HERE).await.body;
    assert_eq!((own.as_array().unwrap().len(), &own[0]["app"]), (1, &json!("blog")));
    assert_eq!(api.ask("GET", "/v1/ports?app=shop", Some(&blog), None, HERE).await.status, 403);

    assert_eq!(api.call(Method::DELETE, "/v1/apps/blog/ports/10000", None).await.0, 404);
    assert_eq!(api.call(Method::DELETE, "/v1/apps/shop/ports/many", None).await.0, 400);
    assert_eq!(api.call(Method::DELETE, "/v1/apps/shop/ports/10000", None).await.0, 200);
    let left = api.call(Method::GET, "/v1/ports?app=shop", None).await.1;
    assert_eq!((left.as_array().unwrap().len(), &left[0]["port"]), (1, &json!(10_500)));
}
