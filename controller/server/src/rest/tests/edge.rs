//! Domains, settings of traffic and certificates.

use super::*;

#[tokio::test]
async fn domains_are_added_listed_and_removed_by_whose_they_are() {
    let api = Fixture::with_apps().await;
    let add = async |app: &str, domain: &str| {
        api.call(Method::POST, &format!("/v1/apps/{app}/domains"), json!({"domain": domain})).await
    };
    assert_eq!(add("shop", "Shop.Example.org/").await.0, 200);
    assert_eq!(add("blog", "*.example.org").await.0, 200);
    let taken = add("blog", "shop.example.org").await;
    assert!(taken.0 == 409 && taken.1.to_string().contains("belongs to app shop"), "{taken:?}");
    let bad = add("blog", "https://a.b").await;
    assert!(bad.0 == 400 && bad.1.to_string().contains("without http://"), "{bad:?}");
    assert_eq!(add("nope", "a.b").await.0, 404);
    for unfit in ["1.2.3.4", "[::1]", "bad_name.org", "localhost", "a.7"] {
        assert_eq!(add("shop", unfit).await.0, 400, "{unfit}");
    }
    for own in ["shop.localhost", "shop.localhost/a", "shop--v3.localhost", "blog.localhost"] {
        let refused = add("shop", own).await;
        assert!(refused.0 == 409 && refused.1.to_string().contains("choose another host name"), "{refused:?}");
    }
    for (app, already) in [("twice", false), ("twice", true)] {
        let added = add("blog", &format!("{app}.example")).await;
        assert_eq!((added.0, &added.1["already"]), (200, &json!(already)), "{added:?}");
    }
    assert_eq!(api.call(Method::DELETE, "/v1/apps/blog/domains?domain=twice.example", None).await.0, 200);

    let names = |list: &Value| -> Vec<String> {
        list.as_array()
            .unwrap()
            .iter()
            .map(|row| format!("{}={}", row["domain"], row["app"]).replace('"', ""))
            .collect()
    };
    let all = api.call(Method::GET, "/v1/domains", None).await.1;
    assert_eq!(names(&all), ["*.example.org=blog", "shop.example.org=shop"]);
    let one = api.call(Method::GET, "/v1/domains?app=shop", None).await.1;
    assert_eq!(names(&one), ["shop.example.org=shop"]);
    let shop = api.token(&["deploy:shop"], None).await.1;
    assert_eq!(names(&api.ask("GET", "/v1/domains", Some(&shop), None, HERE).await.body), ["shop.example.org=shop"]);
    assert_eq!(api.ask("GET", "/v1/domains?app=blog", Some(&shop), None, HERE).await.status, 403);
    // What lies in the midst of another app's host takes more than one's own scope.
    let mine = async |token: &str, domain: &str| {
        let body = Some(json!({"domain": domain}));
        api.ask("POST", "/v1/apps/shop/domains", Some(token), body, HERE).await.status
    };
    let both = api.token(&["deploy:shop", "deploy:blog"], None).await.1;
    for (domain, alone) in [("x.example.org", 403), ("shop.example.org/pay", 200), ("example.org", 200)] {
        assert_eq!(mine(&shop, domain).await, alone, "{domain}");
        assert_eq!(mine(&both, domain).await, 200, "{domain}");
        let path = format!("/v1/apps/shop/domains?domain={domain}");
        assert_eq!(api.call(Method::DELETE, &path, None).await.0, 200);
    }
    let shown = api.call(Method::GET, "/v1/apps/shop", None).await.1;
    assert_eq!(shown["domains"], json!(["shop.localhost", "shop.example.org"]));

    assert_eq!(api.call(Method::DELETE, "/v1/apps/blog/domains?domain=shop.example.org", None).await.0, 404);
    assert_eq!(api.call(Method::DELETE, "/v1/apps/shop/domains?domain=shop.example.org", None).await.0, 200);
    assert_eq!(names(&api.call(Method::GET, "/v1/domains", None).await.1), ["*.example.org=blog"]);
}

#[tokio::test]
async fn settings_of_traffic_are_changed_by_name() {
    let api = Fixture::with_apps().await;
    let path = "/v1/apps/shop/traffic";
    let defaults = api.call(Method::GET, path, None).await.1;
    assert_eq!(
        (&defaults["version"], &defaults["hold_ms"], &defaults["affinity"]),
        (&json!(0), &json!(10_000), &json!(false))
    );
    assert_eq!(api.call(Method::PATCH, path, json!({"rate": 7})).await.0, 200);
    let changed = api.call(Method::PATCH, path, json!({"maintenance": true})).await;
    assert_eq!(changed.0, 200);
    let now = api.call(Method::GET, path, None).await.1;
    assert_eq!((&now["rate"], &now["maintenance"], &now["version"]), (&json!(7), &json!(true), &changed.1["index"]));
    for (body, status, part) in [
        (json!({}), 400, "nothing to change"),
        (json!({"colour": 1}), 400, "is no setting"),
        (json!({"hold_ms": 90_000}), 400, "hold_ms is 90000"),
        (json!({"rate": 1, "version": 0}), 409, "changed by someone else"),
    ] {
        let refused = api.call(Method::PATCH, path, body).await;
        assert!(refused.0 == status && refused.1.to_string().contains(part), "{part}: {refused:?}");
    }
    let again =
        api.call(Method::PATCH, path, json!({"rate": null, "maintenance": null, "version": now["version"]})).await;
    assert_eq!(again.0, 200);
    assert_eq!(api.call(Method::GET, path, None).await.1, defaults);
}

#[tokio::test]
async fn a_certificate_is_checked_listed_without_its_key_and_removed() {
    let api = Fixture::with_apps().await;
    let made = rcgen::generate_simple_self_signed(["a.example".to_owned()]).unwrap();
    let (chain, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    let other = rcgen::KeyPair::generate().unwrap().serialize_pem();
    let refused = api.call(Method::POST, "/v1/certificates", json!({"chain": chain, "key": other})).await;
    assert!(refused.0 == 400 && refused.1.to_string().contains("that of no certificate of the chain"), "{refused:?}");
    let mut taken = api.call(Method::POST, "/v1/certificates", json!({"chain": chain, "key": key})).await;
    assert!(taken.1["note"].as_str().unwrap().contains("signed by itself"), "{taken:?}");
    taken.1.as_object_mut().unwrap().remove("note");
    assert_eq!((taken.0, &taken.1["names"], &taken.1["origin"]), (200, &json!(["a.example"]), &json!("uploaded")));
    let listed = api.call(Method::GET, "/v1/certificates", None).await.1;
    assert_eq!(listed, json!([taken.1]));
    assert!(!listed.to_string().contains("PRIVATE"));
    let path = format!("/v1/certificates/{}", taken.1["fingerprint"].as_str().unwrap());
    assert_eq!(api.call(Method::DELETE, &path, None).await.0, 200);
    assert_eq!(api.call(Method::DELETE, &path, None).await.0, 404);
}

#[tokio::test]
async fn certificates_are_ordered_where_it_is_set_and_no_key_is_in_any_answer() {
    let api = Fixture::with_apps().await;
    let shown = async || api.call(Method::GET, "/v1/acme", None).await.1;
    let off = shown().await;
    assert_eq!((&off["on"], &off["directory"], &off["names"]), (&json!(false), &Value::Null, &json!([])));
    for domain in ["a.example", "*.b.example", "x.c.example", "not.example"] {
        let body = json!({"domain": domain});
        assert_eq!(api.call(Method::POST, "/v1/apps/shop/domains", body).await.0, 200);
    }
    let made = rcgen::generate_simple_self_signed(["*.c.example".to_owned()]).unwrap();
    let (chain, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    assert_eq!(api.call(Method::POST, "/v1/certificates", json!({"chain": chain, "key": key})).await.0, 200);
    let states = |list: &Value| -> Vec<String> {
        let state = |row: &Value| format!("{}={}", row["host"].as_str().unwrap(), row["certificate"].as_str().unwrap());
        list["names"].as_array().unwrap().iter().map(state).collect()
    };
    assert_eq!(
        states(&shown().await),
        ["*.b.example=wildcard", "a.example=none", "not.example=none", "x.c.example=uploaded"]
    );

    for (body, part) in [
        (json!({"email": "you@a.example"}), "agrees to its terms"),
        (json!({"email": "you", "agree_tos": true}), "no e-mail address"),
        (
            json!({"email": "you@a.example", "agree_tos": true, "directory": "http://a/dir"}),
            "no URL of an ACME directory",
        ),
        (json!({"email": "you@a.example", "agree_tos": true, "eab_kid": "k"}), "belong together"),
        (json!({"email": "you@a.example", "agree_tos": true, "eab_kid": "k", "eab_hmac": "?"}), "is not base64url"),
        (json!({"email": "you@a.example", "agree_tos": true, "authority": "x"}), "no CERTIFICATE in it"),
        (json!({"email": "you@a.example", "agree_tos": true, "colour": 1}), "colour"),
    ] {
        let refused = api.call(Method::PUT, "/v1/acme", body).await;
        assert!(refused.0 == 400 && refused.1.to_string().contains(part), "{part}: {refused:?}");
    }
    let secret = "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0";
    let body = json!({
        // Of TEST-NET: nobody answers.
        "directory": "https://192.0.2.1/dir", "email": "you@a.example", "agree_tos": true,
        "eab_kid": "kid-1", "eab_hmac": secret, "except": ["Not.example."],
    });
    assert_eq!(api.call(Method::PUT, "/v1/acme", body).await.0, 200);
    let on = shown().await;
    assert_eq!(
        (&on["on"], &on["directory"], &on["eab_kid"], &on["except"]),
        (&json!(true), &json!("https://192.0.2.1/dir"), &json!("kid-1"), &json!(["not.example"]))
    );
    assert_eq!(states(&on), ["*.b.example=wildcard", "a.example=waits", "not.example=none", "x.c.example=uploaded"]);
    let domains = api.call(Method::GET, "/v1/domains", None).await.1;
    assert_eq!((&domains[1]["domain"], &domains[1]["certificate"]), (&json!("a.example"), &json!("waits")));
    for path in ["/v1/acme", "/v1/domains", "/v1/certificates"] {
        let text = api.call(Method::GET, path, None).await.1.to_string();
        assert!(!text.contains(secret) && !text.contains("PRIVATE"), "{path}: {text}");
    }

    let nothing = api.call(Method::POST, "/v1/acme/retry", json!({})).await;
    assert!(nothing.0 == 400 && nothing.1.to_string().contains("no order has failed"), "{nothing:?}");
    let failed = |host: &str| {
        let trouble =
            Some(pontoon_model::Trouble { failures: 3, error: "why not".into(), at: pontoon_model::Timestamp(1) });
        let (begun_at, next_try) = (pontoon_model::Timestamp(1), pontoon_model::Timestamp(u64::MAX));
        let order = pontoon_model::OrderRow { host: host.into(), trouble, begun_at, next_try };
        pontoon_core::Command::from(pontoon_core::command::NoteOrder { host: host.into(), order: Some(order) })
    };
    api.api.propose_all(extract::Key::none(), vec![failed("a.example")]).await.unwrap();
    let waits = &shown().await["names"][1];
    assert_eq!((&waits["error"], &waits["next"]), (&json!("why not"), &json!(u64::MAX)));
    let other = api.call(Method::POST, "/v1/acme/retry", json!({"host": "b.example"})).await;
    assert!(other.0 == 400 && other.1.to_string().contains("no order for b.example"), "{other:?}");
    assert_eq!(api.call(Method::POST, "/v1/acme/retry", json!({"host": "a.example"})).await.0, 200);
    assert_eq!(shown().await["names"][1]["error"], Value::Null);
    assert_eq!(api.call(Method::DELETE, "/v1/acme", None).await.0, 200);
    assert_eq!(shown().await["on"], json!(false));
}

/// Every field of an event's row is that of the answer.
fn agrees(row: &Value, answer: &Value) {
    for (name, value) in row.as_object().unwrap() {
        assert_eq!(value, &answer[name], "{name} of {row}");
    }
}

#[tokio::test]
async fn events_tell_of_all_that_balancers_know_of_an_app_with_the_fields_of_its_answers_and_without_a_secret() {
    let api = Fixture::with_apps().await;
    let source = api.upload("shop", archive(&[("index.html", "hello")])).await.1;
    let made = rcgen::generate_simple_self_signed(["a.example".to_owned()]).unwrap();
    let (chain, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    for (method, path, body) in [
        (Method::POST, "/v1/apps/shop/domains", json!({"domain": "a.example/b"})),
        (Method::PATCH, "/v1/apps/shop/traffic", json!({"maintenance": true, "maintenance_page": "<p>soon</p>"})),
        (Method::POST, "/v1/apps/shop/ports", json!({"process": "tcp-mqtt", "proxy_protocol": "v2"})),
        (Method::POST, "/v1/apps/shop/builds", json!({"source": source["digest"], "beside": {}})),
        (Method::POST, "/v1/certificates", json!({"chain": chain, "key": key})),
    ] {
        let done = api.call(method, path, body).await;
        assert_eq!(done.0, 200, "{path}: {done:?}");
    }
    let answer = async |path: &str| api.call(Method::GET, path, None).await.1;
    let (domains, ports) = (answer("/v1/domains").await, answer("/v1/ports").await);
    let (mut traffic, mut beside) = (answer("/v1/apps/shop/traffic").await, answer("/v1/apps/shop/beside").await);
    for (method, path) in
        [(Method::DELETE, "/v1/apps/shop/domains?domain=a.example/b"), (Method::DELETE, "/v1/apps/shop/ports/10000")]
    {
        assert_eq!(api.call(method, path, None).await.0, 200, "{path}");
    }
    let defaults = json!({"maintenance": null, "maintenance_page": null});
    assert_eq!(api.call(Method::PATCH, "/v1/apps/shop/traffic", defaults).await.0, 200);
    let (read, shop) = (api.token(&["read"], None).await.1, api.token(&["deploy:shop"], None).await.1);
    api.call(Method::PATCH, "/v1/apps/shop/labels", json!({"set": {"last": "one"}})).await;

    let all = api.events(&read).await;
    let rows = |table: &str, key: &str| -> Vec<Value> {
        let of = all.iter().filter(|change| change["table"] == table && change["key"] == key);
        of.map(|change| change["row"].clone()).collect()
    };
    for (table, key, answer) in [("domains", "a.example/b", &domains[0]), ("ports", "shop/tcp-mqtt", &ports[0])] {
        let rows = rows(table, key);
        assert_eq!((rows.len(), &rows[1]), (2, &Value::Null), "{table}: {rows:?}");
        agrees(&rows[0], answer);
    }
    let told = rows("traffic", "shop");
    assert_eq!((told.len(), &told[0]["maintenance"], &told[1]), (2, &json!(true), &Value::Null), "{told:?}");
    traffic["app"] = json!("shop");
    agrees(&told[0], &traffic);
    assert!(told[0].get("maintenance_page").is_none() && told[0].get("error_page").is_none(), "{told:?}");
    let told = rows("beside", "shop");
    assert_eq!((told.len(), &told[0]["app"]), (1, &json!("shop")), "{told:?}");
    // How many servos follow from its share.
    beside[0]["servos"] = Value::Null;
    agrees(&told[0]["beside"][0], &beside[0]);
    let certificate = all.iter().find(|change| change["table"] == "certificates").unwrap();
    assert_eq!(certificate["row"]["names"], json!(["a.example"]));
    let text = serde_json::to_string(&all).unwrap();
    let secret = key.lines().nth(1).unwrap();
    assert!(!text.contains("PRIVATE") && !text.contains(secret) && !text.contains("sealed"), "{text}");

    // Whoever may see the app alone is told of all of that, and not of the certificate.
    let own = api.events(&shop).await;
    for table in ["domains", "ports", "traffic", "beside"] {
        let of = |all: &[Value]| all.iter().filter(|change| change["table"] == table).count();
        assert_eq!(of(&own), of(&all), "{table}");
    }
    assert!(own.iter().all(|change| change["table"] != "certificates"), "{own:?}");
}
