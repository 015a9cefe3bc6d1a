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
    assert!(refused.0 == 400 && refused.1.to_string().contains("not that of the first"), "{refused:?}");
    let taken = api.call(Method::POST, "/v1/certificates", json!({"chain": chain, "key": key})).await;
    assert_eq!((taken.0, &taken.1["names"], &taken.1["origin"]), (200, &json!(["a.example"]), &json!("uploaded")));
    let listed = api.call(Method::GET, "/v1/certificates", None).await.1;
    assert_eq!(listed, json!([taken.1]));
    assert!(!listed.to_string().contains("PRIVATE"));
    let path = format!("/v1/certificates/{}", taken.1["fingerprint"].as_str().unwrap());
    assert_eq!(api.call(Method::DELETE, &path, None).await.0, 200);
    assert_eq!(api.call(Method::DELETE, &path, None).await.0, 404);
}
