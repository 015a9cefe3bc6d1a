//! Releases beside the live one, as far as one controller without agents comes with them.

use super::*;

#[tokio::test]
async fn what_runs_beside_is_asked_for_listed_and_refused_in_words() {
    let api = Fixture::with_apps().await;
    let source = api.upload("shop", archive(&[("index.html", "hello")])).await.1;
    let build = async |beside: Value| {
        let body = json!({"source": source["digest"], "beside": beside});
        api.call(Method::POST, "/v1/apps/shop/builds", body).await
    };
    let refused = build(json!({"share": 10})).await;
    assert!(refused.0 == 409 && refused.1.to_string().contains("no live release"), "{refused:?}");
    let refused = build(json!({"share": 100})).await;
    assert!(refused.0 == 400 && refused.1.to_string().contains("100 %"), "{refused:?}");
    let refused = build(json!({"shares": 1})).await;
    assert!(refused.0 == 400 && refused.1.to_string().contains("shares"), "{refused:?}");
    let preview = build(json!({})).await;
    assert_eq!(preview.0, 200, "{preview:?}");

    let all = api.call(Method::GET, "/v1/apps/shop/beside", None).await.1;
    assert_eq!(
        (&all[0]["build"], &all[0]["state"], &all[0]["share"], &all[0]["servos"]),
        (&preview.1["id"], &json!("building"), &json!(0), &json!(1)),
        "{all}"
    );
    for (method, path, body, status, part) in [
        (Method::PUT, "/v1/apps/shop/beside/v1", json!({"share": 5}), 409, "no live release"),
        (Method::PUT, "/v1/apps/shop/beside/v1", json!({}), 404, "no release v1"),
        (Method::PUT, "/v1/apps/shop/beside/one", json!({}), 400, "one"),
        (Method::PUT, "/v1/apps/shop/beside/v1", json!({"servos": 0}), 400, "1 to 1000 servos"),
        (Method::DELETE, "/v1/apps/shop/beside/v1", json!({}), 404, "does not run beside"),
        (Method::POST, "/v1/apps/shop/beside/v1/promote", json!({}), 404, "does not run beside"),
        (Method::GET, "/v1/apps/nope/beside", json!({}), 404, "nope"),
    ] {
        let refused = api.call(method, path, body).await;
        assert!(refused.0 == status && refused.1.to_string().contains(part), "{path} {part}: {refused:?}");
    }
    let taken = api.call(Method::POST, "/v1/apps", json!({"name": "shop--v7"})).await;
    assert!(taken.0 == 409 && taken.1.to_string().contains("where v7 of app shop is reached"), "{taken:?}");
}
